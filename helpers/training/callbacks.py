"""What Keras' training loop is told besides: order, seeds, counts, names, rates.

A training that was interrupted goes on as if it had not been. For that, all chance
follows from (seed, epoch), rates follow from the step's number, and what counts epochs
is told of those before the interruption.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import pandas as pd

from helpers.batches import TileBatches
from helpers.systems import Stage


class SeedEpoch(keras.callbacks.Callback):
    """Tells batches and dropout which epoch it is: chance follows from (seed, epoch).

    Keras does neither, and a backup does not hold the state of the dropout layers.

    Args:
        batches: the `batches.TileBatches` trained on.
    """

    def __init__(self, batches: TileBatches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_end(self, epoch, logs=None):
        """Enter into the history how long the epoch took, validation included."""
        logs["seconds"] = round(time.perf_counter() - self.began, 1)

    def on_epoch_begin(self, epoch, logs=None):
        """Draw the order of the epoch that begins, and seed every dropout layer."""
        self.began = time.perf_counter()
        self.batches.start_epoch(epoch)
        if keras.backend.backend() == "torch":  # dropout draws from its global state
            state = np.random.SeedSequence((self.batches.seed, epoch)).generate_state(1)
            keras.utils.set_random_seed(int(state[0]))
        for number, layer in enumerate(all_layers(self.model)):
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
                seed = self.batches.seed + number
                layer.seed_generator.state.assign([seed, epoch])


def all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model, and those of models inside it, one after the other."""
    for layer in model.layers:
        yield from all_layers(layer) if isinstance(layer, keras.Model) else [layer]


class RenameLogs(keras.callbacks.Callback):
    """Calls the mask's score `score`, also where a network has several outputs.

    Keras calls it `mask_score` there; the callbacks after this one, the history among
    them, find the same names for every system.
    """

    def on_epoch_end(self, epoch, logs=None):
        """Rename what the epoch has measured."""
        for name in list(logs):
            if name.startswith(("mask_", "val_mask_")) and not name.endswith("_loss"):
                logs[name.replace("mask_", "")] = logs.pop(name)


class Replay(keras.callbacks.Callback):
    """Tells callbacks that count epochs of those before an interruption.

    Keras starts their counts anew whenever a training begins.

    Args:
        callbacks: the callbacks, which come before this one in the list.
        history: what the stage's finished epochs have measured, a dict each.
    """

    def __init__(
        self, callbacks: list[keras.callbacks.Callback], history: list[dict]
    ) -> None:
        super().__init__()
        self.callbacks, self.history = callbacks, history

    def on_train_begin(self, logs=None):
        """Live through the stage's finished epochs once more."""
        for row in self.history:
            for callback in self.callbacks:
                callback.on_epoch_end(row["epoch"], dict(row))


class CosineRate(keras.callbacks.Callback):
    """Learning rate along half a cosine, from its peak to zero, step by step.

    With restarts it goes that way several times. It follows from the step's number
    alone, so it goes on where it was interrupted.

    Args:
        stage: a `systems.Stage`.
        first: number of the stage's first epoch.
        steps: in an epoch.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    """

    def __init__(self, stage: Stage, first: int, steps: int) -> None:
        super().__init__()
        self.stage, self.first, self.steps = stage, first, steps

    def rate(self, epoch: int, step: int) -> float:
        """Rate of a step; the very first steps of the stage warm up linearly."""
        begin = 0
        for end in self.stage.cycles:
            if self.first + end > epoch:
                break
            begin = end
        done = (epoch - self.first - begin) * self.steps + step
        total = (end - begin) * self.steps
        warm_up = min(self.stage.warm_up, total // 4)
        rise = (done + 1) / warm_up if begin == 0 and done < warm_up else 1.0
        peak = self.stage.learning_rate
        return peak * rise * (1 + math.cos(math.pi * done / total)) / 2

    def on_epoch_begin(self, epoch, logs=None):
        """Remember the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Set the rate of this step."""
        self.model.optimizer.learning_rate = self.rate(self.epoch, batch)

    def on_epoch_end(self, epoch, logs=None):
        """Enter the last rate into the history."""
        logs["learning_rate"] = self.rate(epoch, self.steps - 1)


class StopAfterEpoch(keras.callbacks.Callback):
    """Ends a training after the current epoch when somebody asks for it.

    Ctrl-C, a notebook's stop button and the signal by which a cluster takes its machine
    back all ask; asked a second time, the training stops at once. Nothing is lost but,
    in the second case, the epoch that was begun.

    Use it as a context manager around `fit`.

    Attributes:
        asked: whether it was.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __enter__(self) -> Self:
        """Answer signals, in the main thread: Python gives them to no other."""
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave the signals as they were found."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this epoch (ask again to stop at once)", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        """Stop, if asked to."""
        if self.asked:
            self.model.stop_training = True


class ETA(keras.callbacks.Callback):
    """Says before every epoch but the first how long the rest will take, in one line.

    Args:
        epochs: of the whole training, all stages together.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs, self.seconds = epochs, None

    def on_epoch_begin(self, epoch, logs=None):
        """Take the last epoch's time for that of each to come (see `SeedEpoch`)."""
        if self.seconds is not None:
            print(f"{duration((self.epochs - epoch) * self.seconds)} to go", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        """Remember how long it took."""
        self.seconds = logs["seconds"]


class Show(keras.callbacks.Callback):
    """Hands the history so far to a function after every epoch, to be drawn.

    Args:
        history: path of the run's `history.csv`.
        show: function of a DataFrame.
    """

    def __init__(self, history: Path, show: Callable[[pd.DataFrame], object]) -> None:
        super().__init__()
        self.history, self.show = history, show

    def on_epoch_end(self, epoch, logs=None):
        """Read what `SaveState`, which comes before, has written."""
        self.show(pd.read_csv(self.history))


def tensorboard(folder: Path) -> list[keras.callbacks.Callback]:
    """A list with Keras' callback for TensorBoard, empty where that is not installed.

    Look at it with `tensorboard --logdir outputs/tensorboard`.
    """
    if keras.backend.backend() != "tensorflow" or not find_spec("tensorboard"):
        return []
    return [keras.callbacks.TensorBoard(folder, write_graph=False)]


def duration(seconds: float) -> str:
    """`"a few seconds"`, `"40 seconds"`, `"7 minutes"` or `"3.5 hours"`: for people."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 100:
        return f"{round(seconds)} seconds"
    if seconds < 6000:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
