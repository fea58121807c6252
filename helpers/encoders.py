"""Encoders: from a tile to a pyramid of feature maps, finest first.

At each stage the height and width halve and the number of channels grows. All encoders
take float32 intensities in [0, 1]. What a pretrained family expects instead (three
channels, its own range) is computed inside the model, so that nobody can forget it.
"""

import inspect
import sys
from collections import ChainMap
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
from keras import layers

from helpers.backbones import inception, resnet
from helpers.backbones import weights as weight_files
from helpers.backbones.layers import MOMENTUM, BatchNorm, to_rgb
from helpers.utils.hardware import Tensor

APPLICATIONS = {  # {encoder: its name in `keras.applications`}
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "mobilenet": "MobileNet",
    "inceptionresnetv2": "InceptionResNetV2",
}
SKIP_LAYERS = {  # {application: {last layer before each halving: its stride}}
    "vgg16": {f"block{n}_conv{2 if n < 3 else 3}": 2 ** (n - 1) for n in range(1, 6)},
    "vgg19": {f"block{n}_conv{2 if n < 3 else 4}": 2 ** (n - 1) for n in range(1, 6)},
    "mobilenet": {
        f"conv_pw_{n}_relu": 2**k for k, n in enumerate((1, 3, 5, 11, 12), start=1)
    },
    "inceptionresnetv2": {  # named by `inception.adapt`
        "activation_3": 2,
        "activation_5": 4,
        "block35_10_ac": 8,
        "block17_20_ac": 16,
        "conv_7b_ac": 32,
    },
}
STRIDES = {  # where it can be chosen: {stem_stride: last stride}, the default first
    "scratch": {1: 1, 2: 2, 4: 4},  # times 2 ** depth
    "resnet34": {2: 32, 1: 8},
    "inceptionresnetv2": {2: 32, 1: 16},
    "seresnext50": {2: 32, 1: 8},
    "seresnext101": {2: 32, 1: 8},
}
ENCODERS: ChainMap[str, Any] = ChainMap(SKIP_LAYERS, STRIDES)  # the keys: all names


def build_encoder(
    name: str,
    input_shape: tuple[int, int, int] = (128, 128, 1),
    weights: Path | str | None = None,
    **options: Any,
) -> keras.Model:
    """Build an encoder.

    Args:
        name: one of `ENCODERS`.
        input_shape: (height, width, 1), both divisible by `stride_of(name, **options)`.
        weights: `None` (random), `"imagenet"` (downloaded), `"photographs"` (of
            VGG16, see `weights.load_photographs`), or the path of a weight file:
            `.safetensors` of timm for ResNet34 and SE-ResNeXt, else Keras' `.h5`.
        options: `stem_stride`, for the names in `STRIDES`: 1 keeps small tiles large;
            more of `scratch`.

    Returns:
        A Keras model from (batch, height, width, 1), float32 in [0, 1], to the list of
        feature maps, finest first: at strides 1, 2, 4, 8, 16 or 2, 4, 8, 16, 32.

    Raises:
        ValueError: for an unknown name or option, a tile of the wrong shape, or a table
            entry or weight file that does not fit.
        OSError: if `"imagenet"` cannot be downloaded.
    """
    stride = stride_of(name, **options)
    if tuple(input_shape[2:]) != (1,) or any(n % stride for n in input_shape[:2]):
        wanted = f"(height, width, 1), divisible by {stride}"
        raise ValueError(f"{name} takes tiles of {wanted}, not {input_shape}: resize")
    if name == "scratch" and weights is not None:
        raise ValueError("scratch has no weights to load: weights=None, no --weights")
    inputs = keras.Input(input_shape, name="tile")
    file = None if weights == "imagenet" else weights
    if name == "scratch":
        features = scratch(inputs, **options)
    elif name in resnet.BLOCKS:
        features = resnet.resnet(to_rgb(inputs), name, **options)
        file = weight_files.download(name) if weights == "imagenet" else weights
    elif name == "inceptionresnetv2":
        published = _application(name, keras.Input((None, None, 1)), weights)
        if file is not None:
            weight_files.load_weights(published, file, by_order=True)
            file = None
        backbone = inception.adapt(published, inputs, **options)
        features = _skip_features(name, backbone, stride)
    else:
        features = _skip_features(name, _application(name, inputs, weights), stride)
    encoder = keras.Model(inputs, features, name=name)
    for layer in encoder.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM
    if file == "photographs":
        weight_files.load_photographs(encoder)
    elif file is not None:
        weight_files.load_weights(encoder, file)
    return encoder


