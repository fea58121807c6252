"""Two layers whose usual CPU kernels are pathologically slow, made fast.

The weights are those of Keras' own layers and the results are equal but for rounding.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from helpers.utils import hardware
from helpers.utils.hardware import Tensor

MOMENTUM = 0.9  # of batch norm's averages, as PyTorch's 0.1
BUNDLE = 32  # channels in one CPU convolution: the fastest, or nearly, at any size


@keras.saving.register_keras_serializable(package="salt")
class BatchNorm(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of pictures, also fast on a CPU.

    Keras goes through the whole tensor for the mean, the variance and the quotient, in
    float32 even where the network computes in bfloat16. TensorFlow has one kernel for
    all of that; a training step of our U-Net takes a quarter less time. The weights are
    the same, and so are the results but for rounding.

    Args: those of `keras.layers.BatchNormalization`, with scale and centre.
    """

    def call(self, inputs, training=None, mask=None):
        usual = keras.backend.backend() != "tensorflow" or hardware.accelerator()
        usual = usual or keras.backend.standardize_dtype(inputs.dtype) == "float64"
        if usual or self.synchronized or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        from tensorflow import raw_ops

        learning = bool(training and self.trainable)
        before = self.moving_mean.value, self.moving_variance.value
        outputs, *now = raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=[] if learning else before[0],
            variance=[] if learning else before[1],
            epsilon=self.epsilon,
            is_training=learning,
        )[:3]
        if learning:
            count = ops.cast(ops.size(inputs) / inputs.shape[-1], "float32")
            now[1] *= (count - 1.0) / count  # the kernel divides by count - 1
            self.moving_mean.assign(_moved(before[0], now[0], self.momentum))
            self.moving_variance.assign(_moved(before[1], now[1], self.momentum))
        return outputs


def _moved(old: Tensor, new: Tensor, momentum: float) -> Tensor:
    """A moving average after one more value."""
    return old * momentum + new * (1.0 - momentum)


@keras.saving.register_keras_serializable(package="salt")
class GroupedConv2D(layers.Conv2D):
    """`keras.layers.Conv2D` with groups, also fast on a CPU.

    Accelerators and PyTorch have kernels for grouped convolutions. On a CPU those of
    TensorFlow and JAX take hundreds of times as long as need be. There a few groups at
    a time are put into one ordinary convolution, whose kernel is zero between them.
    The weights and the results are the same either way.

    Args: those of `keras.layers.Conv2D`. The kernel has the shape
        (height, width, channels / groups, filters).
    """

    def convolution_op(self, inputs, kernel):
        if hardware.accelerator() or keras.backend.backend() == "torch":
            return super().convolution_op(inputs, kernel)
        return self.in_bundles(inputs, kernel, BUNDLE)

    def in_bundles(self, inputs: Tensor, kernel: Tensor, channels: int) -> Tensor:
        """The same in ordinary convolutions of about so many channels each."""
        inner = kernel.shape[-2]
        size = math.gcd(self.groups, max(channels // inner, 1))  # groups in a bundle
        if size > 1:  # (3, 3, inner, filters) -> (3, 3, size * inner, filters)
            own = np.kron(np.eye(size), np.ones((inner, self.filters // self.groups)))
            own = np.tile(own, self.groups // size)  # 1 within a group, 0 between
            kernel = ops.tile(kernel, (1, 1, size, 1))
            kernel = kernel * ops.convert_to_tensor(own, kernel.dtype)
        parts = zip(
            ops.split(inputs, self.groups // size, axis=-1),
            ops.split(kernel, self.groups // size, axis=-1),
            strict=True,
        )
        convolve = super().convolution_op
        return ops.concatenate([convolve(x, part) for x, part in parts], axis=-1)
