"""What Keras' training loop is told besides: order, seeds, counts, names, rates.

A training that was interrupted goes on as if it had not been. For that, all chance
follows from (seed, epoch), rates follow from the step's number, and what counts epochs
is told of those before the interruption.
"""

import math
import time

import keras
import pandas as pd

WARM_UP = 100  # steps in which the first learning rate rises from zero


class EpochOrder(keras.callbacks.Callback):
    """Tells batches and dropout which epoch it is: chance follows from (seed, epoch).

    Keras does neither, and a backup does not hold the state of the dropout layers.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_end(self, epoch, logs=None):
        """Enter into the history how long the epoch took, validation included."""
        logs["seconds"] = round(time.perf_counter() - self.began, 1)

    def on_epoch_begin(self, epoch, logs=None):
        """Draw the order of the epoch that begins, and seed every dropout layer."""
        self.began = time.perf_counter()
        self.batches.start_epoch(epoch)
        for number, layer in enumerate(_all_layers(self.model)):
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
                seed = self.batches.seed + number
                layer.seed_generator.state.assign([seed, epoch])


def _all_layers(model):
    """The layers of a model, and those of models inside it."""
    for layer in model.layers:
        yield from _all_layers(layer) if isinstance(layer, keras.Model) else [layer]


class ShortNames(keras.callbacks.Callback):
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
        history: path of the run's `history.csv`.
        first: number of the stage's first epoch.
    """

    def __init__(self, callbacks, history, first):
        super().__init__()
        self.callbacks, self.history, self.first = callbacks, history, first

    def on_train_begin(self, logs=None):
        """Live through the stage's finished epochs once more."""
        table = pd.read_csv(self.history) if self.history.exists() else pd.DataFrame()
        for row in table.to_dict("records"):
            if row["epoch"] >= self.first:
                for callback in self.callbacks:
                    callback.on_epoch_end(int(row["epoch"]), dict(row))


class CosineRate(keras.callbacks.Callback):
    """Learning rate along half a cosine, from its peak to zero, step by step.

    It follows from the step's number alone, so it goes on where it was interrupted.

    Args:
        peak: the highest rate.
        first: number of the stage's first epoch.
        epochs: of the stage.
        steps: in an epoch.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    """

    def __init__(self, peak, first, epochs, steps):
        super().__init__()
        self.peak, self.first, self.epochs, self.steps = peak, first, epochs, steps

    def rate(self, epoch, step):
        """Rate of a step; the very first steps of a training warm up linearly."""
        done = (epoch - self.first) * self.steps + step
        total = self.epochs * self.steps
        warm_up = min(WARM_UP, total // 4)
        rise = (done + 1) / warm_up if self.first == 0 and done < warm_up else 1.0
        return self.peak * rise * (1 + math.cos(math.pi * done / total)) / 2

    def on_epoch_begin(self, epoch, logs=None):
        """Remember the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Set the rate of this step."""
        self.model.optimizer.learning_rate = self.rate(self.epoch, batch)

    def on_epoch_end(self, epoch, logs=None):
        """Enter the last rate into the history."""
        logs["learning_rate"] = self.rate(epoch, self.steps - 1)