def stride_of(name: str, **options: Any) -> int:
    """The stride of the last feature map: it must divide height and width of a tile.

    Raises:
        ValueError: for an unknown name or option.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: one of {', '.join(ENCODERS)}")
    known = {"stem_stride"} if name in STRIDES else set()
    if name == "scratch":
        known = set(inspect.signature(scratch).parameters) - {"x"}
    if unknown := set(options) - known:
        raise ValueError(f"{name} takes no {', '.join(sorted(unknown))}")
    strides = STRIDES.get(name) or {0: max(SKIP_LAYERS[name].values())}
    stem = options.get("stem_stride", next(iter(strides)))
    if stem not in strides:
        raise ValueError(f"{name}: stem_stride is one of {sorted(strides)}, not {stem}")
    return strides[stem] << (options.get("depth", 4) if name == "scratch" else 0)


def scratch(
    x: Tensor,  # the tile, (batch, height, width, 1)
    filters: int = 16,  # of the first stage, doubled at every other stage
    depth: int = 4,  # how often the size is halved
    blocks: int = 1,  # number of `conv_block`s in a stage
    residual: bool = False,
    dropout: float = 0.0,  # rate, after each pooling
    stem_stride: int = 1,  # of a convolution before the first stage; 1 for none
) -> list[Tensor]:
    """The contracting path of a U-Net (Ronneberger et al. 2015, arXiv:1505.04597).

    Gives `depth + 1` feature maps at stem_stride, 2 stem_stride, ..., finest first.
    """
    features = []
    if stem_stride > 1:
        kernel_size = 2 * stem_stride + 1
        x = layers.Conv2D(filters, kernel_size, stem_stride, "same", name="stem")(x)
    for stage in range(depth + 1):
        if stage:
            x = layers.MaxPooling2D(name=f"pool{stage}")(x)
            x = layers.Dropout(dropout, name=f"pool{stage}_dropout")(x)
        for block in range(blocks):
            name = f"encoder{stage}_{block}"
            x = conv_block(x, filters * 2**stage, residual, name)
        features.append(x)
    return features


def conv_block(
    x: Tensor, filters: int, residual: bool = False, name: str = "block"
) -> Tensor:
    """Two 3 x 3 convolutions with batch normalization and ReLU: (batch, h, w, filters).

    `residual` adds the input before the last ReLU (He et al. 2015, arXiv:1512.03385).
    """
    y = x
    for n in (1, 2):
        convolve = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name=f"{name}_conv{n}"
        )
        y = BatchNorm(momentum=MOMENTUM, name=f"{name}_bn{n}")(convolve(y))
        if n == 2 and residual:
            if x.shape[-1] != filters:
                x = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(x)
            y = layers.Add(name=f"{name}_add")([y, x])
        y = layers.ReLU(name=f"{name}_relu{n}")(y)
    return y


def _application(name: str, inputs: Tensor, weights: Path | str | None) -> keras.Model:
    """A Keras application without its classifier, behind its preprocessing."""
    build = getattr(keras.applications, APPLICATIONS.get(name, ""), None)
    if not inspect.isfunction(build):
        entry = f"APPLICATIONS[{name!r}] = {APPLICATIONS.get(name)!r}"
        raise ValueError(f"encoders.{entry}: no such network in keras.applications")
    rgb = to_rgb(inputs, sys.modules[build.__module__].preprocess_input)
    if weights != "imagenet":
        return build(include_top=False, weights=None, input_tensor=rgb)
    with weight_files.downloading(name):
        return build(include_top=False, weights=weights, input_tensor=rgb)


def _skip_features(name: str, backbone: keras.Model, stride: int) -> list[Tensor]:
    """The outputs of an application's `SKIP_LAYERS`, checked to be a pyramid."""
    table = SKIP_LAYERS[name]
    features = {layer.name: layer.output for layer in backbone.layers}
    full = backbone.input_shape[1] * max(table.values()) / stride  # or twice the height
    found = {x: full / features[x].shape[1] if x in features else None for x in table}
    doubles = all(coarse == 2 * fine for fine, coarse in pairwise(table.values()))
    if found != table or not doubles:
        fault = f"strides must double, and in {backbone.name} they are {found}"
        raise ValueError(f"encoders.SKIP_LAYERS[{name!r}]: {fault}")
    return [features[layer] for layer in table]
