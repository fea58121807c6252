"""All accelerators of one machine: each takes its part of every batch.

A step is the same as on a single device: the batch has the same tiles, batch
normalization sees all of them, and losses are means over tiles. Only dropout differs.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import keras

from helpers.utils import hardware


@contextmanager
def distribute() -> Iterator[int]:
    """Use all accelerators for the models of a `with` block: yields their number."""
    devices = hardware.accelerators()
    scope: Any = nullcontext()
    if len(devices) > 1:
        print(f"every batch is divided among {len(devices)} devices")
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            scope = tf.distribute.MirroredStrategy(devices).scope()
        else:
            data_parallel = keras.distribution.DataParallel
            scope = data_parallel(devices=devices, auto_shard_dataset=False).scope()
    with scope:
        yield max(len(devices), 1)


def synchronize(model: keras.Model, several: bool) -> None:
    """Let TensorFlow's batch normalization see all devices' parts of a batch, or not.

    JAX needs no such switch. Switch it off before saving: the model loads anywhere.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = several and keras.backend.backend() == "tensorflow"
