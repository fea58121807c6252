"""Several devices at once: each takes its part of every batch.

All accelerators of a machine are used without being asked for. Several machines work
together on JAX: start the same command on each, with Keras' three variables, the last
of which is the machine's number:

    KERAS_DISTRIBUTION_JOB_ADDRESSES=10.0.0.1:1234,10.0.0.2:1234
    KERAS_DISTRIBUTION_NUM_PROCESSES=2
    KERAS_DISTRIBUTION_PROCESS_ID=0

A step is that of one device: the batch is the system's, however many share it; batch
normalisation sees all of it; losses are means over tiles. (Dropout, which is drawn on
each device, is not.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np

from helpers import machine
from helpers.callbacks import all_layers


@dataclass(frozen=True)
class Share:
    """What this process has of each batch.

    Attributes:
        devices: in all processes together; batches are multiples of it.
        processes: their number.
        number: of this process, 0 ... processes - 1.
    """

    devices: int = 1
    processes: int = 1
    number: int = 0

    def whole(self, count: int) -> int:
        """The largest number of tiles up to `count` that all devices can share."""
        return count // self.devices * self.devices

    def part(self, tiles: np.ndarray) -> np.ndarray:
        """This process's part of a batch, (n, ...) -> (n / processes, ...)."""
        size = len(tiles) // self.processes
        return tiles[self.number * size : (self.number + 1) * size]


@contextmanager
def spread() -> Iterator[Share]:
    """Build and train models on all devices, inside a `with` block.

    Yields:
        `Share`.
    """
    backend, devices = keras.backend.backend(), machine.accelerators()
    if backend == "tensorflow" and len(devices) > 1:
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(devices).scope():
            yield Share(len(devices))
    elif backend == "jax" and (len(devices) > 1 or processes()[1] > 1):
        number, count = processes()
        devices = devices or keras.distribution.list_devices()
        parallel = keras.distribution.DataParallel(
            devices=devices, auto_shard_dataset=False
        )
        with parallel.scope():
            yield Share(len(devices), count, number)
    else:
        yield Share()


def processes() -> tuple[int, int]:
    """Number of this process, and how many train together: `(0, 1)` when alone."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def least(number: int) -> int:
    """The smallest of what all processes say: int."""
    if processes()[1] == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.array(number)).min())


@contextmanager
def synchronised(model: keras.Model, share: Share) -> Iterator[None]:
    """Batch normalisation over all devices' parts of a batch, inside a `with` block.

    On TensorFlow each device would see its own part alone; on JAX there is but one
    batch. The saved model says nothing of it and loads anywhere.

    Args:
        model: the network, not compiled yet.
        share: what `spread` has given.

    Yields:
        Nothing.
    """
    together = share.devices > 1 and keras.backend.backend() == "tensorflow"
    normal = keras.layers.BatchNormalization
    layers = [x for x in all_layers(model) if isinstance(x, normal)]
    try:
        for layer in layers:
            layer.synchronized = together
        yield
    finally:
        for layer in layers:
            layer.synchronized = False
