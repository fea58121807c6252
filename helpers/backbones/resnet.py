"""ResNet-34 and SE-ResNeXt: networks of residual blocks, which add to what they read.

The numbers are those of timm's `resnet34`, `legacy_seresnext50_32x4d` and
`legacy_seresnext101_32x4d`: with their weights, every stage gives their output.
Layers carry timm's names with underscores: `layer1.0.conv1` is `layer1_0_conv1`.

Sources:
    - He et al. 2015, Deep residual learning, https://arxiv.org/abs/1512.03385
    - Xie et al. 2016, ResNeXt, https://arxiv.org/abs/1611.05431
    - Hu et al. 2017, Squeeze and excitation, https://arxiv.org/abs/1709.01507
    - https://github.com/huggingface/pytorch-image-models (resnet.py, senet.py)
"""

from keras import layers

from helpers.backbones.layers import MOMENTUM, BatchNorm, GroupedConv2D
from helpers.utils.hardware import Tensor

BLOCKS = {  # in each of the four stages
    "resnet34": (3, 4, 6, 3),
    "seresnext50": (3, 4, 6, 3),
    "seresnext101": (3, 4, 23, 3),
}


def resnet(x: Tensor, name: str, stem_stride: int = 2) -> list[Tensor]:
    """The residual networks, as far as their last features.

    Args:
        x: the preprocessed tile, (batch, height, width, 3).
        name: `"resnet34"`, `"seresnext50"` or `"seresnext101"`.
        stem_stride: 2, as published: the 7 x 7 stem halves the size and so does a
            pooling after it. 1 does neither, to keep small tiles large; its feature
            maps are the four stages.

    Returns:
        Feature tensors, finest first: at strides 2, 4, 8, 16, 32 the stem and the four
        stages; with `stem_stride=1` at strides 1, 2, 4, 8 the stages alone.
    """
    block = basic_block if name == "resnet34" else se_block
    x = conv_bn(x, 64, 7, stem_stride, name="stem", step=1)
    x = layers.ReLU(name="stem_relu1")(x)
    features = []
    if stem_stride > 1:
        features.append(x)
        # SENet pads only below and on the right (Caffe's habit), ResNet all around.
        # Zeros do no harm to a maximum over what ReLU made.
        padding = 1 if name == "resnet34" else ((0, 1), (0, 1))
        x = layers.ZeroPadding2D(padding, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, count in enumerate(BLOCKS[name], start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(x, 32 << stage, stride, name=f"layer{stage}_{index}")
        features.append(x)
    return features


def basic_block(
    x: Tensor, filters: int, stride: int = 1, name: str | None = None
) -> Tensor:
    """ResNet-34's block: two 3 x 3 convolutions, and what came in is added.

    Args:
        x: (batch, height, width, channels).
        filters: channels of the result.
        stride: of the first convolution.
        name: prefix of the layers' names.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), filters).
    """
    y = conv_bn(x, filters, 3, stride, name=name, step=1)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = conv_bn(y, filters, 3, name=name, step=2)
    return _add_shortcut(x, y, stride, name)


def se_block(
    x: Tensor, filters: int, stride: int = 1, name: str | None = None
) -> Tensor:
    """SE-ResNeXt's block: narrow, 32 groups of 3 x 3, wide, squeeze and excite, add.

    Args:
        x: (batch, height, width, channels).
        filters: a quarter of the result's channels.
        stride: of the grouped convolution.
        name: prefix of the layers' names.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), 4 filters).
    """
    y = conv_bn(x, 2 * filters, 1, name=name, step=1)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = conv_bn(y, 2 * filters, 3, stride, groups=32, name=name, step=2)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = conv_bn(y, 4 * filters, 1, name=name, step=3)
    y = squeeze_excite(y, name=f"{name}_se")
    return _add_shortcut(x, y, stride, name)


def squeeze_excite(x: Tensor, reduction: int = 16, name: str | None = None) -> Tensor:
    """Weigh the channels by what the whole picture shows.

    Args:
        x: (batch, height, width, channels).
        reduction: how much narrower the layer between is.
        name: prefix of the layers' names.

    Returns:
        `x` with each channel multiplied by a number in (0, 1).
    """
    channels = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    y = layers.Conv2D(channels // reduction, 1, name=f"{name}_fc1")(y)
    y = layers.ReLU(name=f"{name}_relu")(y)
    y = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_fc2")(y)
    return layers.Multiply(name=f"{name}_scale")([x, y])


def conv_bn(
    x: Tensor,
    filters: int,
    size: int,
    stride: int = 1,
    groups: int = 1,
    name: str | None = None,
    step: int | None = None,
) -> Tensor:
    """A convolution without bias and its batch norm, `<name>_conv<step>`, `_bn<step>`.

    PyTorch pads all sides alike, Keras' "same" the right and lower side more when it
    strides. So strided convolutions are padded first.

    Args:
        x: (batch, height, width, channels).
        filters: channels of the result.
        size: side of the kernel, odd.
        stride: of the convolution.
        groups: 1, or the number of groups that see only their own channels.
        name, step: see above.

    Returns:
        (batch, ceil(height / stride), ceil(width / stride), filters).
    """
    padding = "same"
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad{step}")(x)
        padding = "valid"
    convolution = GroupedConv2D if groups > 1 else layers.Conv2D
    x = convolution(
        filters,
        size,
        stride,
        padding,
        groups=groups,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv{step}",
    )(x)
    return _batch_norm(x, f"{name}_bn{step}")


def _add_shortcut(x: Tensor, y: Tensor, stride: int, name: str | None) -> Tensor:
    """`relu(x + y)`; where their shapes differ, x passes a 1 x 1 convolution first."""
    if x.shape[-1] != y.shape[-1] or stride > 1:
        convolve = layers.Conv2D(
            y.shape[-1],
            1,
            stride,
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_downsample_0",
        )
        x = _batch_norm(convolve(x), f"{name}_downsample_1")
    y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu")(y)


def _batch_norm(x: Tensor, name: str) -> Tensor:
    return BatchNorm(momentum=MOMENTUM, epsilon=1e-5, name=name)(x)
