"""The U-Net: an encoder, a decoder, and the bridges between them.

The encoder shrinks the tile until one feature sees much of it: it knows *what* is
there. The decoder grows it again with transposed convolutions, and at every size the
encoder's features of that size are laid beside it: they know *where*.

Source: Ronneberger, Fischer, Brox, 2015, https://arxiv.org/abs/1505.04597
"""

import keras
from keras import layers

from helpers.encoders import build_encoder, conv_block


def build_unet(
    encoder="scratch",
    input_shape=(128, 128, 1),
    weights=None,
    classes=1,
    decoder_filters=None,
    residual=False,
    dropout=0.0,
    frozen=(),
    **options,
):
    """Build a U-Net.

    Args:
        encoder: name of the encoder, see `encoders.build_encoder`.
        input_shape: (height, width, 1), both divisible by the encoder's last stride.
        weights: `None`, `"imagenet"` or the path of a weight file, for the encoder.
        classes: 1 for salt or not; 2 or more for as many exclusive classes, to be
            trained with `SparseCategoricalCrossentropy(from_logits=True)`.
        decoder_filters: channels of the decoder's stages, coarsest first; by default
            those of the encoder's features at the same size, at most 512.
        residual: residual or plain convolution blocks (scratch encoder and decoder).
        dropout: share of features silenced in training, at every stage.
        frozen: prefixes of encoder layer names that are not trained, for example
            `("block1", "block2")`.
        options: for the scratch encoder, see `encoders.scratch`.

    Returns:
        A Keras model from grey tiles, float32 in [0, 1], (batch, height, width, 1), to
        logits, float32, (batch, height, width, classes). The probability of salt is
        `sigmoid(logit)`; 0 is even odds.

    Raises:
        ValueError: for a size that the encoder cannot halve often enough, an unknown
            encoder, or a weight file that does not fit.
        OSError: if `"imagenet"` cannot be downloaded.

    Example:
        >>> model = build_unet("scratch", (128, 128, 1), filters=8, depth=4)
        >>> model.output_shape
        (None, 128, 128, 1)
    """
    if encoder == "scratch":
        options = {"residual": residual, "dropout": dropout, **options}
    pyramid = build_encoder(encoder, input_shape, weights, **options)
    for prefix in frozen:
        if not any(layer.name.startswith(prefix) for layer in pyramid.layers):
            raise ValueError(f"frozen: no layer of {encoder} starts with {prefix!r}")
    for layer in pyramid.layers:
        layer.trainable = not layer.name.startswith(tuple(frozen))
    x, skips = pyramid.outputs[-1], pyramid.outputs[-2::-1]
    filters = decoder_filters or [min(skip.shape[-1], 512) for skip in skips]
    if len(filters) != len(skips):
        raise ValueError(f"decoder_filters needs {len(skips)} numbers, not {filters}")
    for stage, (skip, width) in enumerate(zip(skips, filters, strict=True)):
        x = up_block(x, skip, width, residual, dropout, name=f"decoder{stage}")
    while x.shape[1] < input_shape[0]:  # the finest features are not at full size
        name = f"to_{2 * x.shape[1]}"
        x = layers.Conv2DTranspose(filters[-1], 4, 2, "same", name=name)(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    logits = layers.Conv2D(classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(pyramid.input, logits, name=f"unet_{encoder}")


def up_block(x, skip, filters, residual=False, dropout=0.0, name=None):
    """One stage of the decoder: grow to twice the size, join, convolve.

    Args:
        x: coarse features, (batch, height, width, channels).
        skip: the encoder's features, (batch, 2 height, 2 width, channels).
        filters: channels of the result.
        residual, dropout: as in `build_unet`.
        name: prefix of the layers' names.

    Returns:
        (batch, 2 height, 2 width, filters).
    """
    x = layers.Conv2DTranspose(filters, 3, 2, "same", name=f"{name}_up")(x)
    x = layers.Concatenate(name=f"{name}_join")([x, skip])
    x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return conv_block(x, filters, residual, name)
