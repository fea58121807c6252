"""Preprocessing, and two layers of Keras with other, faster kernels on a CPU."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from helpers.utils import hardware
from helpers.utils.hardware import Tensor

hardware.load_keras()  # for scripts: channels come last, whatever keras.json says
MOMENTUM = 0.9  # of moving averages, PyTorch's 0.1; Keras' 0.99 lags in a short run
BUNDLE = 32  # channels in one convolution of a bundle: about the fastest at any size


def to_rgb(x: Tensor, preprocess_input: Callable | None = None) -> Tensor:
    """Three channels, scaled for a pretrained network: (batch, height, width, 3).

    By Keras' `preprocess_input` of [0, 255], or ImageNet's mean and standard deviation.
    """
    x = layers.Concatenate(name="gray_to_rgb")([x, x, x])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    black, white = -mean / std, (1 - mean) / std
    if preprocess_input:  # Keras' functions are affine: black and white define them
        pixel = np.ones((1, 1, 1, 3), "float32")
        black = preprocess_input(0 * pixel).ravel()
        white = preprocess_input(255 * pixel).ravel()
    scale, offset = (white - black).tolist(), black.tolist()
    return layers.Rescaling(scale, offset, name="preprocess")(x)


@keras.saving.register_keras_serializable(package="salt")
class BatchNorm(layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, on a CPU by TensorFlow's fused kernel.

    That makes a training step of our U-Net a quarter faster.
    """

    def call(self, inputs, training=None, mask=None):
        keras_own = keras.backend.backend() != "tensorflow" or hardware.accelerators()
        keras_own = keras_own or self.synchronized or mask is not None
        if keras_own or keras.backend.standardize_dtype(inputs.dtype) == "float64":
            return super().call(inputs, training=training, mask=mask)
        from tensorflow import raw_ops

        learning = bool(training and self.trainable)
        mean, variance = self.moving_mean.value, self.moving_variance.value
        outputs, batch_mean, batch_variance, *_ = raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=[] if learning else mean,
            variance=[] if learning else variance,
            epsilon=self.epsilon,
            is_training=learning,
        )
        if learning:
            count = ops.cast(ops.size(inputs) / inputs.shape[-1], "float32")
            batch_variance *= (count - 1.0) / count  # the kernel divides by count - 1
            old, new = self.momentum, 1.0 - self.momentum
            self.moving_mean.assign(old * mean + new * batch_mean)
            self.moving_variance.assign(old * variance + new * batch_variance)
        return outputs


@keras.saving.register_keras_serializable(package="salt")
class GroupedConv2D(layers.Conv2D):
    """`keras.layers.Conv2D` with groups, on a CPU hundreds of times as fast as Keras'.

    Bundles of a few groups are ordinary convolutions, their kernels 0 between groups.
    """

    def convolution_op(self, inputs, kernel):
        if hardware.accelerators():
            return super().convolution_op(inputs, kernel)
        return self.in_bundles(inputs, kernel, BUNDLE)

    def in_bundles(self, inputs: Tensor, kernel: Tensor, channels: int) -> Tensor:
        """Convolve in ordinary convolutions of about so many `channels` each."""
        inner = kernel.shape[-2]  # input channels of a group
        size = math.gcd(self.groups, max(channels // inner, 1))  # groups in a bundle
        if size > 1:  # (3, 3, inner, filters) -> (3, 3, size * inner, filters)
            own = np.kron(np.eye(size), np.ones((inner, self.filters // self.groups)))
            own = np.tile(own, self.groups // size)  # 1 within a group, 0 between
            kernel = ops.tile(kernel, (1, 1, size, 1))
            kernel = kernel * ops.convert_to_tensor(own, kernel.dtype)
        inputs, kernels = (
            ops.split(x, self.groups // size, axis=-1) for x in (inputs, kernel)
        )
        outputs = map(super().convolution_op, inputs, kernels)
        return ops.concatenate(list(outputs), axis=-1)
