"""The U-Net: an encoder, a decoder, and the bridges between them.

The encoder shrinks the tile until one feature sees much of it: it knows *what* is
there. The decoder grows it again, and at every size the encoder's features of that
size are laid beside it: they know *where*. What the published solutions added to this
plan are the switches of `build_unet`; each is a few lines below.

Source: Ronneberger, Fischer, Brox, 2015, https://arxiv.org/abs/1505.04597
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from helpers.backbones.layers import BatchNorm
from helpers.backbones.resnet import squeeze_excite
from helpers.encoders import MOMENTUM, build_encoder, conv_block, stride_of
from helpers.utils.hardware import Tensor

EXACT = "float32"  # dtype of the logits, also in a network that computes with 16 bits


def build_unet(
    encoder: str = "scratch",
    input_shape: tuple[int, int, int] = (128, 128, 1),
    weights: Path | str | None = None,
    classes: int = 1,
    decoder_filters: Sequence[int] | None = None,
    residual: bool = False,
    dropout: float = 0.0,
    frozen: Sequence[str] = (),
    upsampling: str = "transpose",
    center_block: int = 0,
    dilations: Sequence[int] = (),
    scse: bool = False,
    hypercolumn: Sequence[int] = (),
    gate: bool = False,
    deep_supervision: bool = False,
    **options: Any,
) -> keras.Model:
    """Build a U-Net.

    Args:
        encoder: name of the encoder, see `encoders.build_encoder`.
        input_shape: (height, width, 1). A size that the encoder cannot halve often
            enough is mirrored at its border inside the network, and cut back.
        weights: `None`, `"imagenet"` or the path of a weight file, for the encoder.
        classes: 1 for salt or not; 2 or more for as many exclusive classes, to be
            trained with `SparseCategoricalCrossentropy(from_logits=True)`.
        decoder_filters: channels of the decoder's stages, coarsest first; by default
            those of the encoder's features at the same size, at most 512.
        residual: residual or plain convolution blocks (scratch encoder and decoder).
        dropout: share of features silenced in training, at every stage.
        frozen: prefixes of encoder layer names that are not trained, for example
            `("block1", "block2")`.
        upsampling: how the decoder grows, `"transpose"` or `"bilinear"`, see `decoder_block`.
        center_block: channels of one more stage below the encoder, half its last size; 0
            for none.
        dilations: of parallel branches on the coarsest features, see
            `aspp`; () for none.
        scse: recalibrate every decoder stage, see `scse_block`.
        hypercolumn: strides whose decoder features are laid beside the finest ones
            before the last convolution, for example `(4, 8, 16)`; () for none.
        gate: a second output, the logit of 'this tile has salt', whose probability
            multiplies the last features, see `classification_gate`.
        deep_supervision: further outputs, the logits of every coarser decoder stage ('deep
            supervision', Lee et al. 2014, arXiv:1409.5185), grown to full size.
        options: of the encoder, such as `filters`, `depth`, `stem`.

    Returns:
        A Keras model from grey tiles, float32 in [0, 1], (batch, height, width, 1), to
        logits, float32, (batch, height, width, classes). The probability of salt is
        `sigmoid(logit)`; 0 is even odds. With `gate` or `deep_supervision` it returns a dictionary
        of logits: `"mask"` as above, `"gate"` (batch, 1), and `"deep_1"`, `"deep_2"`,
        ... as the mask, finest first.

    Raises:
        ValueError: for an unknown encoder or option, a weight file that does not fit,
            and numbers that fit no stage.
        OSError: if `"imagenet"` cannot be downloaded.

    Example:
        >>> model = build_unet("scratch", (128, 128, 1), filters=8, depth=4)
        >>> model.output_shape
        (None, 128, 128, 1)
    """
    if encoder == "scratch":
        options = {"residual": residual, "dropout": dropout, **options}
    coarsest = stride_of(encoder, **options) * (2 if center_block else 1)
    height, width, channels = input_shape
    framed = (height + -height % coarsest, width + -width % coarsest, channels)
    pyramid = build_encoder(encoder, framed, weights, **options)
    _freeze(pyramid, frozen)
    x, skips = pyramid.outputs[-1], pyramid.outputs[-2::-1]
    if center_block:
        x, skips = layers.MaxPooling2D(name="center_down")(x), pyramid.outputs[::-1]
        x = conv_block(x, center_block, residual, name="center")
        x = scse_block(x, name="center_scse") if scse else x
    bottom = x
    filters = decoder_filters or [min(skip.shape[-1], 512) for skip in skips]
    if len(filters) != len(skips):
        raise ValueError(f"decoder_filters needs {len(skips)} numbers, not {filters}")
    if dilations:
        x = aspp(x, filters[0], dilations, name="dilated")
    stages = [x]  # the decoder's features, coarsest first
    for stage, (skip, number) in enumerate(zip(skips, filters, strict=True)):
        name = f"decoder{stage}"
        x = decoder_block(x, skip, number, residual, dropout, upsampling, name)
        x = scse_block(x, name=f"{name}_scse") if scse else x
        stages.append(x)
    size = framed[0]
    while x.shape[1] < size:  # the finest features are not at full size
        name = f"to_{2 * x.shape[1]}"
        x = layers.ReLU(name=f"{name}_relu")(
            upsample(x, filters[-1], upsampling, name, size=4)
        )
    x = _hypercolumn(x, stages, hypercolumn)
    outputs = {}
    if gate:
        outputs["gate"], opening = classification_gate(bottom)
        x = layers.Multiply(name="gated")([x, opening])
    outputs["mask"] = _logits(x, classes, size, "logits")
    for number, features in enumerate(
        stages[-2:0:-1] if deep_supervision else [], start=1
    ):
        name = f"deep_{number}"
        outputs[name] = _logits(features, classes, size, name)
    single = outputs["mask"] if set(outputs) == {"mask"} else outputs
    network = keras.Model(pyramid.input, single, name=f"unet_{encoder}")
    return network if framed == tuple(input_shape) else _framed(network, input_shape)


def decoder_block(
    x: Tensor,
    skip: Tensor,
    filters: int,
    residual: bool = False,
    dropout: float = 0.0,
    upsampling: str = "transpose",
    name: str | None = None,
) -> Tensor:
    """One stage of the decoder: grow to twice the size, join, convolve.

    Args:
        x: coarse features, (batch, height, width, channels).
        skip: the encoder's features, (batch, 2 height, 2 width, channels).
        filters: channels of the result.
        residual, dropout, upsampling: as in `build_unet`.
        name: prefix of the layers' names.

    Returns:
        (batch, 2 height, 2 width, filters).
    """
    x = upsample(x, filters, upsampling, f"{name}_up")
    x = layers.Concatenate(name=f"{name}_join")([x, skip])
    x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return conv_block(x, filters, residual, name)


def upsample(
    x: Tensor, filters: int, upsampling: str, name: str, size: int = 3
) -> Tensor:
    """Twice the size, by a learned stencil or by interpolation.

    Args:
        x: (batch, height, width, channels).
        filters: channels of the result.
        upsampling: `"transpose"`, a transposed convolution, which learns how to paint each
            coarse feature onto the finer grid, and may leave a checkerboard; or
            `"bilinear"`, interpolation and a convolution, which cannot
            (Odena et al. 2016, https://distill.pub/2016/deconv-checkerboard).
        name: of the layers.
        size: of the learned stencil. An even one covers every pixel equally often:
            better where no convolution follows that could smooth it.

    Returns:
        (batch, 2 height, 2 width, filters).

    Raises:
        ValueError: for another `upsampling`.
    """
    if upsampling == "transpose":
        return layers.Conv2DTranspose(filters, size, 2, "same", name=name)(x)
    if upsampling != "bilinear":
        raise ValueError(f"upsampling is 'transpose' or 'bilinear', not {upsampling!r}")
    x = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_double")(x)
    return layers.Conv2D(filters, 3, padding="same", name=name)(x)


def scse_block(x: Tensor, reduction: int = 2, name: str | None = None) -> Tensor:
    """Concurrent spatial and channel squeeze and excitation.

    Two small gates look at the features and turn down what does not matter: one asks
    of every channel whether it is of use in this tile, the other of every pixel
    whether it is worth looking at. The two results are added.

    Args:
        x: (batch, height, width, channels).
        reduction: the channel gate thinks with channels / reduction numbers.
        name: prefix of the layers' names.

    Returns:
        The same shape.

    Source: Roy, Navab, Wachinger, 2018, https://arxiv.org/abs/1803.02579
    """
    by_channel = squeeze_excite(x, reduction, name=f"{name}_channel")
    where = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_pixel")(x)
    by_pixel = layers.Multiply(name=f"{name}_by_pixel")([x, where])
    return layers.Add(name=f"{name}_add")([by_channel, by_pixel])


def aspp(
    x: Tensor,
    filters: int,
    dilations: Sequence[int] = (1, 3, 5, 7),
    name: str | None = None,
) -> Tensor:
    """Parallel convolutions that look near and far, side by side.

    A dilated convolution leaves gaps of `dilation` pixels between the nine pixels it
    reads, so that it sees further at no cost (Chen et al. 2017, arXiv:1706.05587).

    Args:
        x: (batch, height, width, channels).
        filters: channels of the result, which the branches share.
        dilations: one branch each.
        name: prefix of the layers' names.

    Returns:
        (batch, height, width, filters).
    """
    share = [filters // len(dilations)] * len(dilations)
    share[0] += filters - sum(share)
    branches = [
        layers.Conv2D(
            channels,
            3,
            padding="same",
            dilation_rate=dilation,
            use_bias=False,
            name=f"{name}_{dilation}",
        )(x)
        for channels, dilation in zip(share, dilations, strict=True)
    ]
    x = layers.Concatenate(name=f"{name}_join")(branches)
    x = BatchNorm(momentum=MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def classification_gate(x: Tensor, hidden: int = 64) -> tuple[Tensor, Tensor]:
    """Whether there is any salt at all: one number a tile, from the coarsest features.

    The score punishes a single stray pixel on an empty tile with 0, so one part of the
    network answers nothing but this question, and its answer multiplies all features:
    a closed gate leaves the mask's last layer nothing but its bias.

    Args:
        x: the coarsest features, (batch, height, width, channels).
        hidden: numbers that the answer is made from.

    Returns:
        `(logit, opening)`: (batch, 1) in float32, to be trained with binary
        cross-entropy, and its sigmoid, (batch, 1, 1, 1), to multiply with.

    Source: Olsen's solution, see `systems`.
    """
    x = layers.GlobalAveragePooling2D(name="gate_mean")(x)
    x = layers.Dense(hidden, activation="relu", name="gate_hidden")(x)
    logit = layers.Dense(1, dtype=EXACT, name="gate")(x)
    opening = layers.Activation("sigmoid", name="gate_sigmoid")(logit)
    return logit, layers.Reshape((1, 1, 1), name="gate_opening")(opening)


def _hypercolumn(x: Tensor, stages: list[Tensor], strides: Sequence[int]) -> Tensor:
    """The finest features with those of other sizes beside them, all at full size.

    Coarser features are first mixed down to as many channels as the finest have:
    interpolation does not mix channels, so that the order makes no difference but to
    the memory, which would be filled by hundreds of channels at full size.

    Source: Hariharan et al. 2015, https://arxiv.org/abs/1411.5752
    """
    known = {x.shape[1] // stage.shape[1]: stage for stage in stages}
    lost = set(strides) - set(known)
    if lost:
        raise ValueError(f"hypercolumn: no stride {min(lost)}; there are {list(known)}")
    column = [x]
    for stride in strides:
        name = f"hypercolumn_{stride}"
        mixed = layers.Conv2D(x.shape[-1], 1, name=f"{name}_mix")(known[stride])
        grow_to = layers.UpSampling2D(stride, interpolation="bilinear", name=name)
        column.append(grow_to(mixed))
    return layers.Concatenate(name="hypercolumn")(column) if strides else x


def _logits(x: Tensor, classes: int, size: int, name: str) -> Tensor:
    """One number a pixel and class, at full size."""
    x = layers.Conv2D(classes, 1, dtype=EXACT, name=name)(x)
    if x.shape[1] < size:
        stride = size // x.shape[1]
        x = layers.UpSampling2D(
            stride, interpolation="bilinear", dtype=EXACT, name=f"{name}_full"
        )(x)
    return x


def _freeze(model: keras.Model, prefixes: Sequence[str]) -> None:
    """Hold the layers of these names fixed in training."""
    for prefix in prefixes:
        if not any(layer.name.startswith(prefix) for layer in model.layers):
            raise ValueError(f"frozen: no layer of {model.name} starts with {prefix!r}")
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(tuple(prefixes))


def _framed(network: keras.Model, input_shape: tuple[int, int, int]) -> keras.Model:
    """A network for smaller tiles: mirrored at the border, and the logits cut back."""
    size = zip(network.input_shape[1:3], input_shape[:2], strict=True)
    border = [((big - small) // 2, (big - small + 1) // 2) for big, small in size]
    if max(max(border)) >= min(input_shape[:2]):
        raise ValueError(
            f"a tile of {tuple(input_shape[:2])} pixels is too small for the "
            f"{network.name}, which needs {network.input_shape[1:3]}: resize it"
        )
    tile = keras.Input(input_shape, name="framed_tile")
    logits = network(ops.pad(tile, ((0, 0), *border, (0, 0)), mode="reflect"))
    cut = layers.Cropping2D(border, dtype=EXACT, name="cut")
    if isinstance(logits, dict):
        logits = {k: x if k == "gate" else cut(x) for k, x in logits.items()}
    else:
        logits = cut(logits)
    return keras.Model(tile, logits, name=network.name)
