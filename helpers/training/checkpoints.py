"""Checkpoints: everything a training run needs to be resumed exactly.

While a run is being trained, its subfolder `work/` has a checkpoint of each of the last
two epochs, which is there as a whole or not at all: `state.json` (stage and history),
`state.npz` (weights and optimizer) and, in a plateau stage, `best.npz` (weights).
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.systems import System
from helpers.utils.files import atomic_write

STATE, WEIGHTS, BEST = "state.json", "state.npz", "best.npz"


class Checkpoints(keras.callbacks.Callback):
    """Reads the newest checkpoint in the folder `run`, and adds one after an epoch."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run, self.folder = run, run / "work"
        self.newest: Any = None  # folder of the newest checkpoint that can be read
        self.stage, self.history = 0, []  # to go on with, and logs of finished epochs
        for folder in sorted(self.folder.glob("epoch-*"), reverse=True):
            try:
                for path in (folder / WEIGHTS, *folder.glob(BEST)):
                    with np.load(path) as arrays:
                        list(arrays.values())  # reads all, and so checks their CRCs
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

    def begin(self, system: System, plateau: list[Any]) -> tuple[int, int, int]:
        """`(first, next, end)` epoch of the stage to go on with: int each.

        `plateau` has the callbacks that count its epochs without better scores.
        """
        before, stage = system.stages[: self.stage], system.stages[self.stage]
        first = sum(x.epochs for x in before)
        self.plateau, self.end = plateau, first + stage.epochs
        self.done = [x for x in self.history if x["epoch"] >= first]
        return first, first + len(self.done), self.end

    def on_train_begin(self, logs=None):
        for row in self.done:
            for callback in self.plateau:  # counts epochs: Keras begins at 0 again
                callback.on_epoch_end(row["epoch"], dict(row))
        if self.done:
            self.model.optimizer.build(self.model.trainable_variables)
            _assign(self.newest / WEIGHTS, self._variables())

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            fault = "the loss is no longer a finite number: lower the learning rate"
            raise FloatingPointError(f"{self.run}: {fault}")
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        finished = self.model.stop_training or epoch + 1 == self.end
        state = {"stage": self.stage + finished, "history": [*self.history, row]}
        arrays = [keras.ops.convert_to_numpy(x) for x in self._variables()]
        name, size = f"epoch-{epoch:04d}", 2 * sum(x.nbytes for x in arrays)
        with atomic_write(self.folder / name, size) as folder:
            folder.mkdir()
            np.savez(folder / WEIGHTS, *arrays)  # HDF5 crashes if the disk is full
            if self.plateau and all(
                row["val_score"] > x["val_score"] for x in self.done
            ):
                np.savez(folder / BEST, *arrays[: len(self.model.weights)])
            elif self.plateau:
                shutil.copy(self.newest / BEST, folder)
            (folder / STATE).write_text(json.dumps(state, indent=1))
        self.done.append(row)
        self.stage, self.history = state["stage"], state["history"]
        self.newest = self.folder / name
        self._write_history()
        for old in sorted(self.folder.glob("epoch-*"))[:-2]:
            shutil.rmtree(old)

    def _write_history(self) -> None:
        if self.history:
            with atomic_write(self.run / "history.csv") as temporary:
                pd.DataFrame(self.history).to_csv(temporary, index=False)

    def _variables(self) -> list[Any]:
        """What training changes: the weights, then the optimizer's variables."""
        return [*self.model.weights, *self.model.optimizer.variables]


def _assign(path: Path, variables: list[Any]) -> None:
    """Assign the arrays of a file, or as many of them as there are variables."""
    with np.load(path) as stored:
        for variable, name in zip(variables, stored.files, strict=False):
            variable.assign(stored[name])
