"""The panel's last tab: choose the parts of a system, train it, watch, stop.

The training is a process of its own, `python -m helpers train row.json`, which the
panel starts and whose `history.csv` it reads. It goes on when the kernel is restarted
or the browser is closed, and a new panel finds it again.
"""

import contextlib
import html
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import ipywidgets as widgets
import pandas as pd
import psutil
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers import encoders, losses, systems, training
from helpers.config import ROOT, Budget, Settings
from helpers.panel import charts
from helpers.training.callbacks import duration
from helpers.training.runs import Run
from helpers.utils.files import DataError

if TYPE_CHECKING:  # which imports this module
    from helpers.panel.tabs import Panel

PARTS: dict[str, Any] = {  # of a decoder, see `unet.build_unet`
    "residual": True,
    "center_block": 64,
    "dilations": (1, 3, 5),
    "scse": True,
    "hypercolumn": (4, 8),
    "gate": True,
    "deep_supervision": True,
}
HELP = (
    "<b>residual</b>: blocks add to their input; "
    "<b>centre</b>: one more, coarser stage; "
    "<b>dilations</b>: convolutions with gaps, to see further; "
    "<b>scse</b>: channels and places turned down that do not matter; "
    "<b>hypercolumn</b>: the last layer sees coarser stages, too; "
    "<b>gate</b>: is there salt at all, asked of the whole tile; "
    "<b>deep</b>: coarser stages are trained to give masks, too. "
    "Ctrl-click (on a Mac: Cmd) chooses several, or none."
)
EVERY = 1.0  # seconds between two looks at a training


class Trainer:
    """Menus for encoder, decoder parts, loss and budget; and two buttons."""

    title, stale = "Train", True

    def __init__(self, panel: "Panel") -> None:
        self.panel = panel
        self.job: Job | None = None
        self.encoder = widgets.Dropdown(
            options=list(encoders.ENCODERS), description="encoder"
        )
        self.parts = widgets.SelectMultiple(
            options=list(PARTS), description="parts", rows=len(PARTS)
        )
        self.loss = widgets.Dropdown(options=list(losses.LOSSES), description="loss")
        self.weights = widgets.Dropdown(
            options=["none", "imagenet"], description="weights"
        )
        usual = panel.settings.profile.encoders
        self.size = widgets.Dropdown(
            options=[64, 128], value=usual.size, description="pixels"
        )
        self.epochs = widgets.BoundedIntText(
            value=3, min=1, max=500, description="epochs"
        )
        self.tiles = widgets.BoundedIntText(
            value=usual.tiles or 3000,
            min=8,
            max=4000,
            description="tiles at most",
            style={"description_width": "initial"},
        )
        self.start = widgets.Button(description="train", button_style="success")
        self.stop = widgets.Button(
            description="stop after this epoch",
            disabled=True,
            layout={"width": "200px"},
        )
        self.told, self.state = widgets.HTML(), widgets.HTML()
        self.picture = picture()
        self.picture.layout.visibility = "hidden"
        menus = (self.encoder, self.weights, self.loss, self.size)
        budget = (self.epochs, self.tiles)
        buttons = widgets.HBox([self.start, self.stop])
        self.box = widgets.VBox(
            [
                widgets.HBox([widgets.VBox(menus), self.parts, widgets.VBox(budget)]),
                *(widgets.HTML(HELP), self.told, buttons, self.state, self.picture),
            ]
        )
        for control in (*menus, self.parts, *budget):
            control.observe(self.draw, "value")
        self.start.on_click(self._start)
        self.stop.on_click(self._stop)
        for job in Job.alive(panel.settings):
            self._watch(job)

    def renew(self) -> None:
        """Nothing here depends on the runs that are compared."""

    @property
    def system(self) -> systems.System:
        """The `systems.System` that the menus say."""
        parts = {name: PARTS[name] for name in self.parts.value}
        small: dict[str, Any] = {}
        if self.encoder.value == "scratch":
            small = {"filters": 16, "depth": 4}
        network = systems.Network(self.encoder.value, **small, **parts)
        further: dict[str, Any] = {
            name: 0.1 for name in ("gate", "deep_supervision") if name in parts
        }
        stage = systems.Stage(self.loss.value, self.epochs.value, **further)
        cost = f"{self.size.value}px-{self.epochs.value}x{self.tiles.value}"
        made_of = [self.encoder.value, *parts, self.loss.value, self.weights.value]
        name = "-".join(["my", *made_of, cost]).replace("-none-", "-")
        row = replace(
            systems.get(systems.DEFAULT),
            name=name,
            title="made in the panel",
            network=network,
            stages=(stage,),
            batch_size=8,
        ).with_weights(self.weights.value)
        return row.within(Budget(self.epochs.value, self.size.value, self.tiles.value))

    def draw(self, _: Any = None) -> None:
        """Say what the system would cost."""
        try:
            if self.encoder.value == "scratch" and self.weights.value != "none":
                raise ValueError("the scratch encoder has no weights to borrow")
            parameters, _ = training.size_up(self.system)
            seconds = training.expected(self.system, self.panel.tiles)
        except ValueError as error:
            self.told.value, self.start.disabled = f"<b>{error}</b>", True
            return
        self.start.disabled = self.job is not None
        self.told.value = (
            f"<b>{self.system.name}</b>: {parameters / 1e6:.2f} million weights, "
            f"about {duration(seconds)} on this machine, and half a minute to start. "
            "Fold 0, augmentation and tta of our default, whatever the systems "
            "beside it were trained with."
        )

    def _start(self, _: Any) -> None:
        self._watch(Job.start(self.system, self.panel.settings))

    def _watch(self, job: "Job") -> None:
        self.job = job
        self.start.disabled, self.stop.disabled = True, False
        self.state.value = f"{job.name} is being made ready ..."
        threading.Thread(target=self._follow, args=(job,), daemon=True).start()

    def _stop(self, _: Any) -> None:
        if self.job is not None:
            self.job.stop()
            self.state.value = f"{self.job.name} stops after this epoch ..."

    def _follow(self, job: "Job") -> None:
        """Draw what the training writes, until it ends."""
        seen = 0
        while job.is_alive():
            seen = self._show(job, seen)
            time.sleep(EVERY)
        self._show(job, seen)
        job.forget()
        self.job = None
        self.start.disabled, self.stop.disabled = False, True
        if job.is_finished():
            run = Run(job.folder)
            self.state.value = f"{run.name}: score {run.score:.4f}"
            self.panel.add(run)
        else:
            self.state.value = (
                f"{job.name} has ended before its time; train it again to go on. "
                f"Its last words: <pre>{html.escape(job.last_words())}</pre>"
            )

    def _show(self, job: "Job", seen: int) -> int:
        """Draw the curves if an epoch has been added."""
        table = job.history()
        if table is None or len(table) == seen:
            return seen
        self.picture.value = charts.png(growing(job.name, table))
        self.picture.layout.visibility = "visible"
        row = table.iloc[-1]
        self.state.value = (
            f"{job.name}: {len(table)} of {job.epochs} epochs, "
            f"score {row['val_score']:.3f} of the tiles watched"
        )
        return len(table)


