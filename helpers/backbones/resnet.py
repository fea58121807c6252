"""ResNet34 and SE-ResNeXt, equal to timm's with the same weights.

Those are `resnet34`, `legacy_seresnext50_32x4d` and `legacy_seresnext101_32x4d`. Layers
have timm's names with underscores: `layer1.0.conv1` is `layer1_0_conv1`.

Sources: He et al. 2015, arXiv:1512.03385; Xie et al. 2016, arXiv:1611.05431; Hu et al.
2017, arXiv:1709.01507; https://github.com/huggingface/pytorch-image-models
"""

from keras import layers

from helpers.backbones.layers import MOMENTUM, BatchNorm, GroupedConv2D
from helpers.utils.hardware import Tensor

BLOCKS = {  # per stage
    "resnet34": (3, 4, 6, 3),
    "seresnext50": (3, 4, 6, 3),
    "seresnext101": (3, 4, 23, 3),
}


def resnet(x: Tensor, name: str, stem_stride: int = 2) -> list[Tensor]:
    """Build a network, one of `BLOCKS`, on a preprocessed tile (batch, h, w, 3).

    Returns feature maps of stem and stages; with `stem_stride=1` of the stages alone.
    """
    block = basic_block if name == "resnet34" else se_block
    x = _conv_bn(x, 64, 7, stem_stride, "stem_conv1", "stem_bn1")
    x = layers.ReLU(name="stem_relu1")(x)
    features = []
    if stem_stride > 1:  # as published: convolution and pooling halve the size
        features.append(x)
        # SENet pads only below and on the right, as Caffe did, ResNet on all sides.
        # Zeros do not change the maximum of a ReLU's outputs.
        padding = 1 if name == "resnet34" else ((0, 1), (0, 1))
        x = layers.ZeroPadding2D(padding, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, count in enumerate(BLOCKS[name], start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(x, 32 << stage, stride, f"layer{stage}_{index}")
        features.append(x)
    return features


def basic_block(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """ResNet34's block: two 3 x 3 convolutions to `filters`, and a shortcut."""
    y = _conv_bn(x, filters, 3, stride, f"{name}_conv1", f"{name}_bn1")
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _conv_bn(y, filters, 3, 1, f"{name}_conv2", f"{name}_bn2")
    return _add_shortcut(x, y, stride, name)


def se_block(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """SE-ResNeXt's block: 1 x 1, 3 x 3 in 32 groups, 1 x 1 to 4 `filters`, SE."""
    y = _conv_bn(x, 2 * filters, 1, 1, f"{name}_conv1", f"{name}_bn1")
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _conv_bn(y, 2 * filters, 3, stride, f"{name}_conv2", f"{name}_bn2", groups=32)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = _conv_bn(y, 4 * filters, 1, 1, f"{name}_conv3", f"{name}_bn3")
    y = squeeze_excite(y, 16, f"{name}_se")
    return _add_shortcut(x, y, stride, name)


def squeeze_excite(x: Tensor, reduction: int, name: str) -> Tensor:
    """Squeeze and excitation: multiply each channel by a number in (0, 1).

    The means of all channels decide, through a layer `reduction` times narrower.
    """
    channels = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    y = layers.Conv2D(channels // reduction, 1, name=f"{name}_fc1")(y)
    y = layers.ReLU(name=f"{name}_relu")(y)
    y = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_fc2")(y)
    return layers.Multiply(name=f"{name}_scale")([x, y])


def _conv_bn(
    x: Tensor, filters: int, size: int, stride: int, conv: str, bn: str, groups: int = 1
) -> Tensor:
    """A `size` x `size` convolution and batch normalization, with these layer names."""
    padding = "same"
    if stride > 1 and size > 1:  # PyTorch pads all sides alike, Keras' "same" does not
        x = layers.ZeroPadding2D(size // 2, name=f"{conv}_pad")(x)
        padding = "valid"
    convolution = GroupedConv2D if groups > 1 else layers.Conv2D
    options = {"use_bias": False, "kernel_initializer": "he_normal", "groups": groups}
    x = convolution(filters, size, stride, padding, name=conv, **options)(x)
    return BatchNorm(momentum=MOMENTUM, epsilon=1e-5, name=bn)(x)


def _add_shortcut(x: Tensor, y: Tensor, stride: int, name: str) -> Tensor:
    """`relu(x + y)`, with a 1 x 1 convolution of x if their shapes differ."""
    if x.shape[-1] != y.shape[-1] or stride > 1:
        names = (f"{name}_downsample_0", f"{name}_downsample_1")  # convolution and norm
        x = _conv_bn(x, y.shape[-1], 1, stride, *names)
    y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu")(y)
