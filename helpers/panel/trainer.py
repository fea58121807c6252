"""The panel's last tab: put a system together and train it in another process."""

import contextlib
import html
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from helpers import encoders, losses, plotting, systems, training
from helpers.config import ROOT, Settings
from helpers.data import Tiles
from helpers.panel import charts
from helpers.panel.controls import answering
from helpers.training.callbacks import duration
from helpers.training.runs import Run, write_system

PARTS: dict[str, tuple[Any, str]] = {  # argument of `build_unet`: (value, meaning)
    "residual": (True, "blocks add their input to their output"),
    "center_block": (64, "one more, coarser stage"),
    "dilations": ((1, 3, 5), "parallel dilated convolutions see further"),
    "scse": (True, "channels and pixels are reweighted"),
    "hypercolumn": ((4, 8), "the last layer also reads coarser stages"),
    "gate": (True, "a second output says whether the tile has salt"),
    "deep_supervision": (True, "coarser stages are trained on the masks, too"),
}
HELP = "; ".join(f"<b>{name}</b>: {text}" for name, (_, text) in PARTS.items())


class Trainer:
    """Menus for a system, and buttons; calls `add` with each finished `runs.Run`."""

    def __init__(self, tiles: Tiles, settings: Settings, add: Callable) -> None:
        self.tiles, self.settings, self.add = tiles, settings, add
        self.processes: dict[str, subprocess.Popen] = {}  # by name of the system
        self.menus = {
            "encoder": widgets.Dropdown(options=list(encoders.ENCODERS)),
            "weights": widgets.Dropdown(options=["none", "imagenet"]),
            "loss": widgets.Dropdown(options=list(losses.LOSSES)),
            "epochs": widgets.BoundedIntText(3, min=1, max=500),
            "parts": widgets.SelectMultiple(options=list(PARTS), rows=len(PARTS)),
        }
        for name, menu in self.menus.items():
            menu.description = name
            menu.observe(self.draw, "value")
        self.train = widgets.Button(description="train", button_style="success")
        self.stop = widgets.Button(description="stop after epoch")
        self.cost, self.note, self.state = (widgets.HTML() for _ in range(3))
        self.image = widgets.Image(layout=charts.LAYOUT)
        top = (*self.menus.values(), widgets.HTML(HELP), self.cost)
        buttons = widgets.HBox([self.train, self.stop])
        self.box = widgets.VBox([*top, buttons, self.note, self.state, self.image])
        self.train.on_click(self._start)
        self.stop.on_click(self._stop)

    @property
    def system(self) -> systems.System:
        """The system that the menus describe, within the profile's encoder budget."""
        encoder, weights, loss, epochs, parts = (m.value for m in self.menus.values())
        weights = "none" if encoder == "scratch" else weights
        options = {part: PARTS[part][0] for part in parts}
        outputs = {"gate", "deep_supervision"}.intersection(parts)
        extra: dict[str, Any] = dict.fromkeys(outputs, 0.1)  # weights of their losses
        row = replace(
            systems.get(systems.DEFAULT),
            name="-".join(["my", encoder, weights, *parts, loss, f"{epochs}ep"]),
            title="made in the panel",
            network=systems.Network(encoder, **options),
            stages=(systems.Stage(loss, epochs, **extra),),
        )
        budget = replace(self.settings.profile.encoders, epochs=epochs)
        return row.with_weights(weights).within(budget)

    @answering
    def draw(self) -> None:
        """Estimate what the system costs; what cannot be built cannot be started."""
        self.train.disabled, self.cost.value = True, ""
        parameters, seconds = training.cost(self.system, self.tiles, self.settings)
        cost = f"{parameters / 1e6:.2f} M parameters, {duration(seconds)} to train"
        self.cost.value = html.escape(f"{self.system.name}: {cost}")
        self.train.disabled = False

    @answering
    def _start(self) -> None:
        """Start a process, which outlives the kernel; a stopped run is resumed."""
        system, settings = self.system, self.settings
        if system.name in self.processes:
            raise ValueError(f"{system.name} is being trained already")
        row = settings.output_dir / "rows" / f"{system.name}.json"
        write_system(system, row)
        command: list[Any] = [sys.executable, "-m", "helpers", "train", row]
        command += ["--data-dir", settings.data, "--output-dir", settings.output_dir]
        command += ["--profile", settings.profile.name]
        log = row.with_suffix(".log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
        self.processes[system.name] = process
        self._say(f"{system.name}: training; the score is drawn after every epoch")
        threading.Thread(target=self._follow, args=(process, log), daemon=True).start()

    @answering
    def _stop(self) -> None:
        if not self.processes:
            raise ValueError("nothing is being trained from here")
        for process in [*self.processes.values()]:
            process.terminate()

    def _say(self, text: str) -> None:
        self.state.value += f"{html.escape(text)}<br>"

    def _follow(self, process: subprocess.Popen, log: Path) -> None:
        """Draw the score of each epoch until the training ends, and add its run."""
        run = Run(self.settings.runs_dir / log.stem / "fold-0")
        while process.poll() is None:
            time.sleep(1)
            with contextlib.suppress(Exception):  # not there yet, or half written
                figure = charts.blank(3)
                plotting.draw_curves(figure.subplots(), {"": run.history()}, "score")
                self.image.value = charts.png(figure)
        answering(lambda self: self._finish(run, process.returncode, log))(self)
        del self.processes[log.stem]

    def _finish(self, run: Run, status: int, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()
        *_, said = ["", *filter(str.isprintable, lines)]  # which no progress bar is
        if status < 0:
            end = f"{log.stem}: ended by {signal.Signals(-status).name}"
            said = f"{end}: train it again, and it goes on after its last epoch"
        self._say(said or f"{log.stem}: ended with status {status}")
        if status == 0:
            self.add(run)
