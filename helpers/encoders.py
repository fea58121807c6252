"""Encoders: from a grey tile to a pyramid of features, finest first.

An encoder answers *what* is in the tile: at each stage the picture halves in size and
the number of features grows. All take float32 grey tiles in [0, 1]; what a pretrained
family expects instead (three channels, its own range) is made inside the model, so
that nobody can forget it.
"""

import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from helpers.backbones import resnet
from helpers.backbones import weights as weight_files
from helpers.backbones.layers import MOMENTUM, BatchNorm
from helpers.utils.hardware import Tensor

APPLICATIONS = {  # of Keras
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "mobilenet": "MobileNet",
    "inceptionresnetv2": "InceptionResNetV2",
}
# Where their pyramids are tapped: the last layer before each halving.
SKIP_LAYERS = {
    "vgg16": [f"block{n}_conv{2 if n < 3 else 3}" for n in range(1, 6)],
    "vgg19": [f"block{n}_conv{2 if n < 3 else 4}" for n in range(1, 6)],
    "mobilenet": [f"conv_pw_{n}_relu" for n in (1, 3, 5, 11, 12)],
    "inceptionresnetv2": [
        *("stem_activation_3", "stem_activation_5"),
        *("block35_10_ac", "block17_20_ac", "conv_7b_ac"),
    ],
}
STRIDES = {  # {stride of the stem: of the coarsest features}, the default first
    "scratch": {1: 1, 2: 2, 4: 4},  # times 2 ** depth
    "vgg16": {1: 16},
    "vgg19": {1: 16},
    "mobilenet": {2: 32},
    "resnet34": {2: 32, 1: 8},
    "inceptionresnetv2": {2: 32, 1: 16},
    "seresnext50": {2: 32, 1: 8},
    "seresnext101": {2: 32, 1: 8},
}
ENCODERS = STRIDES.keys()


def build_encoder(
    name: str,
    input_shape: tuple[int, int, int] = (128, 128, 1),
    weights: Path | str | None = None,
    **options: Any,
) -> keras.Model:
    """Build an encoder.

    | name | features at strides | with `stem_stride=1` |
    |---|---|---|
    | `"scratch"` | 1, 2, 4, 8, 16 | see `scratch` |
    | `"vgg16"`, `"vgg19"` | 1, 2, 4, 8, 16 | |
    | `"mobilenet"` (version 1, up to `conv_pw_12`) | 2, 4, 8, 16, 32 | |
    | `"resnet34"` | 2, 4, 8, 16, 32 | 1, 2, 4, 8 |
    | `"inceptionresnetv2"` | 2, 4, 8, 16, 32 | 1, 2, 4, 8, 16 |
    | `"seresnext50"`, `"seresnext101"` (32x4d) | 2, 4, 8, 16, 32 | 1, 2, 4, 8 |

    Args:
        name: one of `ENCODERS`.
        input_shape: (height, width, 1), both divisible by `stride_of(name, **options)`.
        weights: `None` (random), `"imagenet"` (downloaded), or the path of a weight
            file of the family, with or without its classifier: `.h5` as Keras publishes
            it, for `resnet34` and `seresnext` `.safetensors` as timm does.
        options: `stem_stride`, the stride of the very first convolution, where the table has
            a choice; `"scratch"` has more, see there.

    Returns:
        A Keras model from (batch, height, width, 1), float32 in [0, 1], to the list of
        features, finest first.

    Raises:
        ValueError: for an unknown name, entries in the tables above that do not fit
            Keras' application, a tile of another shape, options that the encoder does
            not have, or a weight file that does not fit; the message names file and
            layer.
        OSError: if `"imagenet"` cannot be downloaded; the message says what else to do.
    """
    stride = stride_of(name, **options)
    _check_shape(name, input_shape, stride)
    if name == "scratch" and weights is not None:
        raise ValueError(
            "the scratch encoder has no weights to load: weights=None "
            "(leave --weights away)"
        )
    inputs = keras.Input(input_shape, name="tile")
    if name == "scratch":
        features = scratch(inputs, **options)
    elif name in resnet.BLOCKS:
        features = resnet.resnet(_as_rgb(inputs, name), name, **options)
        weights = weight_files.download(name) if weights == "imagenet" else weights
    else:
        build = _inception_resnet if name == "inceptionresnetv2" else _application
        backbone = build(name, inputs, weights == "imagenet", **options)
        features = _tapped(name, backbone, input_shape, stride)
    encoder = keras.Model(inputs, features, name=name)
    for layer in encoder.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = MOMENTUM  # Keras' 0.99 lags behind a short training
    if weights not in (None, "imagenet"):
        weight_files.load_weights(encoder, weights, name == "inceptionresnetv2")
    return encoder


