"""From trained networks to masks: tta, ensembles, threshold, clean-up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from helpers.batches import ResizeOrPad
from helpers.metrics import precision_per_image

THRESHOLDS = tuple(i / 20 for i in range(6, 15))  # 0.30, 0.35, ... 0.70
MIN_MASK_SIZES = (0, 25, 50, 100, 150, 200)  # pixels


def predict(
    model: keras.Model,
    images: np.ndarray,
    transform: ResizeOrPad,
    tta: bool = True,
    batch_size: int = 128,
    progress: Callable | None = None,
) -> np.ndarray:
    """Probability of salt for every pixel of every tile.

    Args:
        model: a Keras model from grey tiles to logits, or to a dictionary of logits
            with those of the mask under `"mask"`.
        images: uint8 (n, 101, 101).
        transform: the `batches.ResizeOrPad` that the model was trained with.
        tta: average with the prediction for the left-right flipped tile, flipped
            back: geology has no preferred side, and the errors partly cancel.
        batch_size: tiles at a time.
        progress: wraps the loop over batches, for example `tqdm.auto.tqdm`.

    Returns:
        float32 (n, 101, 101) in [0, 1].
    """
    starts = range(0, len(images), batch_size)
    probabilities = np.zeros(images.shape, np.float32)
    for start in progress(starts) if progress else starts:
        batch = slice(start, start + batch_size)
        tiles = transform.forward(images[batch])
        framed = _probabilities(model, tiles, batch_size)
        if tta:
            mirrored = _probabilities(model, tiles[:, :, ::-1], batch_size)
            framed += mirrored[:, :, ::-1]
            framed /= 2
        probabilities[batch] = transform.inverse(framed)
    return probabilities


def _probabilities(
    model: keras.Model, tiles: np.ndarray, batch_size: int
) -> np.ndarray:
    """Uint8 (n, size, size) -> float32; a short batch is filled up: one shape only."""
    batch = np.zeros((batch_size, *tiles.shape[1:], 1), np.float32)
    batch[: len(tiles), ..., 0] = tiles / np.float32(255)
    logits = model.predict_on_batch(batch)
    if isinstance(logits, dict):  # a gate, or deep supervision
        logits = logits["mask"]
    logits = np.asarray(logits, np.float32)[: len(tiles), ..., 0]
    return (1 + np.tanh(logits / 2)) / 2  # the sigmoid; exp would overflow


def ensemble(
    predictions: Sequence[np.ndarray], weights: Sequence[float] | None = None
) -> np.ndarray:
    """Weighted mean of several predictions of the same tiles.

    Args:
        predictions: sequence of float (n, 101, 101).
        weights: one number each; equal by default.

    Returns:
        float32 (n, 101, 101).

    Raises:
        ValueError: for no predictions, or shapes that differ.
    """
    if len({np.shape(prediction) for prediction in predictions}) != 1:
        raise ValueError("an ensemble needs one or more predictions of equal shape")
    return np.average(predictions, axis=0, weights=weights).astype(np.float32)


@dataclass(frozen=True)
class PostProcess:
    """How probabilities become a mask.

    Attributes:
        threshold: a pixel is salt where its probability is above this.
        min_mask_size: a mask of fewer salt pixels is emptied. An empty tile called salt
            scores 0, and a few stray pixels are enough for that.
        min_component_size: before that, connected groups of fewer pixels are taken away.
    """

    threshold: float = 0.5
    min_mask_size: int = 0
    min_component_size: int = 0

    def __call__(self, probabilities: ArrayLike) -> np.ndarray:
        """Masks, bool, of probabilities (n, height, width): floats, or bytes of 255."""
        masks = above(probabilities, self.threshold)
        if self.min_component_size > 1:
            labels, sizes = components(masks)
            masks = (sizes >= self.min_component_size)[labels]
        few = np.count_nonzero(masks, axis=(1, 2)) < self.min_mask_size
        masks[few] = False
        return masks


def as_bytes(probabilities: ArrayLike) -> np.ndarray:
    """Probabilities in 255 steps, uint8: a quarter of the memory, 0.002 off at most."""
    return np.rint(255 * np.asarray(probabilities)).astype(np.uint8)


def above(probabilities: ArrayLike, threshold: float) -> np.ndarray:
    """Where probabilities exceed a threshold; bytes count 255 as 1, and stay bytes."""
    probabilities = np.asarray(probabilities)
    if probabilities.dtype == np.uint8:
        threshold = np.uint8(np.floor(255 * threshold))
    return probabilities > threshold


def components(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected groups of salt pixels, sides touching, tile by tile.

    Args:
        masks: bool (n, height, width).

    Returns:
        `(labels, sizes)`: int (n, height, width), 0 where there is no salt; and the
        pixels of every group, int (groups + 1,), of which the first entry is 0.
    """
    labels, count = ndimage.label(masks, WITHIN_A_TILE)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return labels, sizes


