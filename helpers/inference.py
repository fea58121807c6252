"""From networks to masks: test-time augmentation and post-processing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from skimage import measure
from skimage.transform import resize

from helpers.batches import ResizeOrPad
from helpers.config import TILE
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

    Raises:
        ValueError: for other images (`images / 255`, say), or outputs of another size.
        FloatingPointError: if the model says NaN (not a number).
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (TILE, TILE) or batch_size < 1:
        fault = f"images must be uint8 (n, {TILE}, {TILE}), not divided by 255; these"
        raise ValueError(f"{fault} are {images.dtype} {images.shape} by {batch_size}")
    result = np.zeros(images.shape, np.float32)
    for start in (progress or iter)(range(0, len(images), batch_size)):
        tiles = transform.forward(images[start : start + batch_size]) / np.float32(255)
        predicted = _predict_batch(model, tiles, batch_size)
        if tta:
            flipped = _predict_batch(model, tiles[:, :, ::-1], batch_size)
            predicted = (predicted + flipped[:, :, ::-1]) / 2
        result[start : start + batch_size] = transform.inverse(predicted)
    return result


def _predict_batch(model: Any, tiles: np.ndarray, batch_size: int) -> np.ndarray:
    """Probabilities of up to `batch_size` tiles, (n, height, width) in [0, 1]."""
    batch = np.zeros((batch_size, *tiles.shape[1:], 1), np.float32)
    batch[: len(tiles), ..., 0] = tiles  # always full: one shape to compile
    logits = model.predict_on_batch(batch)
    logits = logits["mask"] if isinstance(logits, dict) else logits
    logits, name = np.asarray(logits, np.float32), getattr(model, "name", "the model")
    if logits.shape != batch.shape:
        raise ValueError(f"{name}: gives {logits.shape} for inputs {batch.shape}")
    if np.isnan(logits).any():
        raise FloatingPointError(f"{name}: predicts NaN: train it again")
    return expit(logits[: len(tiles), ..., 0])


@dataclass(frozen=True)
class PostProcess:
    """How probabilities become a mask.

    Raises:
        ValueError: for a threshold outside [0, 1], or NaN, and for negative sizes.
    """

    threshold: float = 0.5  # pixels with a higher probability are salt
    min_mask_size: int = 0  # masks of fewer pixels are emptied
    min_component_size: int = 0  # before that, smaller components are removed

    def __post_init__(self) -> None:
        sizes = self.min_mask_size, self.min_component_size
        if not (0 <= self.threshold <= 1 and min(sizes) >= 0):
            raise ValueError(f"{self}: the threshold lies in [0, 1], sizes are not < 0")

    def __call__(self, probabilities: ArrayLike) -> np.ndarray:
        """Masks, bool (n, height, width), of probabilities (floats, or `as_bytes`)."""
        values, limit = _probabilities(probabilities), self.threshold
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
    return np.rint(255 * _probabilities(probabilities)).astype(np.uint8)


def _probabilities(values: ArrayLike) -> np.ndarray:
    """Refuse logits, NaN, and what is not of shape (n, height, width)."""
    values = np.asarray(values)
    low, high = values.min(initial=0), values.max(initial=0)
    inside = values.dtype == np.uint8 or (low >= -0.001 and high <= 1.001)  # rounded
    if values.ndim == 3 and inside:
        return values
    given = f"{values.shape} from {low} to {high}"
    raise ValueError(f"probabilities (n, height, width) lie in [0, 1], not {given}")


def score_grid(
    masks: np.ndarray, probabilities: np.ndarray, sizes: Sequence[int] = MIN_MASK_SIZES
) -> tuple[list[PostProcess], np.ndarray]:
    """Score tiles, (n, height, width), with every threshold and minimum mask size.

    Returns `(grid, scores)`: a list of `PostProcess`, and float (len(grid), n).
    """
    masks, probabilities = np.asarray(masks), _probabilities(probabilities)
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
    """Choose a `PostProcess` on tiles (n, height, width), and score it without bias.

    Raises:
        ValueError: for fewer than two tiles.
    """
    # Each half is scored with the best choice for the other half: float (n,).
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

    Raises:
        ValueError: if there are no scores, or if one is NaN or infinite.
    """
    # It covers other tiles, not other training runs. doi.org/10.1214/aos/1176344552
    scores, rng = np.asarray(scores, float), np.random.default_rng(0)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError("an interval needs scores (n,), at least one, and all numbers")
    means = [rng.choice(scores, len(scores)).mean() for _ in range(2000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def predict_section(
    model: keras.Model,
    section: ArrayLike,  # (samples, traces), amplitudes, or gray levels if uint8
    transform: ResizeOrPad = ResizeOrPad(),  # noqa: B008 (it is frozen)
    scale: float | tuple[float, float] = 1.0,  # a tile's pixels per sample and trace
    batch_size: int = 16,
) -> np.ndarray:
    """Predict the probability of salt in a section, in windows that overlap by half.

    Raises:
        ValueError: for another shape, or a scale that is not positive.
    """
    # It is 0 where the section is not finite, and in constant traces.
    section, zoom = np.asarray(section), np.ones(2) * scale
    if section.ndim != 2 or not section.size or not 0 < zoom.min() <= zoom.max() < 99:
        given = f"these are {section.shape} and {scale}"
        raise ValueError(f"needs (samples, traces) and a positive scale; {given}")
    levels, live = _gray_levels(section)
    if transform.mode == "resize":
        zoom *= transform.size / TILE
    size, shape = transform.size, np.rint(zoom * section.shape).clip(1).astype(int)
    missing = [(0, max(size - n, 0)) for n in shape]
    image = np.pad(resize(levels, shape, order=1), missing, mode="reflect")
    starts = [np.linspace(0, n - size, 1 - (size - n) * 2 // size) for n in image.shape]
    corners = product(*(np.rint(axis).astype(int) for axis in starts))
    places = [(slice(r, r + size), slice(c, c + size)) for r, c in corners]
    weight = np.outer(*[np.hanning(size + 2)[1:-1]] * 2)  # fades towards the border
    total, weights = np.zeros((2, *image.shape), np.float32)
    for start in range(0, len(places), batch_size):
        chosen = places[start : start + batch_size]
        windows = np.stack([image[place] for place in chosen])
        predicted = _predict_batch(model, windows, batch_size)
        for place, window in zip(chosen, predicted, strict=True):
            total[place] += weight * window
            weights[place] += weight
    blended = (total / weights)[: shape[0], : shape[1]]
    return np.where(live, resize(blended, section.shape, order=1), np.float32(0))


def _gray_levels(section: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels, float32 in [0, 1], and where there is anything, bool."""
    # Not window by window: in one of salt alone the noise would look like beds.
    live = np.isfinite(section)
    levels = np.where(live, section, np.median(section[live]) if live.any() else 0)
    live = live & (np.ptp(levels, axis=0) > 0)
    low, high = 0.0, 255.0
    if section.dtype != np.uint8 and live.any():  # spikes leave no contrast to the rest
        low, high = np.quantile(levels[live], (0.001, 0.999))
    levels = (levels - low) / max(high - low, 1e-30)
    return levels.clip(0, 1).astype(np.float32), live
