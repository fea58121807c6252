"""Checkpoints: everything a training run needs to be resumed exactly.

While a run is being trained, its subfolder `work/` has a checkpoint of each of the last
two epochs: `state.json` (stage and history), `state.weights.h5` (weights and optimizer)
and, in a plateau stage, `best.weights.h5`. A checkpoint gets its name by a rename when
it is complete, so it is there as a whole or not at all.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import pandas as pd

from helpers.systems import System
from helpers.utils.files import atomic_write, sweep

STATE, WEIGHTS, BEST = "state.json", "state.weights.h5", "best.weights.h5"


class Checkpoints:
    """The checkpoints in the folder `run`, and the state that the newest one holds."""

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / "work"
        self.newest: Any = None  # folder of the newest checkpoint that can be read
        self.stage, self.history = 0, []  # to go on with, and logs of finished epochs
        sweep(run)
        sweep(self.folder)
        for folder in sorted(self.folder.glob("epoch-*"), reverse=True):
            try:
                for path in {folder / WEIGHTS, *folder.glob("*.h5")}:
                    h5py.File(path).close()  # fails if it is not complete
                state = json.loads((folder / STATE).read_text())
                self.stage, self.history = state["stage"], state["history"]
                self.newest = folder
                break
            except (OSError, ValueError, KeyError) as error:
                print(f"{folder}: cannot be read ({error}): the one before is tried")
                shutil.rmtree(folder)
        self._write_history()

    def load(self, model: keras.Model) -> None:
        """Load the weights of the last finished stage, or those of the last epoch."""
        if self.newest:
            best = self.newest / BEST
            model.load_weights(best if best.exists() else self.newest / WEIGHTS)

    @contextmanager
    def add(self, stage: int, logs: dict[str, Any]) -> Iterator[Path]:
        """Add a checkpoint, into whose folder the `with` block writes the weights."""
        name, history = f"epoch-{logs['epoch']:04d}", [*self.history, logs]
        with atomic_write(self.folder / name) as folder:
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
            self.model.load_weights(self.checkpoints.newest / WEIGHTS)

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            fault = "the loss is no longer a finite number: lower the learning rate"
            raise FloatingPointError(f"{self.checkpoints.run}: {fault}")
        row = {"epoch": epoch, **{name: float(value) for name, value in logs.items()}}
        best = max((x["val_score"] for x in self.done), default=-math.inf)
        finished = self.model.stop_training or epoch + 1 == self.end
        before = self.checkpoints.newest
        self.done.append(row)
        with self.checkpoints.add(self.number + finished, row) as folder:
            self.model.save_weights(folder / WEIGHTS)
            if self.plateau:
                source = folder / WEIGHTS if row["val_score"] > best else before / BEST
                shutil.copy(source, folder / BEST)
