"""Losses for segmentation: what the network is told to make small.

All take `(y_true, y_pred)` as Keras does, labels in {0, 1} and *logits* (the network's
raw output x, before the sigmoid), both of shape (batch, height, width, 1).
Binary cross-entropy and the focal loss are Keras' own; Dice and Lovasz are written
here, because Keras' Dice costs 1.0 where an empty mask is met by an empty prediction.

| name | idea | source |
|---|---|---|
| `bce` | each pixel by itself | Keras |
| `focal` | the same, easy pixels count less | Lin et al. 2017, arXiv:1708.02002 |
| `dice` | overlap, 2 I / (A + B) | Milletari et al. 2016, arXiv:1606.04797 |
| `lovasz` | a convex surrogate of IoU | Berman et al. 2018, arXiv:1705.08790 |
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from helpers.utils import hardware
from helpers.utils.hardware import Tensor

PACKAGE = "salt"


def _per_image(tensor: Tensor) -> Tensor:
    """(batch, ...) -> (batch, pixels), in float32 whatever the network computes in."""
    tensor = ops.cast(tensor, "float32")
    return ops.reshape(tensor, (ops.shape(tensor)[0], -1))


def _whole_batch(tensor: Tensor) -> Tensor:
    """(batch, ...) -> (1, all pixels): the batch as if it were one long image."""
    return ops.reshape(ops.cast(tensor, "float32"), (1, -1))


@keras.saving.register_keras_serializable(PACKAGE)
class DiceLoss(keras.losses.Loss):
    """Soft Dice loss, 1 - (2 I + s) / (A + B + s).

    I is the sum of label x probability, A and B the sums of the labels and of the
    probabilities. The `smooth` term s makes an empty mask with an empty prediction
    cost nothing, and keeps the quotient finite.

    Args:
        per_image: the loss of each image, averaged; otherwise one loss of the batch
            taken as a single image, in which large salt bodies outweigh small ones.
        smooth: the term s, in pixels.
    """

    def __init__(
        self,
        per_image: bool = False,
        smooth: float = 1.0,
        name: str = "dice",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.per_image = per_image
        self.smooth = smooth

    def call(self, y_true, y_pred):
        flat = _per_image if self.per_image else _whole_batch
        labels, probabilities = flat(y_true), ops.sigmoid(flat(y_pred))
        overlap = ops.sum(labels * probabilities, axis=1)
        total = ops.sum(labels, axis=1) + ops.sum(probabilities, axis=1)
        return 1.0 - (2.0 * overlap + self.smooth) / (total + self.smooth)

    def get_config(self):
        own = {"per_image": self.per_image, "smooth": self.smooth}
        return {**super().get_config(), **own}


def lovasz_hinge(y_true: Tensor, y_pred: Tensor, activation: str = "relu") -> Tensor:
    """Lovasz hinge of each image: how much IoU the pixels still wrong would cost.

    Every pixel gets a hinge error e = 1 - x s, with s = +1 on salt and -1 elsewhere:
    it is 0 or less where the logit is right by a margin of 1. Errors are sorted,
    largest first. Taking the pixels as wrong one after the other in this order, the
    Jaccard loss J grows from 0 to 1; its k-th increment g_k weights the k-th error.
    The increments depend on the order alone, which does not change under a small
    step, so they are held constant in backpropagation.

    Args:
        y_true: labels in {0, 1}, (n, ...): the first axis counts images, the others
            are their pixels. A single axis is one image.
        y_pred: logits, of the same shape.
        activation: `"relu"`, the published loss, or `"elu"` (meaning elu(e) + 1),
            whose gradient reaches the pixels that are right as well.

    Returns:
        float32 (n,). For an image without salt g is [1, 0, 0, ...]: the loss is the
        single worst error.

    Raises:
        ValueError: for another activation.

    Source: Berman, Triki, Blaschko, 2018, https://arxiv.org/abs/1705.08790
    """
    _check_activation(activation)
    flat = _whole_batch if len(ops.shape(y_true)) == 1 else _per_image
    labels = flat(y_true)
    errors = 1.0 - flat(y_pred) * (2.0 * labels - 1.0)
    order = _largest_first(ops.stop_gradient(errors))
    errors = ops.take_along_axis(errors, order, axis=1)
    labels = ops.take_along_axis(labels, order, axis=1)
    salt = ops.sum(labels, axis=1, keepdims=True)
    intersection = salt - ops.cumsum(labels, axis=1)
    union = salt + ops.cumsum(1.0 - labels, axis=1)
    jaccard = 1.0 - intersection / union
    before = ops.pad(jaccard[:, :-1], [[0, 0], [1, 0]])
    increments = ops.stop_gradient(jaccard - before)
    margin = ops.relu(errors) if activation == "relu" else ops.elu(errors) + 1.0
    return ops.sum(margin * increments, axis=1)


def _largest_first(errors: Tensor) -> Tensor:
    """Positions of each image's errors in falling order: int (n, pixels)."""
    if keras.backend.backend() != "tensorflow" or hardware.accelerator():
        return ops.argsort(-errors, axis=1)
    from tensorflow import int32, numpy_function  # NumPy sorts three times as fast

    def sort(errors: np.ndarray) -> np.ndarray:
        return np.argsort(-errors, axis=1).astype(np.int32)

    order = numpy_function(sort, [errors], int32, stateful=False)
    return ops.reshape(order, ops.shape(errors))


