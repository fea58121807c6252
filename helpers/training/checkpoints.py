"""Checkpoints: all that a training needs to go on as if nothing had happened.

Beside a run that is being trained lies `work/`, and in it one folder for each of the
last two epochs. Such a checkpoint is complete in itself:

| file | content |
|---|---|
| `state.txt` | stage, history, checksums of the other files; in the last line its own |
| `state.weights.h5` | weights and the optimiser's state, as training goes on |
| `best.weights.h5` | the best weights so far, in a stage that keeps the best |
| `snapshot-<n>.weights.h5` | the weights before each restart of the learning rate |

It gets its name only when it is complete, so a process killed while writing leaves the
checkpoint before; a file that was damaged later is known by its checksum.
"""

import json
import math
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from helpers.systems import Stage
from helpers.utils.files import atomic_write, sweep

KEPT = 2  # checkpoints: if the newest is damaged, there is the one before
SEALED, TRAINING, BEST = "state.txt", "state.weights.h5", "best.weights.h5"


@dataclass(frozen=True)
class State:
    """How far a training has come.

    Attributes:
        stage: number of the stage that the last epoch belongs to.
        history: a dict per finished epoch: its number, losses, scores, rate, seconds.
        folder: the checkpoint, `None` before the first.
    """

    stage: int = 0
    history: tuple[dict, ...] = ()
    folder: Path | Any = field(default=None, compare=False)  # Any: None

    @property
    def epoch(self) -> int:
        """Number of the last finished epoch, -1 before the first."""
        return self.history[-1]["epoch"] if self.history else -1

    def since(self, first: int) -> list[dict]:
        """The history from an epoch on: list of dicts."""
        return [row for row in self.history if row["epoch"] >= first]

    def snapshots(self) -> list[Path]:
        """The weights kept before each restart so far: list of paths."""
        return sorted(self.folder.glob("snapshot-*.h5")) if self.folder else []


class Checkpoints:
    """The checkpoints of one training, on disk.

    Args:
        run: the run's folder; checkpoints are in `work/` below it.
        copy: a `Copy`: where the run is copied to after every epoch; or `None`.
    """

    def __init__(self, run: Path, copy: "Copy | None" = None) -> None:
        self.run, self.copy = run, copy
        self.folder = run / "work"
        sweep(run)
        sweep(self.folder)
        self.state = self._newest()
        self._write_history()

    def _newest(self) -> State:
        """The newest state that is whole; damaged ones are deleted, with a word."""
        for folder in sorted(self.folder.glob("epoch-*"), reverse=True):
            try:
                text, _, checksum = (folder / SEALED).read_text().rpartition("\n")
                if f"{zlib.crc32(text.encode()):08x}" != checksum:
                    raise ValueError(f"{SEALED} is not what was written")
                content = json.loads(text)
                for name, checksum in content["checksums"].items():
                    if _checksum(folder / name) != checksum:
                        raise ValueError(f"{name} is not what was written")
                return State(content["stage"], tuple(content["history"]), folder)
            except (OSError, ValueError) as error:
                print(f"{folder}: damaged ({error}); the one before it is used")
                shutil.rmtree(folder)
        return State()

    @contextmanager
    def add(self, state: State) -> Iterator[Path]:
        """Keep a new state: the block writes the files of weights into a folder."""
        target = self.folder / f"epoch-{state.epoch:04d}"
        with atomic_write(target) as folder:
            folder.mkdir()
            yield folder
            sums = {file.name: _checksum(file) for file in sorted(folder.iterdir())}
            content = {"stage": state.stage, "history": state.history}
            text = json.dumps({**content, "checksums": sums}, indent=1)
            seal = f"{zlib.crc32(text.encode()):08x}"
            (folder / SEALED).write_text(f"{text}\n{seal}")
        self.state = State(state.stage, state.history, target)
        self._write_history()
        for old in sorted(self.folder.glob("epoch-*"))[:-KEPT]:
            shutil.rmtree(old)
        keep_copy(self.run, self.copy)

    def _write_history(self) -> None:
        """The history as a table, for people and for curves while it runs."""
        if self.state.history:
            with atomic_write(self.run / "history.csv") as beside:
                pd.DataFrame(self.state.history).to_csv(beside, index=False)