WITHIN_A_TILE = np.zeros((3, 3, 3), bool)  # what touches: four sides, never a neighbour
WITHIN_A_TILE[1] = ndimage.generate_binary_structure(2, 1)  # in the stack of tiles


def score_grid(
    masks: np.ndarray,
    probabilities: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    min_mask_size: Sequence[int] = MIN_MASK_SIZES,
) -> tuple[list[PostProcess], np.ndarray]:
    """Score of every tile under every rule.

    Args:
        masks: bool (n, height, width), the truth.
        probabilities: float (n, height, width).
        thresholds, min_mask_size: the values tried.

    Returns:
        `(rules, scores)`: the list of `PostProcess`s, and float (rules, n).
    """
    empty = ~masks.any(axis=(1, 2))
    rules, scores = [], []
    for threshold in thresholds:
        guess = probabilities > threshold
        area = np.count_nonzero(guess, axis=(1, 2))
        score = precision_per_image(masks, guess)
        for pixels in min_mask_size:
            rules.append(PostProcess(threshold, pixels))
            scores.append(np.where(area < pixels, empty.astype(float), score))
    return rules, np.array(scores)


def cross_fit(
    masks: np.ndarray, probabilities: np.ndarray, seed: int = 0
) -> tuple[PostProcess, np.ndarray]:
    """Choose a rule, and say honestly what it is worth.

    A rule scored on the tiles that chose it looks better than it is. So the tiles are
    split in two halves: each half is scored under the rule that the other half chose.
    The rule returned, for tiles yet unseen, is chosen on all of them.

    Args:
        masks: bool (n, height, width), n >= 2.
        probabilities: float (n, height, width), predicted for tiles that the network
            was not trained on.
        seed: of the split.

    Returns:
        `(rule, scores)`: a `PostProcess`, and float (n,), the score of each tile under the
        rule that the other half chose; its mean is the honest score.

    Raises:
        ValueError: for fewer than two tiles.
    """
    if len(masks) < 2:
        raise ValueError("cross-fitting needs two tiles or more: two halves")
    rules, scores = score_grid(masks, probabilities)
    order = np.random.default_rng(seed).permutation(len(masks))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    honest = np.empty(len(masks))
    for chosen_on, scored_on in (halves, halves[::-1]):
        best = scores[:, chosen_on].mean(axis=1).argmax()
        honest[scored_on] = scores[best, scored_on]
    return rules[int(scores.mean(axis=1).argmax())], honest


def bootstrap_ci(
    scores: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of a mean score over tiles.

    Args:
        scores: float (n,), one score a tile.
        level: probability that the interval is meant to cover.
        draws: resamples.
        seed: integer.

    Returns:
        `(low, high)`. It says how much the score would move with other tiles, not how
        much with another training: for that, train with several seeds.

    Source: Efron 1979, https://doi.org/10.1214/aos/1176344552
    """
    rng = np.random.default_rng(seed)
    scores = np.asarray(scores, float)
    means = [rng.choice(scores, len(scores)).mean() for _ in range(draws)]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
