"""Encoders: from a grey tile to a pyramid of features, finest first.

An encoder answers *what* is in the tile: at each stage the picture halves in size and
the number of features grows. All take float32 grey tiles in [0, 1]; what a pretrained
family expects instead (three channels, its own range) is made inside the model, so
that nobody can forget it.
"""

from pathlib import Path

import h5py
import keras
from keras import layers

# Where each family's pyramid is tapped: the last layer before each halving.
TAPS = {
    "vgg16": [f"block{n}_conv{2 if n < 3 else 3}" for n in range(1, 6)],
    "vgg19": [f"block{n}_conv{2 if n < 3 else 4}" for n in range(1, 6)],
    "mobilenet": [f"conv_pw_{n}_relu" for n in (1, 3, 5, 11, 12)],
}
ENCODERS = ("scratch", *TAPS)
MOMENTUM = 0.9  # of batch norm's averages: Keras' 0.99 lags behind a short training


def build_encoder(name, input_shape=(128, 128, 1), weights=None, **options):
    """Build an encoder.

    Args:
        name: `"scratch"`, `"vgg16"`, `"vgg19"` (features at strides 1 to 16) or
            `"mobilenet"` (version 1, strides 2 to 32, up to `conv_pw_12`).
        input_shape: (height, width, 1), both divisible by the last stride.
        weights: `None` (random), `"imagenet"` (downloaded by Keras), or the path of a
            Keras `.h5` weight file of the family, with or without its classifier.
        options: for `"scratch"` only, see `scratch`.

    Returns:
        A Keras model from (batch, height, width, 1), float32 in [0, 1], to the list of
        features, finest first.

    Raises:
        ValueError: for an unknown name, options that the encoder does not have, or a
            weight file that does not fit; the message names file and layer.
        OSError: if `"imagenet"` cannot be downloaded; the message says what else to do.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: one of {', '.join(ENCODERS)}")
    _check_size(name, input_shape, options)
    inputs = keras.Input(input_shape, name="tile")
    if name == "scratch":
        if weights is not None:
            raise ValueError("the scratch encoder has no weights to load: weights=None")
        return keras.Model(inputs, scratch(inputs, **options), name="scratch")
    if options:
        raise ValueError(f"{name} takes no {', '.join(options)}: 'scratch' only")
    backbone = _application(name, _as_rgb(inputs, name), weights)
    features = [backbone.get_layer(tap).output for tap in TAPS[name]]
    encoder = keras.Model(inputs, features, name=name)
    if weights not in (None, "imagenet"):
        load_weights(encoder, weights)
    return encoder


def _check_size(name, input_shape, options):
    """Whether the tile can be halved as often as the encoder does."""
    stem, depth = options.get("stem", 1), options.get("depth", 4)
    if stem not in (1, 2, 4):
        raise ValueError(f"the stride of the stem is 1, 2 or 4, not {stem}")
    stride = {"scratch": stem << depth, "mobilenet": 32}.get(name, 16)
    if input_shape[0] % stride or input_shape[1] % stride:
        raise ValueError(
            f"the {name} encoder shrinks a tile to 1/{stride}: height and width of "
            f"{tuple(input_shape[:2])} must be divisible by {stride}; pad or resize"
        )


def scratch(x, filters=16, depth=4, blocks=1, residual=False, dropout=0.0, stem=1):
    """The contracting path of a U-Net (Ronneberger et al. 2015, arXiv:1505.04597).

    Args:
        x: the input tensor, (batch, height, width, 1).
        filters: features of the first stage; each later stage has twice as many.
        depth: how often the size is halved.
        blocks: `conv_block`s a stage.
        residual: residual or plain blocks.
        dropout: share of features that are silenced after each pooling, in training.
        stem: stride of the very first convolution. With 2 the network works at half
            the size throughout, four times as fast.

    Returns:
        `depth + 1` feature tensors at strides stem, 2 stem, ..., finest first.
    """
    features = []
    if stem > 1:
        x = layers.Conv2D(filters, 2 * stem + 1, stem, "same", name="stem")(x)
    for stage in range(depth + 1):
        if stage:
            x = layers.MaxPooling2D(name=f"down{stage}")(x)
            x = layers.Dropout(dropout, name=f"down{stage}_dropout")(x)
        for block in range(blocks):
            name = f"encoder{stage}_{block}"
            x = conv_block(x, filters << stage, residual, name)
        features.append(x)
    return features


def conv_block(x, filters, residual=False, name=None):
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
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_bn{step}")(x)
        if step == 2 and residual:
            if shortcut.shape[-1] != filters:
                shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(shortcut)
            x = layers.Add(name=f"{name}_add")([x, shortcut])
        x = layers.ReLU(name=f"{name}_relu{step}")(x)
    return x


def _as_rgb(x, name):
    """What the family was trained on: three channels in its own range."""
    x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
    if name == "mobilenet":  # [-1, 1]
        return layers.Rescaling(2.0, offset=-1.0, name="preprocess")(x)
    means = [-103.939, -116.779, -123.68]  # ImageNet's mean blue, green, red
    return layers.Rescaling(255.0, offset=means, name="preprocess")(x)


def _application(name, rgb, weights):
    families = {"vgg16": "VGG16", "vgg19": "VGG19", "mobilenet": "MobileNet"}
    build = getattr(keras.applications, families[name])
    imagenet = "imagenet" if weights == "imagenet" else None
    try:
        return build(include_top=False, weights=imagenet, input_tensor=rgb)
    except Exception as error:
        if imagenet is None or isinstance(error, ValueError):
            raise
        raise OSError(
            f"the ImageNet weights of {name} could not be downloaded ({error}). "
            "Without internet pass weights='path/to/file.h5', a file that was fetched "
            "elsewhere, or weights=None to start from random weights"
        ) from error


def load_weights(model, path):
    """Load a Keras application's weight file (`.h5`) into a model, checked.

    Layers of the file that the model does not have (the classifier, or stages past
    the last tap) are left out; every layer of the model must be in the file.

    Args:
        model: a model whose layers have the application's names.
        path: the file.

    Raises:
        ValueError: if the file is missing, truncated or not HDF5, if it lacks a layer,
            or if an array has another shape; the message names the file, the layer
            and the remedy. The model is unchanged then.
    """
    path = Path(path)
    remedy = "fetch the file again, or pass weights=None"
    if not path.is_file():
        raise ValueError(f"{path}: no such weight file: {remedy}")
    try:
        stored = _read_h5(path)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path}: truncated or not HDF5 ({error}): {remedy}"
        ) from error
    matched = []
    for layer in model.layers:
        if not layer.weights:
            continue
        values = stored.get(layer.name)
        if values is None:
            raise ValueError(
                f"{path}: has no layer {layer.name}; is it a file of {model.name}? "
                f"Otherwise {remedy}"
            )
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if shapes != [value.shape for value in values]:
            raise ValueError(
                f"{path}: layer {layer.name} has shapes {[v.shape for v in values]}, "
                f"{model.name} needs {shapes}: {remedy}"
            )
        matched.append((layer, values))
    for layer, values in matched:
        layer.set_weights(values)


def _read_h5(path):
    """{layer name: [arrays]} of a weight file in the applications' format."""
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        layers_stored = ((name, root[name]) for name in _names(root, "layer_names"))
        return {
            name: [group[weight][()] for weight in _names(group, "weight_names")]
            for name, group in layers_stored
        }


def _names(group, attribute):
    """An attribute of names, which are bytes or text depending on the writer."""
    names = group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