class SaveState(keras.callbacks.Callback):
    """Restores a stage's last state at its start, adds one after every epoch.

    It comes after all callbacks that change something, so that this is saved too.

    Args:
        checkpoints: a `Checkpoints`.
        bare: the same network, not compiled: weights without an optimiser's state.
        stage: a `systems.Stage`.
        number: its number.
        first: number of its first epoch.

    Attributes:
        done: what the stage's finished epochs have measured, a dict each.
        begin: number of the first epoch that is not finished.
        average: callbacks that let averaged weights be examined, if the stage has any.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        bare: keras.Model,
        stage: Stage,
        number: int,
        first: int,
    ) -> None:
        super().__init__()
        self.checkpoints, self.bare = checkpoints, bare
        self.stage, self.number, self.first = stage, number, first
        self.done = checkpoints.state.since(first)
        self.begin = self.done[-1]["epoch"] + 1 if self.done else first
        self.average = [keras.callbacks.SwapEMAWeights()] if stage.average else []

    def has_stopped(self) -> bool:
        """Whether a plateau stage was at its end when it was interrupted."""
        scores = [row["val_score"] for row in self.done]
        if not scores or self.stage.schedule != "plateau":
            return False
        return len(scores) - 1 - scores.index(max(scores)) >= self.stage.stopping

    def restore(self, model: keras.Model) -> None:
        """Give a compiled model the stage's last state, if there is one."""
        if self.done:
            model.optimizer.build(model.trainable_variables)  # else it keeps no state
            model.load_weights(self.checkpoints.state.folder / TRAINING)

    def on_train_begin(self, logs=None):
        """Go on where the stage was interrupted, if it was."""
        self.restore(self.model)

    def on_epoch_end(self, epoch, logs=None):
        """Keep everything; what was kept before comes along."""
        if not math.isfinite(logs["loss"]):
            return  # nothing to go on from
        before = self.checkpoints.state
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        state = State(self.number, (*before.history, row))
        scores = [row["val_score"] for row in before.since(self.first)]
        with self.checkpoints.add(state) as folder:
            if scores:
                for old in (before.folder / BEST, *before.snapshots()):
                    if old.exists():
                        shutil.copy(old, folder)
            if self.stage.schedule == "plateau":
                if row["val_score"] > max(scores, default=-math.inf):
                    self._save(folder / BEST)
            elif epoch + 1 - self.first in self.stage.cycles[:-1]:
                self._save(folder / f"snapshot-{epoch:04d}.weights.h5")
            self.model.save_weights(folder / TRAINING)

    def _save(self, path: Path) -> None:
        """Save the weights, or their averages where these are what counts."""
        for swap in self.average:
            swap.on_test_begin()
        self.bare.save_weights(path)
        for swap in self.average:
            swap.on_test_end()


@dataclass(frozen=True)
class Copy:
    """Where a copy of a run is kept, on another disk.

    Attributes:
        disk: a folder that is there as long as the disk is.
        folder: the copy of the run, somewhere below it.
    """

    disk: Path
    folder: Path


def keep_copy(run: Path, copy: Copy | None) -> None:
    """Bring the copy of a run up to date.

    A disk that has vanished (a mounted Drive does) is a warning: the training goes on.

    Args:
        run: the run's folder.
        copy: a `Copy`, or `None`.
    """
    if copy is None:
        return
    try:
        if not copy.disk.is_dir():
            raise OSError("the folder is not there any more")
        paths = [path for path in run.glob("[!.]*") if path.name != "work"]
        paths += (run / "work").glob("[!.]*")
        for path in sorted(paths, key=lambda path: path.name == "config.json"):
            place = copy.folder / path.relative_to(run)
            if path.is_file() or not place.exists():  # a checkpoint never changes
                with atomic_write(place) as beside:
                    (shutil.copytree if path.is_dir() else shutil.copy)(path, beside)
        for path in (*copy.folder.glob("work"), *copy.folder.glob("work/epoch-*")):
            if not (run / path.relative_to(copy.folder)).exists():
                shutil.rmtree(path)
    except OSError as error:
        print(f"warning: no copy in {copy.disk} ({error}); the training goes on")


def bring_back(copy: Copy, run: Path) -> None:
    """Fetch a run from its copy, where the machine that it was trained on is gone."""
    with atomic_write(run) as beside:
        shutil.copytree(copy.folder, beside, ignore=shutil.ignore_patterns(".*"))
    print(f"{run.parent.name}, {run.name}: brought back from {copy.disk}")


def _checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    with path.open("rb") as file:
        total = 0
        while block := file.read(1 << 24):
            total = zlib.crc32(block, total)
    return total