def stride_of(name: str, **options: Any) -> int:
    """How many pixels of the tile the coarsest features put into one.

    Args:
        name, options: as for `build_encoder`.

    Returns:
        The last stride. Height and width of the tile must be divisible by it.

    Raises:
        ValueError: for an unknown name, an application that lacks an entry in one of
            the tables, or options that the encoder does not have.

    Example:
        >>> stride_of("seresnext50"), stride_of("seresnext50", stem_stride=1)
        (32, 8)
    """
    if name not in {*STRIDES, *APPLICATIONS, *SKIP_LAYERS}:
        raise ValueError(f"unknown encoder {name!r}: one of {', '.join(ENCODERS)}")
    if name != "scratch" and name not in resnet.BLOCKS:
        _check_entries(name)
    strides = STRIDES[name]
    known = {"stem_stride"} if len(strides) > 1 else set()
    if name == "scratch":
        known = set(inspect.signature(scratch).parameters) - {"x"}
    if unknown := set(options) - known:
        raise ValueError(f"{name} takes no {', '.join(sorted(unknown))}")
    stem = options.get("stem_stride", next(iter(strides)))
    if stem not in strides:
        *some, last = sorted(strides)
        allowed = f"{', '.join(map(str, some))} or {last}"
        raise ValueError(f"the stride of the {name} stem is {allowed}, not {stem}")
    depth = options.get("depth", 4) if name == "scratch" else 0
    return strides[stem] << depth


def _check_entries(name: str) -> None:
    """Whether an application has its entry in each table, and is one of Keras'."""
    for table in ("APPLICATIONS", "SKIP_LAYERS", "STRIDES"):
        if not globals()[table].get(name):
            raise _fault(name, f"no entry in {table}")
    build, known = APPLICATIONS[name], dir(keras.applications)
    if build not in known or build.islower():  # which are modules
        near = _near(build, [x for x in known if not x.islower()])
        raise _fault(name, f"keras.applications has no network {build!r}{near}")
    if len(STRIDES[name]) > 1 and name != "inceptionresnetv2":
        raise _fault(name, f"one stem, so one entry in STRIDES: {STRIDES[name]}")


def _tapped(
    name: str, backbone: keras.Model, shape: tuple[int, ...], stride: int
) -> list[Tensor]:
    """The features at an application's taps, if they make a pyramid."""
    found = {layer.name: layer for layer in backbone.layers}
    for tap in SKIP_LAYERS[name]:
        if tap not in found:
            near = _near(tap, found) or "; its summary() lists the layers"
            raise _fault(name, f"{APPLICATIONS[name]} has no layer {tap!r}{near}")
    features = [found[tap].output for tap in SKIP_LAYERS[name]]
    sizes = [tuple(feature.shape[1:3]) for feature in features]
    if any(fine != tuple(2 * x for x in coarse) for fine, coarse in pairwise(sizes)):
        told = ", ".join(
            f"{tap} {size}" for tap, size in zip(SKIP_LAYERS[name], sizes, strict=True)
        )
        raise _fault(name, f"SKIP_LAYERS do not halve, each the one before: {told}")
    if sizes[-1] != (shape[0] // stride, shape[1] // stride):
        found_stride = f"{shape[0] / sizes[-1][0]:g}"
        raise _fault(name, f"STRIDES says {stride}, SKIP_LAYERS end at {found_stride}")
    return features


def _fault(name: str, what: str) -> ValueError:
    return ValueError(f"the encoder {name} in helpers/encoders.py: {what}")


def _near(name: str, names: Iterable[str]) -> str:
    """What may have been meant, as the end of a message."""
    near = get_close_matches(name, list(names))
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _check_shape(name: str, shape: tuple[int, ...], stride: int) -> None:
    """Whether the tile is grey and can be halved as often as the encoder does."""
    if len(shape) != 3 or shape[-1] != 1:
        raise ValueError(
            f"encoders take grey tiles, (height, width, 1), not {tuple(shape)}; what a "
            "pretrained family needs instead is made inside"
        )
    if shape[0] % stride or shape[1] % stride:
        raise ValueError(
            f"the {name} encoder shrinks a tile to 1/{stride}: height and width of "
            f"{tuple(shape[:2])} must be divisible by {stride}; pad or resize"
        )


def scratch(
    x: Tensor,
    filters: int = 16,
    depth: int = 4,
    blocks: int = 1,
    residual: bool = False,
    dropout: float = 0.0,
    stem_stride: int = 1,
) -> list[Tensor]:
    """The contracting path of a U-Net (Ronneberger et al. 2015, arXiv:1505.04597).

    Args:
        x: the input tensor, (batch, height, width, 1).
        filters: features of the first stage; each later stage has twice as many.
        depth: how often the size is halved.
        blocks: `conv_block`s a stage.
        residual: residual or plain blocks.
        dropout: share of features that are silenced after each pooling, in training.
        stem_stride: stride of the very first convolution. With 2 the network works at half
            the size throughout, four times as fast.

    Returns:
        `depth + 1` feature tensors at strides stem_stride, 2 stem_stride, ..., finest first.
    """
    features = []
    if stem_stride > 1:
        x = layers.Conv2D(
            filters, 2 * stem_stride + 1, stem_stride, "same", name="stem"
        )(x)
    for stage in range(depth + 1):
        if stage:
            x = layers.MaxPooling2D(name=f"down{stage}")(x)
            x = layers.Dropout(dropout, name=f"down{stage}_dropout")(x)
        for block in range(blocks):
            name = f"encoder{stage}_{block}"
            x = conv_block(x, filters << stage, residual, name)
        features.append(x)
    return features


def conv_block(
    x: Tensor, filters: int, residual: bool = False, name: str | None = None
) -> Tensor:
    """Two 3 x 3 convolutions, each with batch norm and ReLU.

    Args:
        x: (batch, height, width, channels).
        filters: channels of the result.
        residual: add the input to the result before the last ReLU, so that the block
            only has to learn what to change (He et al. 2015, arXiv:1512.03385). An
            input of another width passes a 1 x 1 convolution first.
        name: prefix of the layers' names.

    Returns:
        (batch, height, width, filters).
    """
    shortcut = x
    for step in (1, 2):
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, name=f"{name}_conv{step}"
        )(x)
        x = BatchNorm(momentum=MOMENTUM, name=f"{name}_bn{step}")(x)
        if step == 2 and residual:
            if shortcut.shape[-1] != filters:
                shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(shortcut)
            x = layers.Add(name=f"{name}_add")([x, shortcut])
        x = layers.ReLU(name=f"{name}_relu{step}")(x)
    return x