def picture() -> widgets.Image:
    """An empty place for a PNG, to be shown in its own size."""
    layout = {"max_width": "100%", "align_self": "flex-start"}
    return widgets.Image(format="png", layout=layout)


def growing(name: str, table: pd.DataFrame) -> Figure:
    """Loss and score of a training, epoch by epoch."""
    figure = Figure(figsize=(9, 3), dpi=charts.DOTS, layout="constrained")
    for axis, column in zip(figure.subplots(1, 2), ("loss", "score"), strict=True):
        epochs = table["epoch"] + 1
        axis.plot(epochs, table[column], "--", label="tiles trained on")
        axis.plot(epochs, table[f"val_{column}"], "o-", ms=4, label="tiles watched")
        axis.set(xlabel="epoch", title=column)
        axis.set_xlim(left=0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
    figure.suptitle(name, fontsize=10)
    return figure


class Job:
    """A training that is a process of its own, known by the files that it leaves.

    Args:
        path: of the row's file; beside it lie its number (`.pid`) and words (`.log`).
        settings: `config.Settings`.
        process: the process, if it was started here; otherwise it is looked for by
            its number, which an ended one may have left to somebody else's process.
    """

    def __init__(
        self, path: Path, settings: Settings, process: subprocess.Popen | None = None
    ) -> None:
        self.path, self.process = path, process
        system = systems.read(path)
        self.name, self.epochs = system.name, system.epochs
        self.folder = settings.runs_dir / system.name / "fold-0"

    @classmethod
    def start(cls, system: systems.System, settings: Settings) -> Self:
        """Write the row down, and train it on fold 0."""
        path = settings.output_dir / "rows" / f"{system.name}.json"
        systems.write(system, path)
        command = [sys.executable, "-m", "helpers", "train", str(path)]
        command += [
            "--data-dir",
            str(settings.data),
            "--profile",
            settings.profile.name,
        ]
        command += ["--output-dir", str(settings.output_dir)]
        with path.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        path.with_suffix(".pid").write_text(str(process.pid))
        return cls(path, settings, process)

    @classmethod
    def alive(cls, settings: Settings) -> list[Self]:
        """Those that are still at work, whoever has started them: list of `Job`."""
        jobs = []
        for file in sorted((settings.output_dir / "rows").glob("*.pid")):
            with contextlib.suppress(DataError):  # of what cannot be read
                jobs.append(cls(file.with_suffix(".json"), settings))
        return [job for job in jobs if job.is_alive()]

    def is_alive(self) -> bool:
        """Whether it is still at work."""
        if self.process is not None:
            return self.process.poll() is None
        return not self.is_finished() and self._found() is not None

    def _found(self) -> psutil.Process | None:
        """The process that has its number, if this row is what it trains."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            found = psutil.Process(int(self.path.with_suffix(".pid").read_text()))
            return found if str(self.path) in found.cmdline() else None
        return None

    def forget(self) -> None:
        """Remove its number: it has ended."""
        self.path.with_suffix(".pid").unlink(missing_ok=True)

    def is_finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / "config.json").exists()

    def stop(self) -> None:
        """Ask it to stop after its current epoch."""
        process = self.process or self._found()
        if process is not None:
            with contextlib.suppress(OSError, psutil.Error):
                process.terminate()

    def history(self) -> pd.DataFrame | None:
        """DataFrame, a row per epoch; `None` before the first."""
        with contextlib.suppress(OSError, ValueError):
            return pd.read_csv(self.folder / "history.csv")
        return None

    def last_words(self, lines: int = 6) -> str:
        """The end of what it has printed."""
        text = self.path.with_suffix(".log").read_text(errors="replace")
        return "\n".join(text.strip().splitlines()[-lines:])
