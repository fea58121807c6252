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
from typing import Any

import ipywidgets as widgets

from helpers import encoders, losses, plotting, systems
from helpers.config import ROOT, Settings
from helpers.panel import charts
from helpers.training.plans import write_system
from helpers.training.runs import Run

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

    def __init__(self, settings: Settings, add: Callable) -> None:
        self.settings, self.add = settings, add
        self.process: Any = None  # while it trains a system
        self.menus = {
            "encoder": widgets.Dropdown(options=list(encoders.ENCODERS)),
            "weights": widgets.Dropdown(options=["none", "imagenet"]),
            "loss": widgets.Dropdown(options=list(losses.LOSSES)),
            "epochs": widgets.BoundedIntText(3, min=1, max=500),
        }
        for name, menu in self.menus.items():
            menu.description = name
        self.train = widgets.Button(description="train", button_style="success")
        self.stop = widgets.Button(description="stop after epoch")
        self.note, self.state = widgets.HTML(), widgets.HTML()
        self.image = widgets.Image(layout=charts.LAYOUT)
        buttons = widgets.HBox([self.train, self.stop])
        below = [buttons, self.note, self.state, self.image]
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
    def _start(self) -> None:
        """Start a process, which outlives the kernel; a stopped run is resumed."""
        if self.process:
            raise ValueError("a system is being trained: wait for it, or stop it")
        system, settings = self.system, self.settings
        row = settings.output_dir / "rows" / f"{system.name}.json"
        write_system(system, row)
        command: list[Any] = [sys.executable, "-m", "helpers", "train", row]
        command += ["--data-dir", settings.data, "--profile", settings.profile.name]
        command += ["--output-dir", settings.output_dir]
        self.log = row.with_suffix(".log")
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
        self.run = Run(settings.runs_dir / system.name / "fold-0")
        threading.Thread(target=self._follow, daemon=True).start()

    @answering
    def _stop(self) -> None:
        if not self.process:
            raise ValueError("nothing is being trained from here")
        self.process.terminate()

    def _follow(self) -> None:
        """Say and draw how far the training is until it ends, and add its run."""
        while self.process.poll() is None:
            time.sleep(1)
            with contextlib.suppress(Exception):  # not there yet, or half written
                self._say()
                figure, history = charts.blank(3), self.run.history()
                plotting.draw_curves(figure.subplots(), {"": history}, "score")
                self.image.value = charts.png(figure)
        self._finish()
        self.process = None

    @answering
    def _finish(self) -> None:
        self._say()
        if self.process.returncode == 0:
            self.add(self.run)

    def _say(self) -> None:
        """Show the last line that the process has printed, and how it ended."""
        lines = self.log.read_text(errors="replace").splitlines()
        *_, said = ["", *filter(str.isprintable, lines)]  # which no progress bar is
        if status := self.process.returncode:
            said = f"ended, {status}; train it again to go on. {said}"
        self.state.value = html.escape(f"{self.log.stem}: {said}")
