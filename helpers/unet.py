"""The U-Net: an encoder, a decoder, and skip connections between them.

The encoder shrinks the tile until every value sees much of it: it knows *what* is
there. The decoder enlarges the result again; the encoder's feature maps of each size
tell it *where*. `build_unet` has switches for what published solutions added.

Source: Ronneberger, Fischer, Brox, 2015, https://arxiv.org/abs/1505.04597
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers

from helpers.backbones.layers import MOMENTUM, BatchNorm
from helpers.backbones.resnet import squeeze_excite
from helpers.backbones.weights import load_geology
from helpers.encoders import build_encoder, conv_block
from helpers.utils.hardware import Tensor

LOGITS_DTYPE = "float32"  # also in mixed precision


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
    **options: Any,
) -> keras.Model:
    """Build a U-Net.

    Args:
        encoder: name of the encoder, see `encoders.build_encoder`.
        input_shape: (height, width, 1), divisible by the last stride of the encoder.
        weights: of the encoder, see `encoders.build_encoder`; or of all of salt-net:
            `"geology"`, learned from synthetic tiles.
        classes: 1 for salt or not; 2 or more for exclusive classes (softmax).
        decoder_filters: of each stage, coarsest first; by default as its skip, <= 512.
        residual, dropout: residual blocks, and the dropout rate, in decoder and scratch
            encoder.
        frozen: prefixes of the names of encoder layers that are not trained.
        upsampling: `"transpose"`, a transposed convolution, or `"bilinear"`,
            interpolation and a convolution, which leaves no checkerboard pattern
            (Odena et al. 2016, https://distill.pub/2016/deconv-checkerboard).
        center_block: filters of one more stage below the encoder; 0 for none.
        dilations: of parallel convolutions after the encoder, see `aspp`; () for none.
        scse: recalibrate every decoder stage, see `scse_block`.
        hypercolumn: strides of decoder stages that the last convolution reads, too,
            such as `(4, 8, 16)` (Hariharan et al. 2015, arXiv:1411.5752).
        gate: a second output, the logit of "this tile has salt". Its sigmoid multiplies
            the last feature map, since a stray pixel on an empty tile scores 0.
        options: of the encoder, such as `filters`, `depth` or `stem_stride`.

    Returns:
        A Keras model from (batch, height, width, 1), float32 intensities in [0, 1], to
        logits, (batch, height, width, classes), float32. With `gate` it returns a
        dictionary: `"mask"` as above, and `"gate"`, (batch, 1).

    Raises:
        ValueError: for a bad name, option, size, stride or weight file.

    Example:
        >>> build_unet("scratch", (128, 128, 1), filters=8, depth=4).output_shape
        (None, 128, 128, 1)
    """
    if encoder == "scratch":
        options = {"residual": residual, "dropout": dropout, **options}

    # Encoder: feature maps from fine to coarse.
    own = None if weights == "geology" else weights
    backbone = build_encoder(encoder, input_shape, own, **options)
    _freeze(backbone, frozen)
    *skips, x = backbone.outputs
    if center_block:
        if x.shape[1] % 2 or x.shape[2] % 2:
            raise ValueError(f"center_block cannot halve {x.shape[1:3]}: resize tiles")
        skips.append(x)
        x = layers.MaxPooling2D(name="center_pool")(x)
        x = conv_block(x, center_block, residual, name="center")
        x = scse_block(x, name="center_scse") if scse else x
    bottleneck = x

    # Decoder: back to fine, with a skip connection at every size.
    skips.reverse()
    filters = decoder_filters or [min(skip.shape[-1], 512) for skip in skips]
    if len(filters) != len(skips):
        raise ValueError(f"decoder_filters needs {len(skips)} numbers, not {filters}")
    if dilations:
        x = aspp(x, filters[0], dilations)
    stages = [x]
    for n, skip in enumerate(skips):
        name = f"decoder{n}"
        x = decoder_block(x, skip, filters[n], residual, dropout, upsampling, name)
        x = scse_block(x, name=f"{name}_scse") if scse else x
        stages.append(x)
    while x.shape[1] < input_shape[0]:  # the encoder began with a stride
        name = f"to_{2 * x.shape[1]}"  # even kernels cover all pixels equally often
        x = upsample(x, filters[-1], upsampling, name, kernel_size=4)
        x = layers.ReLU(name=f"{name}_relu")(x)

    # Outputs: logits of every pixel, and of the gate.
    outputs = {}
    if hypercolumn:
        x = _hypercolumn(x, stages, hypercolumn)
    if gate:
        outputs["gate"], probability = classification_gate(bottleneck)
        x = layers.Multiply(name="gate_multiply")([x, probability])
    outputs["mask"] = layers.Conv2D(classes, 1, dtype=LOGITS_DTYPE, name="logits")(x)
    result = outputs if gate else outputs["mask"]
    model = keras.Model(backbone.input, result, name=f"unet_{encoder}")
    if weights == "geology":
        load_geology(model)
    return model


def decoder_block(
    x: Tensor,
    skip: Tensor,
    filters: int,
    residual: bool = False,
    dropout: float = 0.0,
    upsampling: str = "transpose",
    name: str = "decoder",
) -> Tensor:
    """Double the size, concatenate the skip connection, convolve.

    (batch, h, w, c) and `skip`, (batch, 2h, 2w, d), give (batch, 2h, 2w, filters).
    """
    x = upsample(x, filters, upsampling, f"{name}_up")
    x = layers.Concatenate(name=f"{name}_join")([x, skip])
    x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return conv_block(x, filters, residual, name)


def upsample(
    x: Tensor, filters: int, upsampling: str, name: str, kernel_size: int = 3
) -> Tensor:
    """Double height and width: (batch, h, w, c) gives (batch, 2h, 2w, filters).

    Raises:
        ValueError: if `upsampling` is neither `"transpose"` nor `"bilinear"`.
    """
    if upsampling == "transpose":
        return layers.Conv2DTranspose(filters, kernel_size, 2, "same", name=name)(x)
    if upsampling != "bilinear":
        raise ValueError(f"upsampling is 'transpose' or 'bilinear', not {upsampling!r}")
    x = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_double")(x)
    return layers.Conv2D(filters, 3, padding="same", name=name)(x)


def scse_block(x: Tensor, name: str) -> Tensor:
    """Scale each channel and each pixel by a gate of its own (arXiv:1803.02579)."""
    by_channel = squeeze_excite(x, 2, f"{name}_channel")
    pixel_gate = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_pixel")(x)
    by_pixel = layers.Multiply(name=f"{name}_by_pixel")([x, pixel_gate])
    return layers.Add(name=f"{name}_add")([by_channel, by_pixel])


def aspp(x: Tensor, filters: int, dilations: Sequence[int]) -> Tensor:
    """Atrous spatial pyramid pooling: parallel dilated convolutions (arXiv:1706.05587).

    (batch, h, w, c) gives (batch, h, w, filters), shared out between the `dilations`.
    """
    widths = [filters // len(dilations)] * len(dilations)
    widths[0] += filters % len(dilations)
    branches = []
    for width, n in zip(widths, dilations, strict=True):
        options = {"dilation_rate": n, "use_bias": False, "name": f"aspp_{n}"}
        branches.append(layers.Conv2D(width, 3, padding="same", **options)(x))
    x = layers.Concatenate(name="aspp_join")(branches)
    x = BatchNorm(momentum=MOMENTUM, name="aspp_bn")(x)
    return layers.ReLU(name="aspp_relu")(x)


def classification_gate(x: Tensor, hidden: int = 64) -> tuple[Tensor, Tensor]:
    """Logit of "this tile has salt", (batch, 1), and its sigmoid, (batch, 1, 1, 1).

    Reads the coarsest feature map, through `hidden` units. From Olsen's solution.
    """
    x = layers.GlobalAveragePooling2D(name="gate_mean")(x)
    x = layers.Dense(hidden, activation="relu", name="gate_hidden")(x)
    logit = layers.Dense(1, dtype=LOGITS_DTYPE, name="gate")(x)
    probability = layers.Activation("sigmoid", name="gate_sigmoid")(logit)
    return logit, layers.Reshape((1, 1, 1), name="gate_reshape")(probability)


def _hypercolumn(x: Tensor, stages: list[Tensor], strides: Sequence[int]) -> Tensor:
    """Concatenate decoder stages, enlarged to the size of `x` and as wide as it is."""
    known = {x.shape[1] // stage.shape[1]: stage for stage in stages}
    maps = [x]
    for stride in strides:
        if stride not in known:
            raise ValueError(f"hypercolumn: no stride {stride}, only {list(known)}")
        name = f"hypercolumn_{stride}"
        y = layers.Conv2D(x.shape[-1], 1, name=f"{name}_mix")(known[stride])
        maps.append(layers.UpSampling2D(stride, interpolation="bilinear", name=name)(y))
    return layers.Concatenate(name="hypercolumn")(maps)


def _freeze(model: keras.Model, prefixes: Sequence[str]) -> None:
    for prefix in prefixes:
        if not any(layer.name.startswith(prefix) for layer in model.layers):
            raise ValueError(f"frozen: no layer of {model.name} starts with {prefix!r}")
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(tuple(prefixes))
