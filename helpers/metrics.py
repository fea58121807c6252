"""The competition's score, and the same score as a monitor for training.

Per tile: predict nothing where there is nothing and get 1; find something where there
is nothing, or nothing where there is something, and get 0; otherwise get the share of
the ten IoU thresholds 0.50, 0.55, ... 0.95 that the IoU exceeds, strictly. The score is
the mean over tiles.

All comparisons are made with integers (20 I > k U for k = 10 ... 19), because
0.5 + 0.05 i is not exact in floating point: 0.6000000000000001.

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
from helpers.utils.hardware import Tensor

STEPS = np.arange(10, 20)  # thresholds in twentieths: 10/20 = 0.50 ... 19/20 = 0.95


def _counts(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in the intersection and in the union of each pair, int64 (n,)."""
    y_true, y_pred = as_mask(y_true), as_mask(y_pred)
    if y_true.shape != y_pred.shape or y_true.ndim != 3:
        raise ValueError(
            "masks and predictions are stacks of one shape (n, height, width), not "
            f"{y_true.shape} and {y_pred.shape}"
        )
    count = np.count_nonzero  # the fastest way to count booleans, one tile at a time
    both = [count(a & b) for a, b in zip(y_true, y_pred, strict=True)]
    total = [count(a) + count(b) for a, b in zip(y_true, y_pred, strict=True)]
    both, total = np.array(both, np.int64), np.array(total, np.int64)
    return both, total - both


def precision_per_image(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    """The competition's score of each tile.

    Args:
        y_true, y_pred: masks (n, height, width), see `rle.as_mask` for the values;
            native tiles, 101 x 101, for the score that Kaggle computes.

    Returns:
        float64 (n,), multiples of 0.1. Both empty: 1; one of them empty: 0.

    Raises:
        ValueError: for different or wrong shapes, or values that are not masks.

    Example:
        >>> truth, guess = np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), bool)
        >>> truth[0, :2], guess[0, :3] = True, True  # IoU 8/12
        >>> precision_per_image(truth, guess)  # exceeds 0.50, 0.55, 0.60, 0.65
        array([0.4])
    """
    return precision_of_counts(*_counts(y_true, y_pred))


def passed(both: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Which of the ten IoU thresholds each tile exceeds.

    Args:
        both, union: int (n,), pixels in the intersection and in the union.

    Returns:
        bool (n, 10); all True where both masks are empty.
    """
    return (20 * both[:, None] > STEPS * union[:, None]) | (union[:, None] == 0)


def precision_of_counts(both: np.ndarray, union: np.ndarray) -> np.ndarray:
    """The competition's score of each tile, from counts: see `passed`; float64 (n,)."""
    return passed(both, union).sum(axis=1) / 10


def mean_precision(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """The competition's score of a set of tiles: the mean of `precision_per_image`.

    Args:
        y_true, y_pred: as in `precision_per_image`, n >= 1.

    Returns:
        float between 0 and 1.

    Raises:
        ValueError: as `precision_per_image`, and for an empty set.
    """
    scores = precision_per_image(y_true, y_pred)
    if not len(scores):
        raise ValueError("the score of no tiles is not defined")
    return float(scores.mean())


def iou(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    """Intersection over union of each tile, |A and B| / |A or B|.

    Args:
        y_true, y_pred: as in `precision_per_image`.

    Returns:
        float64 (n,). Both empty: 1; one of them empty: 0.
    """
    both, union = _counts(y_true, y_pred)
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


class _TileMean(keras.metrics.Metric):
    """Mean over tiles of a number per tile, exact over an epoch of unequal batches.

    Args:
        transform: the `batches.ResizeOrPad` of the network: the border that it padded is cut
            off before counting, and what it resized is resized back to native tiles.
            `None` counts every pixel as it is.
        name: the metric's name in the history.
    """

    def __init__(
        self,
        transform: ResizeOrPad | dict | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.transform = (
            ResizeOrPad(**transform) if isinstance(transform, dict) else transform
        )
        self.total = self.add_weight(name="total", initializer="zeros", dtype="float32")
        self.count = self.add_weight(name="count", initializer="zeros", dtype="float32")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: labels in {0, 1} and logits, (batch, height, width, 1)."""
        truth, guess = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        if self.transform is not None and self.transform.mode == "resize":
            truth, guess = resize(truth, TILE), resize(ops.sigmoid(guess), TILE) - 0.5
        truth, guess = truth > 0.5, guess > 0
        if self.transform is not None and self.transform.mode == "pad":
            inside = self.transform.inside
            truth, guess = truth[:, inside, inside], guess[:, inside, inside]
        both = ops.sum(ops.cast(truth & guess, "int32"), axis=(1, 2, 3))
        union = ops.sum(ops.cast(truth | guess, "int32"), axis=(1, 2, 3))
        values = ops.where(union == 0, 1.0, self.per_tile(both, union))
        self.total.assign_add(ops.sum(values))
        self.count.assign_add(ops.cast(ops.shape(values)[0], "float32"))

    def get_config(self):
        transform = self.transform and asdict(self.transform)
        return {**super().get_config(), "transform": transform}

    def result(self):
        """The mean over all tiles since the last reset."""
        return self.total / ops.maximum(self.count, 1.0)


@keras.saving.register_keras_serializable("salt")
class CompetitionScore(_TileMean):
    """`mean_precision` as a Keras metric on logits."""

    def __init__(
        self,
        transform: ResizeOrPad | dict | None = None,
        name: str = "score",
        **kwargs: Any,
    ) -> None:
        super().__init__(transform, name, **kwargs)

    def per_tile(self, both: Tensor, union: Tensor) -> Tensor:
        """The competition's score of each tile, from counts, int (n,): float32 (n,)."""
        passed = (
            20 * both[:, None] > ops.convert_to_tensor(STEPS, "int32") * union[:, None]
        )
        return ops.mean(ops.cast(passed, "float32"), axis=1)


@keras.saving.register_keras_serializable("salt")
class MeanTileIoU(_TileMean):
    """The mean of `iou` over tiles as a Keras metric on logits."""

    def __init__(
        self,
        transform: ResizeOrPad | dict | None = None,
        name: str = "iou",
        **kwargs: Any,
    ) -> None:
        super().__init__(transform, name, **kwargs)

    def per_tile(self, both: Tensor, union: Tensor) -> Tensor:
        """The IoU of each tile, from counts, int (n,): float32 (n,)."""
        both, union = ops.cast(both, "float32"), ops.cast(union, "float32")
        return both / ops.maximum(union, 1.0)
