"""The panel's last tab: put a system together and train it in another process."""

import contextlib
import html
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from helpers import encoders, losses, plotting, systems, training
from helpers.config import ROOT, Settings
from helpers.data import Tiles
from helpers.panel import charts
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
    """Menus for a system, and buttons; calls `add` with the finished `runs.Run`."""

    def __init__(self, tiles: Tiles, settings: Settings, add: Callable) -> None:
        self.tiles, self.settings, self.add = tiles, settings, add
        self.process: subprocess.Popen | None = None
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
        self.stop = widgets.Button(description="stop after epoch", disabled=True)
        self.cost, self.state = widgets.HTML(), widgets.HTML()
        self.image = widgets.Image(layout=charts.LAYOUT)
        top = (*self.menus.values(), widgets.HTML(HELP), self.cost)
        self.box = widgets.VBox([*top, self.train, self.stop, self.state, self.image])
        self.train.on_click(self._start)
        self.stop.on_click(lambda _: self.process and self.process.terminate())

    @property
    def system(self) -> systems.System:
        """The system that the menus describe, within the profile's encoder budget."""
        encoder, weights, loss, epochs, parts = (m.value for m in self.menus.values())
        weights = "none" if encoder == "scratch" else weights
        options = {part: PARTS[part][0] for part in parts}
        outputs = [part for part in ("gate", "deep_supervision") if part in parts]
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

    def draw(self, _: Any = None) -> None:
        """Estimate what the system costs; refuse one that cannot be built."""
        self.train.disabled = self.process is not None
        try:
            parameters, seconds = training.cost(self.system, self.tiles, self.settings)
            cost = f"{parameters / 1e6:.2f} M parameters, {duration(seconds)} to train"
        except ValueError as error:
            self.train.disabled, cost = True, str(error)
        self.cost.value = html.escape(f"{self.system.name}: {cost}")

    def _start(self, _: Any) -> None:
        """Start a process, which outlives the kernel; a stopped run is resumed."""
        settings = self.settings
        row = settings.output_dir / "rows" / f"{self.system.name}.json"
        write_system(self.system, row)
        command: list[Any] = [sys.executable, "-m", "helpers", "train", row]
        command += ["--data-dir", settings.data, "--output-dir", settings.output_dir]
        command += ["--profile", settings.profile.name]
        log = row.with_suffix(".log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
        self.process, self.train.disabled, self.stop.disabled = process, True, False
        self.state.value = "training: the score is drawn after every epoch"
        threading.Thread(target=self._follow, args=(process, log), daemon=True).start()

    def _follow(self, process: subprocess.Popen, log: Path) -> None:
        """Draw the score of each epoch until the training ends."""
        run = Run(self.settings.runs_dir / log.stem / "fold-0")
        while process.poll() is None:
            time.sleep(1)
            with contextlib.suppress(OSError):  # not there yet, or just moved aside
                history = run.history()
                figure = Figure(figsize=(5, 3), dpi=80, layout="constrained")
                plotting.draw_curves(figure.subplots(), {"": history}, "score")
                self.image.value = charts.png(figure)
        self.process, self.train.disabled, self.stop.disabled = None, False, True
        *_, message = ["", *log.read_text(errors="replace").splitlines()]
        self.state.value = html.escape(message)
        if process.returncode == 0:
            self.add(run)