def _as_rgb(x: Tensor, name: str) -> Tensor:
    """What the family was trained on: three channels in its own range."""
    x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
    if name in APPLICATIONS:  # Keras' own, which is affine: two greys say all
        module = getattr(keras.applications, APPLICATIONS[name]).__module__
        black, white = (
            sys.modules[module].preprocess_input(np.full((1, 1, 1, 3), grey, "float32"))
            for grey in (0, 255)
        )
        scale, offset = (white - black).ravel().tolist(), black.ravel().tolist()
    else:  # ImageNet's mean and standard deviation: red, green, blue
        scale = [1 / 0.229, 1 / 0.224, 1 / 0.225]
        offset = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    return layers.Rescaling(scale, offset, name="preprocess")(x)


def _application(name: str, inputs: Tensor, imagenet: bool = False) -> keras.Model:
    """A Keras application behind its preprocessing, without its classifier."""
    build = getattr(keras.applications, APPLICATIONS[name])
    rgb = _as_rgb(inputs, name)
    if not imagenet:
        return build(include_top=False, weights=None, input_tensor=rgb)
    with weight_files.downloading(name):
        return build(include_top=False, weights="imagenet", input_tensor=rgb)


def _inception_resnet(
    name: str, inputs: Tensor, imagenet: bool = False, stem_stride: int = 2
) -> keras.Model:
    """Keras' Inception-ResNet-v2, padded so that sizes halve exactly.

    The published network lets the border go wherever it strides. Tiles of 128 pixels
    have none to spare, and a decoder wants sizes that match. Padding has no weights.

    Source: Szegedy et al. 2016, https://arxiv.org/abs/1602.07261
    """
    published = _application(name, keras.Input((None, None, 1)), imagenet)
    names = _lasting_names(published.layers)

    def changed(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        config["name"] = names.get(layer.name, layer.name)
        if "padding" in config:
            config["padding"] = "same"
        if config["name"] == "stem_conv2d_1":
            config["strides"] = (stem_stride, stem_stride)
        return type(layer).from_config(config)

    backbone = keras.models.clone_model(published, [inputs], changed)
    if imagenet:
        backbone.set_weights(published.get_weights())
    return backbone


def _lasting_names(application_layers: list[keras.Layer]) -> dict[str, str]:
    """Names for the layers that Keras only numbers, and in each process anew.

    The network is a chain of blocks that end in layers with names: the third
    convolution of those before `block35_1_mixed` becomes `block35_1_conv2d_3`. Only
    the stem has no name; it is the part that ends in poolings.
    """
    names, unnamed, block = {}, [], "stem"
    numbers: Counter[str] = Counter()
    for layer in application_layers[3:]:  # after input and preprocessing
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
