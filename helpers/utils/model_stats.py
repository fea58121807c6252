"""What a network costs and how far it sees: multiply-adds and receptive field."""

import math

import keras
import numpy as np
from keras import layers


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of a model's convolutions and dense layers for one tile: int."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            transposed = isinstance(layer, layers.Conv2DTranspose)
            tensor = layer.input if transposed else layer.output
            total += math.prod(tensor.shape[1:-1]) * math.prod(layer.kernel.shape)
    return total


def receptive_field(model: keras.Model) -> int:
    """Side of the square of pixels that a value of the last output depends on: int."""
    # A convolution or pooling adds its kernel size less one, times the stride of its
    # input. Squeeze-and-excitation, which looks at the whole tile, is not counted.
    # https://distill.pub/2019/computing-receptive-fields
    known: dict[int, tuple[int, int]] = {}  # {id of a tensor: (field, stride)}
    for layer in model.layers:
        inputs = keras.tree.flatten(layer.input)  # none of the input layer
        field, stride = max([known[id(x)] for x in inputs], default=(1, 1))
        if isinstance(layer, layers.GlobalAveragePooling2D):
            field, stride = 1, 1
        kernel_size = _number(layer, "kernel_size") * _number(layer, "pool_size")
        field += (kernel_size - 1) * _number(layer, "dilation_rate") * stride
        known[id(layer.output)] = field, stride * _number(layer, "strides")
    return known[id(model.outputs[-1])][0]


def _number(layer: keras.Layer, name: str) -> int:
    """The first number of an attribute such as `strides`; 1 if the layer has none."""
    return int(np.ravel(getattr(layer, name, 1))[0])
