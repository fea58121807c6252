"""All accelerators of one machine: each takes its part of every batch.

A step is that of one device: the batch is the system's, however many devices divide it,
batch normalization sees all of it, and losses are means over tiles. (Dropout, which is
drawn on each device, is not the same.)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from helpers.training.callbacks import all_layers
from helpers.utils import hardware


@contextmanager
def distribute() -> Iterator[int]:
    """Build and train models on all accelerators, inside a `with` block.

    Yields:
        int, the number of devices. Batches are multiples of it.
    """
    backend, devices = keras.backend.backend(), hardware.accelerators()
    if len(devices) < 2:
        yield 1
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(devices).scope():
            yield len(devices)
    else:
        parallel = keras.distribution.DataParallel(
            devices=devices, auto_shard_dataset=False
        )
        with parallel.scope():
            yield len(devices)


@contextmanager
def synchronized(model: keras.Model, devices: int) -> Iterator[None]:
    """Normalize over all devices' parts of a batch, inside a `with` block.

    On TensorFlow each device would see its own part alone; on JAX there is but one
    batch. The saved model says nothing of it and loads anywhere.

    Args:
        model: the network, not compiled yet.
        devices: what `distribute` has given.

    Yields:
        Nothing.
    """
    together = devices > 1 and keras.backend.backend() == "tensorflow"
    normal = keras.layers.BatchNormalization
    layers = [x for x in all_layers(model) if isinstance(x, normal)]
    try:
        for layer in layers:
            layer.synchronized = together
        yield
    finally:
        for layer in layers:
            layer.synchronized = False
