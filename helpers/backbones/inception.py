"""Keras' Inception-ResNet-v2, changed so that its feature maps halve exactly."""

import re
from collections import Counter

import keras
from keras import layers

from helpers.utils.hardware import Tensor


def adapt(published: keras.Model, inputs: Tensor, stem_stride: int = 2) -> keras.Model:
    """Rebuild the network with "same" padding and lasting layer names.

    The published network crops the border at every stride. A decoder needs sizes that
    match, and a tile of 128 pixels has no border to lose. Padding has no weights.

    Args:
        published: Keras' application behind its preprocessing, for tiles of any size.
        inputs: the tile, (batch, height, width, 1).
        stem_stride: stride of the first convolution, 2 as published or 1.

    Returns:
        A Keras model from `inputs`, with the weights of `published`.

    Source: Szegedy et al. 2016, https://arxiv.org/abs/1602.07261
    """
    names = _layer_names(published.layers)

    def change(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        config["name"] = names.get(layer.name, layer.name)
        if "padding" in config:
            config["padding"] = "same"
        if config["name"] == "stem_conv2d_1":
            config["strides"] = (stem_stride, stem_stride)
        return type(layer).from_config(config)

    model = keras.models.clone_model(published, [inputs], change)
    model.set_weights(published.get_weights())
    return model


def _layer_names(published: list[keras.Layer]) -> dict[str, str]:
    """Lasting names for the layers that Keras numbers differently in each process."""
    # A block ends in a named layer: the third convolution before `block35_1_mixed`
    # becomes `block35_1_conv2d_3`. The stem ends in its second pooling, without a name.
    names: dict[str, str] = {}
    unnamed: list[str] = []
    numbers: Counter[str] = Counter()
    block = "stem"
    for layer in published[3:]:  # after input and preprocessing
        named = re.match(r"mixed_\d\w|block\d+_\d+|conv_7b", layer.name)
        if named:
            block = named[0]
        else:
            unnamed.append(layer.name)
        if named or (block == "stem" and isinstance(layer, layers.MaxPooling2D)):
            for name in unnamed:
                kind = f"{block}_{name.rstrip('_0123456789')}"
                numbers[kind] += 1
                names[name] = f"{kind}_{numbers[kind]}"
            unnamed = []
    return names
