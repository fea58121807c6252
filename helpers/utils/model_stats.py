"""What a network costs and how far it sees: size, work, time, receptive field."""

import math
import time
from typing import Any

import keras
import numpy as np
from keras import layers


def multiply_adds(model: keras.Model) -> int:
    """Multiplications (each with its addition) that one tile costs.

    Convolutions and dense layers are counted; all else is small beside them.

    Args:
        model: a Keras model with a fixed input size.

    Returns:
        int. A 3 x 3 convolution from 16 to 32 channels on 64 x 64 pixels costs
        64 * 64 * 3 * 3 * 16 * 32.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += multiply_adds(layer)
        elif hasattr(layer, "kernel"):
            painted = isinstance(layer, layers.Conv2DTranspose)
            tensor = layer.input if painted else layer.output
            total += math.prod(tensor.shape[1:-1]) * math.prod(layer.kernel.shape)
    return total


def receptive_field(model: keras.Model) -> int:
    """Height of the square of pixels that one value of the last output depends on.

    It grows with every convolution and pooling, by as many pixels of the tile as their
    stencil is wider than one pixel; after each halving a step is worth twice as many.
    Squeeze-and-excitation, which looks at the whole tile, is not counted.

    Args:
        model: an encoder, see `encoders.build_encoder`.

    Returns:
        int, pixels; it may be more than the tile has.

    Source: Araujo, Norris, Sim, 2019, https://distill.pub/2019/computing-receptive-fields
    """
    # {layer name: (receptive field, pixels of the tile that a step moves)}
    seen: dict[str, tuple[int, int]] = {}
    for entry in model.get_config()["layers"]:
        field, step = max([seen[name] for name in _inputs(entry)], default=(1, 1))
        layer = model.get_layer(entry["name"])
        if isinstance(layer, layers.GlobalAveragePooling2D):
            field, step = 1, 1
        stencil = _first(layer, "kernel_size", "pool_size")
        dilation = _first(layer, "dilation_rate")
        field += (stencil - 1) * dilation * step
        seen[entry["name"]] = field, step * _first(layer, "strides")
    return seen[model.output_names[-1]][0]


def _inputs(entry: Any) -> list[str]:
    """Names of the layers that a layer reads, from its entry in a model's config."""
    if isinstance(entry, dict):
        if "keras_history" in entry:
            return [entry["keras_history"][0]]
        parts = entry["inbound_nodes"] if "inbound_nodes" in entry else entry.values()
        return _inputs(list(parts))
    if isinstance(entry, list | tuple):
        return [name for part in entry for name in _inputs(part)]
    return []


def _first(layer: keras.Layer, *names: str) -> int:
    """The first of these numbers of a layer, 1 if it has none."""
    for name in names:
        if hasattr(layer, name):
            return np.ravel(getattr(layer, name))[0].item()
    return 1


def seconds_per_tile(
    model: keras.Model, batch_size: int = 8, repeats: int = 3
) -> float:
    """Time to predict one tile on this machine, the best of some repeats.

    Args:
        model: a Keras model from tiles.
        batch_size: tiles at a time.
        repeats: how often it is measured, after a first time that does not count.

    Returns:
        float, seconds.
    """
    tiles = np.zeros((batch_size, *model.input_shape[1:]), np.float32)
    taken = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        model.predict_on_batch(tiles)
        taken.append(time.perf_counter() - start)
    return min(taken[1:]) / batch_size
