"""Losses for segmentation.

Every loss takes `(y_true, y_pred)` as Keras does: labels in {0, 1} and *logits* (the
network's output before the sigmoid), both of shape (batch, height, width, 1). Binary
cross-entropy and the focal loss are Keras' own; its Dice loss costs 1.0 when an empty
mask is predicted empty.

| name | idea | source |
|---|---|---|
| `bce` | each pixel on its own | Keras |
| `focal` | the same, but easy pixels count less | Lin et al. 2017, arXiv:1708.02002 |
| `dice` | overlap, 2 I / (A + B) | Milletari et al. 2016, arXiv:1606.04797 |
| `lovasz` | a convex surrogate of IoU | Berman et al. 2018, arXiv:1705.08790 |
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.losses import Loss

from helpers.utils import hardware
from helpers.utils.hardware import Tensor


def _flatten(tensor: Tensor, per_image: bool) -> Tensor:
    rows = ops.shape(tensor)[0] if per_image else 1
    return ops.reshape(ops.cast(tensor, "float32"), (rows, -1))


@keras.saving.register_keras_serializable("salt")
class DiceLoss(Loss):
    """Soft Dice loss, 1 - (2 I + s) / (A + B + s).

    I is the sum of label x probability; A and B are the sums of the labels and of the
    probabilities.

    Args:
        per_image: average the loss of each image. Otherwise the batch counts as one
            image, in which large salt bodies outweigh small ones.
        smooth: s, in pixels. Thanks to it, an empty mask that is predicted empty costs
            nothing; with 0 it costs 1, like any other prediction for it.
    """

    def __init__(self, per_image: bool = False, smooth: float = 1.0, **kwargs: Any):
        super().__init__(**{"name": "dice", **kwargs})
        self.per_image, self.smooth = per_image, smooth

    def call(self, y_true, y_pred):
        labels = _flatten(y_true, self.per_image)
        probabilities = ops.sigmoid(_flatten(y_pred, self.per_image))
        intersection = ops.sum(labels * probabilities, axis=1)
        total = ops.sum(labels, axis=1) + ops.sum(probabilities, axis=1)
        total = ops.maximum(total + self.smooth, keras.config.epsilon())  # never 0 / 0
        return 1.0 - (2.0 * intersection + self.smooth) / total

    def get_config(self):
        own = {"per_image": self.per_image, "smooth": self.smooth}
        return super().get_config() | own


def lovasz_hinge(y_true: Tensor, y_pred: Tensor, activation: str = "relu") -> Tensor:
    """Lovasz hinge loss of each image.

    A pixel's hinge error is e = 1 - x s, with s = +1 on salt and -1 elsewhere: zero or
    less where the logit x is right by a margin of 1. Errors are sorted, largest first.
    If pixels are counted as wrong in this order, the Jaccard loss grows from 0 to 1.
    Its k-th increment weights the k-th error, as a constant in backpropagation.

    Args:
        y_true, y_pred: labels in {0, 1} and logits, (n, ...); (pixels,) is one image.
        activation: `"relu"`, or `"elu"`: elu(e) + 1, whose gradient never vanishes.

    Returns:
        float32 (n,). For an image without salt, the single largest error.

    Raises:
        ValueError: for any other activation.
    """
    if activation not in ("relu", "elu"):
        raise ValueError(f"activation must be 'relu' or 'elu', not {activation!r}")
    per_image = len(ops.shape(y_true)) > 1
    labels, logits = _flatten(y_true, per_image), _flatten(y_pred, per_image)
    errors = 1.0 - logits * (2.0 * labels - 1.0)
    order = _sort_descending(ops.stop_gradient(errors))
    errors, labels = (ops.take_along_axis(x, order, axis=1) for x in (errors, labels))
    salt = ops.sum(labels, axis=1, keepdims=True)
    intersection = salt - ops.cumsum(labels, axis=1)
    union = salt + ops.cumsum(1.0 - labels, axis=1)
    jaccard = 1.0 - intersection / union
    increments = jaccard - ops.pad(jaccard[:, :-1], [[0, 0], [1, 0]])
    hinge = ops.relu(errors) if activation == "relu" else ops.elu(errors) + 1.0
    return ops.sum(hinge * ops.stop_gradient(increments), axis=1)


def _sort_descending(errors: Tensor) -> Tensor:
    """Indices that sort each row, largest first: int (n, pixels)."""
    if keras.backend.backend() != "tensorflow" or hardware.accelerators():
        return ops.argsort(-errors, axis=1)
    from tensorflow import int32, numpy_function

    def sort(errors: np.ndarray) -> np.ndarray:  # 3 x faster than TensorFlow on a CPU
        return np.argsort(-errors, axis=1).astype("int32")

    order = numpy_function(sort, [errors], int32, stateful=False)
    return ops.reshape(order, ops.shape(errors))


@keras.saving.register_keras_serializable("salt")
class LovaszHinge(Loss):
    """`lovasz_hinge` as a Keras loss.

    Args:
        activation: `"relu"` or `"elu"`.
        per_image: average the loss of each image, as the competition scores. Otherwise
            the batch counts as one image.
        symmetric: average with the loss of the complement (labels and logits inverted).
    """

    def __init__(self, activation="relu", per_image=True, symmetric=False, **kwargs):
        super().__init__(**{"name": "lovasz_hinge", **kwargs})
        self.activation, self.per_image = activation, per_image
        self.symmetric = symmetric

    def call(self, y_true, y_pred):
        labels, logits = (_flatten(y, self.per_image) for y in (y_true, y_pred))
        loss = lovasz_hinge(labels, logits, self.activation)
        if self.symmetric:
            loss = (loss + lovasz_hinge(1.0 - labels, -logits, self.activation)) / 2.0
        return loss

    def get_config(self):
        own = ("activation", "per_image", "symmetric")
        return super().get_config() | {name: getattr(self, name) for name in own}


@keras.saving.register_keras_serializable("salt")
class WeightedSum(Loss):
    """Weighted sum, such as `WeightedSum([LovaszHinge(), DiceLoss()], [0.8, 0.2])`.

    Raises:
        ValueError: unless there are as many weights as losses, with a positive sum.
    """

    def __init__(self, losses: Sequence, weights: Sequence, **kwargs: Any) -> None:
        super().__init__(**{"name": "weighted_sum", **kwargs})
        self.losses = [keras.losses.get(loss) for loss in losses]  # or their configs
        self.weights = [float(weight) for weight in weights]
        if len(losses) != len(weights) or not 0 < sum(self.weights) < float("inf"):
            fault = f"{len(losses)} losses need as many weights, of a positive sum"
            raise ValueError(f"{fault}, not {self.weights}")

    def call(self, y_true, y_pred):
        terms = zip(self.weights, self.losses, strict=True)
        return sum(weight * loss(y_true, y_pred) for weight, loss in terms)

    def get_config(self):
        losses = [keras.losses.serialize(loss) for loss in self.losses]
        return super().get_config() | {"losses": losses, "weights": self.weights}


_bce = partial(keras.losses.BinaryCrossentropy, from_logits=True, name="bce")
_focal = partial(keras.losses.BinaryFocalCrossentropy, from_logits=True, name="focal")
JAIN = (0.7, 0.15, 0.15)
LOSSES: dict[str, Callable[[], Loss]] = {
    "bce": _bce,
    "focal": partial(_focal, apply_class_balancing=True),
    "dice": partial(DiceLoss, per_image=True),
    "bce+dice": lambda: WeightedSum([_bce(), DiceLoss(per_image=True)], [1.0, 1.0]),
    "dice+0.2bce": lambda: WeightedSum([DiceLoss(), _bce()], [1.0, 0.2]),
    "lovasz": LovaszHinge,
    "lovasz-elu": lambda: LovaszHinge(activation="elu"),
    "jain-mix": lambda: WeightedSum([LovaszHinge(), _bce(), DiceLoss()], JAIN),
}


def get(name: str) -> Loss:
    """Make a new loss by its name in `LOSSES`.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]()
