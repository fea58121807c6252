"""Callbacks for Keras' training loop: seeds, logs, learning rates, stopping.

A training run that was interrupted and resumed ends as if it had never stopped: its
randomness is derived from (seed, epoch), its learning rate from the number of the step.
"""

import math
import signal
import threading
import time
from typing import Any, Self

import keras
from tqdm import tqdm

from helpers.batches import TileBatches
from helpers.systems import Stage


class SeedEpoch(keras.callbacks.Callback):
    """Seeds batches and dropout at the start of every epoch."""

    def __init__(self, batches: TileBatches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start_epoch(epoch)
        for number, layer in enumerate(self.model.layers):
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
                layer.seed_generator.state.assign([self.batches.seed + number, epoch])


class EpochLogs(keras.callbacks.Callback):
    """Adds the seconds, drops `mask_` from the scores' names, prints the time left."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs  # of all stages; 0 prints nothing
        self.seconds = 0.0  # of the last epoch

    def on_epoch_begin(self, epoch, logs=None):
        if self.epochs and self.seconds:
            left = tqdm.format_interval((self.epochs - epoch) * self.seconds)
            print(f"{left} to go", flush=True)
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        for name in list(logs):
            if name.startswith(("mask_", "val_mask_")) and not name.endswith("_loss"):
                logs[name.replace("mask_", "")] = logs.pop(name)
        self.seconds = logs["seconds"] = round(time.perf_counter() - self.start, 1)


class CosineRate(keras.callbacks.Callback):
    """Warms up linearly, then decays to zero, from epoch `first` to the stage's end.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    """

    def __init__(self, stage: Stage, first: int, steps: int) -> None:
        super().__init__()
        self.stage, self.first, self.steps = stage, first, steps

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of one step; warm-up is at most a quarter of the stage."""
        done = (epoch - self.first) * self.steps + step
        total = self.stage.epochs * self.steps
        warm_up = min(self.stage.warm_up, total // 4)
        rise = (done + 1) / warm_up if done < warm_up else 1.0
        cosine = (1 + math.cos(math.pi * done / total)) / 2
        return self.stage.learning_rate * rise * cosine

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rate(self.epoch, batch)

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self.rate(epoch, self.steps - 1)


class StopAfterEpoch(keras.callbacks.Callback):
    """Ends training after the current epoch on SIGINT or SIGTERM, in a `with` block.

    These are Ctrl-C, a stop button, and a cluster that takes its machine back. A second
    signal stops at once.
    """

    asked = False  # whether there was a signal

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()  # others may not
        self.before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this epoch (ask again to stop at once)", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        if self.asked:
            self.model.stop_training = True
