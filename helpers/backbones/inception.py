"""Keras' Inception-ResNet-v2, changed so that its feature maps halve exactly.

A decoder needs sizes that match, and a tile of 128 pixels has no border to lose.
Source: Szegedy et al. 2016, https://arxiv.org/abs/1602.07261
"""

import re
from collections import Counter

import keras

from helpers.utils.hardware import Tensor


def adapt(published: keras.Model, inputs: Tensor, stem_stride: int = 2) -> keras.Model:
    """Rebuild the network with "same" padding and lasting layer names.

    The published network crops the border at every stride. Its weights stay the same.
    """
    names: dict[str, str] = {}  # lasting ones; Keras numbers them anew in each process
    numbers: Counter[str] = Counter()
    for layer in published.layers:
        if not re.match("block|mixed|conv_7b|gray|preprocess", layer.name):
            kind = layer.name.rstrip("_0123456789")
            numbers[kind] += 1
            names[layer.name] = f"{kind}_{numbers[kind]}"

    def change(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        config["name"] = names.get(layer.name, layer.name)
        if "padding" in config:
            config["padding"] = "same"
        if config["name"] == "conv2d_1":
            config["strides"] = (stem_stride, stem_stride)
        return type(layer).from_config(config)

    model = keras.models.clone_model(published, [inputs], change)
    model.set_weights(published.get_weights())
    return model
