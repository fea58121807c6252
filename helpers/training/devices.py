"""All accelerators of one machine: each takes its part of every batch.

A step is the same as on a single device: the batch has the same tiles, batch
normalization sees all of them, and losses are means over tiles. Only dropout differs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from helpers.utils import hardware


@contextmanager
def distribute() -> Iterator[int]:
    """Use all accelerators for the models of a `with` block: yields their number."""
    devices = hardware.accelerators()
    if len(devices) < 2:
        yield 1
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(devices).scope():
            yield len(devices)
    else:
        data_parallel = keras.distribution.DataParallel
        with data_parallel(devices=devices, auto_shard_dataset=False).scope():
            yield len(devices)


def synchronize(model: keras.Model, several: bool) -> None:
    """Let batch normalization see all devices' parts of a batch, or only its own.

    JAX needs no such switch. Switch it off before saving: the model loads anywhere.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = several and keras.backend.backend() == "tensorflow"
