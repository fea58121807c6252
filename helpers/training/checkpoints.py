"""Checkpoints: everything a training run needs to be resumed exactly.

While a run is being trained, its subfolder `work/` has a checkpoint of each of the last
two epochs: `state.json` (stage and history), `state.npz` (weights and optimizer) and,
in a plateau stage, `best.npz` (weights). A checkpoint gets its name by a rename when it
is complete, so it is there as a whole or not at all.
"""

import json
import math
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.systems import System
from helpers.utils.files import atomic_write

STATE, WEIGHTS, BEST = "state.json", "state.npz", "best.npz"


class Checkpoints:
    """The checkpoints in the folder `run`, and the state that the newest one holds."""

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / "work"
        self.newest: Any = None  # folder of the newest checkpoint that can be read
        self.stage, self.history = 0, []  # to go on with, and logs of finished epochs
        for folder in sorted(self.folder.glob("epoch-*"), reverse=True):
            try:
                for path in {folder / WEIGHTS, *folder.glob("*.npz")}:
                    with zipfile.ZipFile(path) as file:
                        if broken := file.testzip():
                            raise ValueError(f"{path.name}: {broken} is damaged")
                state = json.loads((folder / STATE).read_text())
                self.stage, self.history = state["stage"], state["history"]
                self.newest = folder
                break
            except Exception as error:  # whatever a damaged file leads to
                print(f"{folder}: cannot be read ({error}): the one before is tried")
                shutil.rmtree(folder)
        self._write_history()

    def load(self, model: keras.Model) -> None:
        """Load the weights of the last finished stage, or those of the last epoch."""
        if self.newest:
            best = self.newest / BEST
            _assign(best if best.exists() else self.newest / WEIGHTS, model.weights)

    @contextmanager
    def add(self, stage: int, logs: dict[str, Any], size: int = 0) -> Iterator[Path]:
        """Add a checkpoint, whose arrays, of `size` bytes, a `with` block writes."""
        name, history = f"epoch-{logs['epoch']:04d}", [*self.history, logs]
        with atomic_write(self.folder / name, size) as folder:
            folder.mkdir()
            yield folder
            state = json.dumps({"stage": stage, "history": history}, indent=1)
            (folder / STATE).write_text(state)
        self.stage, self.history, self.newest = stage, history, self.folder / name
        self._write_history()
        for old in sorted(self.folder.glob("epoch-*"))[:-2]:
            shutil.rmtree(old)

    def _write_history(self) -> None:
        if self.history:
            with atomic_write(self.run / "history.csv") as temporary:
                pd.DataFrame(self.history).to_csv(temporary, index=False)


class SaveState(keras.callbacks.Callback):
    """Restores the last epoch of a stage, and adds a checkpoint after every epoch."""

    def __init__(
        self, checkpoints: Checkpoints, system: System, number: int, plateau: list
    ) -> None:
        super().__init__()
        self.checkpoints, self.number, self.plateau = checkpoints, number, plateau
        self.first = sum(stage.epochs for stage in system.stages[:number])
        self.end = self.first + system.stages[number].epochs
        self.done = [x for x in checkpoints.history if x["epoch"] >= self.first]

    def on_train_begin(self, logs=None):
        for row in self.done:
            for callback in self.plateau:  # counts epochs: Keras begins at 0 again
                callback.on_epoch_end(row["epoch"], dict(row))
        if self.done:
            self.model.optimizer.build(self.model.trainable_variables)
            _assign(self.checkpoints.newest / WEIGHTS, self._variables())

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            fault = "the loss is no longer a finite number: lower the learning rate"
            raise FloatingPointError(f"{self.checkpoints.run}: {fault}")
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        best = max((x["val_score"] for x in self.done), default=-math.inf)
        finished = self.model.stop_training or epoch + 1 == self.end
        before = self.checkpoints.newest
        self.done.append(row)
        arrays = [keras.ops.convert_to_numpy(x) for x in self._variables()]
        weights = arrays[: len(self.model.weights)] if self.plateau else []
        size = sum(x.nbytes for x in arrays + weights)
        with self.checkpoints.add(self.number + finished, row, size) as folder:
            np.savez(folder / WEIGHTS, *arrays)  # HDF5 crashes if the disk is full
            if self.plateau and row["val_score"] > best:
                np.savez(folder / BEST, *weights)
            elif self.plateau:
                shutil.copy(before / BEST, folder / BEST)

    def _variables(self) -> list:
        """What training changes: the weights, then the optimizer's variables."""
        return [*self.model.weights, *self.model.optimizer.variables]


def _assign(path: Path, variables: list) -> None:
    """Assign the arrays of a file, or as many of them as there are variables."""
    with np.load(path) as stored:
        for variable, name in zip(variables, stored.files, strict=False):
            variable.assign(stored[name])