def _check_activation(activation: str) -> None:
    if activation not in ("relu", "elu"):
        raise ValueError(f"activation is 'relu' or 'elu', not {activation!r}")


@keras.saving.register_keras_serializable(PACKAGE)
class LovaszHinge(keras.losses.Loss):
    """The Lovasz hinge, see `lovasz_hinge`, as a Keras loss.

    Args:
        activation: `"relu"` or `"elu"`.
        per_image: the loss of each image, averaged, as the competition scores;
            otherwise the batch is taken as a single image.
        symmetric: average with the loss of the complement (labels and logits turned
            round), which makes salt and sediment play the same part.
    """

    def __init__(
        self,
        activation: str = "relu",
        per_image: bool = True,
        symmetric: bool = False,
        name: str = "lovasz_hinge",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        _check_activation(activation)
        self.activation = activation
        self.per_image = per_image
        self.symmetric = symmetric

    def call(self, y_true, y_pred):
        flat = _per_image if self.per_image else _whole_batch
        labels, logits = flat(y_true), flat(y_pred)
        loss = lovasz_hinge(labels, logits, self.activation)
        if self.symmetric:
            turned = lovasz_hinge(1.0 - labels, -logits, self.activation)
            loss = (loss + turned) / 2.0
        return loss

    def get_config(self):
        own = {
            "activation": self.activation,
            "per_image": self.per_image,
            "symmetric": self.symmetric,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(PACKAGE)
class WeightedSum(keras.losses.Loss):
    """A weighted sum of losses.

    Args:
        losses: the losses, a sequence of `keras.losses.Loss`.
        weights: one number a loss.

    Raises:
        ValueError: if there are not as many weights as losses.

    Example:
        >>> loss = WeightedSum([LovaszHinge(), DiceLoss()], [0.8, 0.2])
    """

    def __init__(
        self,
        losses: Sequence[keras.losses.Loss],
        weights: Sequence[float],
        name: str = "weighted_sum",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if len(losses) != len(weights):
            raise ValueError(
                f"{len(losses)} losses need as many weights, not {weights}"
            )
        self.losses = [keras.losses.get(loss) for loss in losses]
        self.weights = [float(weight) for weight in weights]

    def call(self, y_true, y_pred):
        terms = zip(self.weights, self.losses, strict=True)
        return sum(weight * loss(y_true, y_pred) for weight, loss in terms)

    def get_config(self):
        losses = [keras.losses.serialize(loss) for loss in self.losses]
        return {**super().get_config(), "losses": losses, "weights": self.weights}

    @classmethod
    def from_config(cls, config):
        losses = [keras.losses.deserialize(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})


def _bce() -> keras.losses.Loss:
    return keras.losses.BinaryCrossentropy(from_logits=True, name="bce")


def _jain_mix() -> keras.losses.Loss:
    return WeightedSum([LovaszHinge(), _bce(), DiceLoss()], [0.7, 0.15, 0.15])


LOSSES = {
    "bce": _bce,
    "focal": lambda: keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, from_logits=True, name="focal"
    ),
    "dice": DiceLoss,
    "bce+dice": lambda: WeightedSum([_bce(), DiceLoss(per_image=True)], [1.0, 1.0]),
    "dice+0.2bce": lambda: WeightedSum([DiceLoss(), _bce()], [1.0, 0.2]),
    "lovasz": LovaszHinge,
    "lovasz-elu": lambda: LovaszHinge(activation="elu"),
    "jain-mix": _jain_mix,
}


def get(name: str) -> keras.losses.Loss:
    """Make the loss of that name.

    Args:
        name: one of `LOSSES`.

    Returns:
        A new `keras.losses.Loss`.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]()
