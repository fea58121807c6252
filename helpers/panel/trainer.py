"""The panel's last tab: put a system together and train it in another process."""

import contextlib
import functools
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

from helpers import encoders, losses, plotting, systems, training
from helpers.config import ROOT, Settings
from helpers.data import Tiles
from helpers.panel import charts
from helpers.training.callbacks import duration
from helpers.training.runs import Run, write_system

TURN = threading.RLock()  # one control at a time: a finished training run is one, too


def answering(handler: Callable) -> Callable:
    """Make a method a control's handler, which writes what goes wrong into `note`."""

    @functools.wraps(handler)
    def answer(self: Any, _: Any = None) -> None:
        with TURN:
            self.note.value = ""
            try:
                handler(self)
            except Exception as error:
                self.note.value = f"<b>{html.escape(str(error) or repr(error))}</b>"

    return answer


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
        }
        for name, menu in self.menus.items():
            menu.description = name
            menu.observe(self.draw, "value")
        self.train = widgets.Button(description="train", button_style="success")
        self.stop = widgets.Button(description="stop after epoch")
        self.cost, self.note, self.state = (widgets.HTML() for _ in range(3))
        self.image = widgets.Image(layout=charts.LAYOUT)
        buttons = widgets.HBox([self.train, self.stop])
        below = [self.cost, buttons, self.note, self.state, self.image]
        self.box = widgets.VBox([*self.menus.values(), *below])
        self.train.on_click(self._start)
        self.stop.on_click(self._stop)

    @property
    def system(self) -> systems.System:
        """The system that the menus describe, within the profile's encoder budget."""
        encoder, weights, loss, epochs = (menu.value for menu in self.menus.values())
        row = replace(
            systems.get(systems.DEFAULT),
            name=f"my-{encoder}-{weights}-{loss}-{epochs}ep",
            title="made in the panel",
            network=systems.Network(encoder),
            stages=(systems.Stage(loss, epochs),),
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
        command += ["--data-dir", settings.data, "--profile", settings.profile.name]
        command += ["--output-dir", settings.output_dir]
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
        if status:
            said = f"{log.stem}: ended, {status}; train it again to go on. {said}"
        self._say(said)
        if status == 0:
            self.add(run)
