"""From networks to masks: test-time augmentation and post-processing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from skimage import measure

from helpers.batches import ResizeOrPad
from helpers.metrics import precision_per_image

THRESHOLDS = tuple(i / 20 for i in range(6, 15))  # 0.30, 0.35, ..., 0.70
MIN_MASK_SIZES = (0, 25, 50, 100, 150, 200)  # pixels


def predict(
    model: keras.Model,
    images: np.ndarray,
    transform: ResizeOrPad = ResizeOrPad(),  # noqa: B008 (it is frozen)
    tta: bool = True,
    batch_size: int = 128,
    progress: Callable | None = None,
) -> np.ndarray:
    """Predict the probability of salt for every pixel of every tile.

    Args:
        model: a Keras model; outputs logits, or a dictionary of them with `"mask"`.
        images: uint8 (n, 101, 101).
        transform: the `batches.ResizeOrPad` that the model was trained with.
        tta: average with the prediction of the left-right flipped tile, flipped back.
        batch_size: tiles per batch.
        progress: wraps the loop over batches, for example `tqdm.auto.tqdm`.

    Returns:
        float32 (n, 101, 101) in [0, 1].
    """
    result = np.zeros(images.shape, np.float32)
    for start in (progress or iter)(range(0, len(images), batch_size)):
        tiles = transform.forward(images[start : start + batch_size])
        batch = np.zeros((batch_size, *tiles.shape[1:], 1), np.float32)  # always full:
        batch[: len(tiles), ..., 0] = tiles / np.float32(255)  # one shape to compile
        predicted = _predict_batch(model, batch)
        if tta:
            flipped = _predict_batch(model, batch[:, :, ::-1])
            predicted = (predicted + flipped[:, :, ::-1]) / 2
        result[start : start + batch_size] = transform.inverse(predicted[: len(tiles)])
    return result


def _predict_batch(model: keras.Model, batch: np.ndarray) -> np.ndarray:
    logits = model.predict_on_batch(batch)
    logits = logits["mask"] if isinstance(logits, dict) else logits
    return expit(np.asarray(logits, np.float32)[..., 0])


@dataclass(frozen=True)
class PostProcess:
    """How probabilities become a mask.

    Attributes:
        threshold: pixels with a higher probability are salt.
        min_mask_size: masks of fewer pixels are emptied.
        min_component_size: before that, smaller components (4-connected) are removed.
    """

    threshold: float = 0.5
    min_mask_size: int = 0
    min_component_size: int = 0

    def __call__(self, probabilities: ArrayLike) -> np.ndarray:
        """Masks, bool (n, height, width), of probabilities (floats, or `as_bytes`)."""
        values, limit = np.asarray(probabilities), self.threshold
        masks = values > (np.uint8(255 * limit) if values.dtype == np.uint8 else limit)
        if self.min_component_size > 1:
            spaced = np.pad(masks, ((0, 0), (0, 1), (0, 0)))  # a row between tiles
            labels = measure.label(spaced.reshape(-1, masks.shape[2]), connectivity=1)
            kept = np.bincount(labels.ravel(), minlength=1) >= self.min_component_size
            masks &= kept[labels].reshape(spaced.shape)[:, :-1]
        masks[np.count_nonzero(masks, axis=(1, 2)) < self.min_mask_size] = False
        return masks


def as_bytes(probabilities: ArrayLike) -> np.ndarray:
    """Probabilities times 255 as uint8: a quarter of the memory, at most 0.002 off."""
    return np.rint(255 * np.asarray(probabilities)).astype(np.uint8)


def score_grid(
    masks: np.ndarray, probabilities: np.ndarray, sizes: Sequence[int] = MIN_MASK_SIZES
) -> tuple[list[PostProcess], np.ndarray]:
    """Score tiles, (n, height, width), with every threshold and minimum mask size.

    Returns `(grid, scores)`: a list of `PostProcess`, and float (len(grid), n).
    """
    empty = ~masks.any(axis=(1, 2))
    grid, scores = [], []
    for threshold in THRESHOLDS:
        guess = probabilities > threshold
        score, area = precision_per_image(masks, guess), guess.sum(axis=(1, 2))
        grid += [PostProcess(threshold, size) for size in sizes]
        scores += [np.where(area < size, empty, score) for size in sizes]
    return grid, np.array(scores)


def cross_fit(
    masks: np.ndarray, probabilities: np.ndarray, seed: int = 0
) -> tuple[PostProcess, np.ndarray]:
    """Choose a `PostProcess`, and estimate its score without bias.

    Each half of the tiles is scored with the choice that is best on the other half.

    Args:
        masks, probabilities: (n, height, width), of tiles that were not trained on.
        seed: of the split.

    Returns:
        `(post_process, scores)`: the choice made on all tiles, and float (n,).

    Raises:
        ValueError: for fewer than two tiles.
    """
    if len(masks) < 2:
        raise ValueError("cross-fitting splits the tiles in half: pass two or more")
    grid, scores = score_grid(masks, probabilities)
    order = np.random.default_rng(seed).permutation(len(masks))
    halves = np.split(order, [len(order) // 2])
    unbiased = np.empty(len(masks))
    for chosen_on, scored_on in (halves, halves[::-1]):
        best = scores[:, chosen_on].mean(axis=1).argmax()
        unbiased[scored_on] = scores[best, scored_on]
    return grid[int(scores.mean(axis=1).argmax())], unbiased


def bootstrap_ci(scores: ArrayLike) -> tuple[float, float]:
    """95 % bootstrap confidence interval `(low, high)` of a mean of scores, float (n,).

    It covers other tiles, not other training runs. doi.org/10.1214/aos/1176344552
    """
    scores, rng = np.asarray(scores, float), np.random.default_rng(0)
    means = [rng.choice(scores, len(scores)).mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
