"""The competition's score, in NumPy and as a Keras metric.

A tile without salt scores 1 if no salt is predicted and 0 otherwise. A tile with salt
scores the share of the ten IoU thresholds 0.50, 0.55, ..., 0.95 that its IoU strictly
exceeds. The score of a set of tiles is the mean over tiles. Thresholds are compared in
integers, 20 I > k U for k = 10, ..., 19: in floating point 0.5 + 0.05 i is not exact.

Source: https://www.kaggle.com/c/tgs-salt-identification-challenge/overview/evaluation
"""

from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from helpers.batches import ResizeOrPad, resize
from helpers.config import TILE
from helpers.rle import as_mask

STEPS = np.arange(10, 20)  # the thresholds in twentieths: 10/20 = 0.50, 19/20 = 0.95


def precision_per_image(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    """Competition score of each tile.

    Args:
        y_true, y_pred: masks (n, height, width), with values as in `rle.as_mask`. Use
            native 101 x 101 tiles to get the score that Kaggle computes.

    Returns:
        float64 (n,), multiples of 0.1. Both masks empty: 1; one of them empty: 0.

    Example:
        >>> truth, guess = np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), bool)
        >>> truth[0, :2], guess[0, :3] = True, True  # IoU 8/12
        >>> precision_per_image(truth, guess)  # exceeds 0.50, 0.55, 0.60, 0.65
        array([0.4])
    """
    intersection, union = (x[:, None] for x in _counts(y_true, y_pred))
    return ((20 * intersection > STEPS * union) | (union == 0)).sum(axis=1) / 10


def mean_precision(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Competition score of a set of tiles: the mean of `precision_per_image`, a float.

    Raises:
        ValueError: as in `precision_per_image`, and if there are no tiles.
    """
    scores = precision_per_image(y_true, y_pred)
    if not len(scores):
        raise ValueError("the score of no tiles is undefined: pass at least one tile")
    return float(scores.mean())


def iou(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    """Intersection over union, float64 (n,), arguments as in `precision_per_image`."""
    intersection, union = _counts(y_true, y_pred)
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def _counts(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in the intersection and the union of each pair of masks, int64 (n,)."""
    y_true, y_pred = as_mask(y_true), as_mask(y_pred)
    if y_true.shape != y_pred.shape or y_true.ndim != 3:
        shapes = f"{y_true.shape} and {y_pred.shape}"
        raise ValueError(f"masks must have one shape (n, height, width), not {shapes}")
    intersection = np.count_nonzero(y_true & y_pred, axis=(1, 2))
    return intersection, np.count_nonzero(y_true | y_pred, axis=(1, 2))


@keras.saving.register_keras_serializable("salt")
class CompetitionScore(keras.metrics.Mean):
    """`mean_precision` as a Keras metric on logits (batch, height, width, 1).

    By the network's `transform` native tiles are scored. A tile with a NaN scores 0.
    """

    default_name = "score"

    def __init__(self, transform: Any = None, **kwargs: Any) -> None:
        super().__init__(**{"name": self.default_name, **kwargs})
        from_config = isinstance(transform, dict)
        self.transform = ResizeOrPad(**transform) if from_config else transform

    def update_state(self, y_true, y_pred, sample_weight=None):
        truth, guess = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        lost = ops.any(ops.isnan(guess), axis=(1, 2, 3))
        if self.transform and self.transform.mode == "resize":
            truth, guess = resize(truth, TILE), resize(ops.sigmoid(guess), TILE) - 0.5
        elif self.transform:
            inside = self.transform.inside
            truth, guess = truth[:, inside, inside], guess[:, inside, inside]
        truth, guess = truth > 0.5, guess > 0
        intersection = ops.sum(ops.cast(truth & guess, "int32"), axis=(1, 2, 3))
        union = ops.sum(ops.cast(truth | guess, "int32"), axis=(1, 2, 3))
        values = ops.where(union == 0, 1.0, self._per_tile(intersection, union))
        super().update_state(ops.where(lost, 0.0, values))

    def _per_tile(self, intersection, union):
        steps = ops.convert_to_tensor(STEPS, "int32")
        exceeded = 20 * intersection[:, None] > steps * union[:, None]
        return ops.mean(ops.cast(exceeded, "float32"), axis=1)

    def get_config(self):
        transform = self.transform and asdict(self.transform)
        return super().get_config() | {"transform": transform}


@keras.saving.register_keras_serializable("salt")
class MeanTileIoU(CompetitionScore):
    """The mean of `iou` over tiles as a Keras metric, like `CompetitionScore`."""

    default_name = "iou"

    def _per_tile(self, intersection, union):
        union = ops.cast(ops.maximum(union, 1), "float32")
        return ops.cast(intersection, "float32") / union
