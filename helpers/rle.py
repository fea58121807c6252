"""Run-length encoding (RLE): the format of masks in the competition.

A run is `start length`. Pixels are counted from 1, down the columns: on a tile of
101 x 101, pixel 1 is the top left corner, pixel 2 lies *below* it, and pixel 102 to its
right. Runs are sorted and do not overlap; an empty mask is an empty string. Source:
https://www.kaggle.com/c/tgs-salt-identification-challenge/overview/evaluation
"""

import numpy as np
from numpy.typing import ArrayLike


def as_mask(array: ArrayLike) -> np.ndarray:
    """Convert a mask of booleans, or of numbers 0 and 1, to bool.

    Raises:
        ValueError: for other values, such as probabilities, gray levels and NaN.
    """
    array = np.asarray(array)
    if array.dtype.kind in "biuf" and ((array == 0) | (array == 1)).all():
        return array == 1
    remedy = "apply a threshold: `p > 0.5` to probabilities, `mask > 0` to gray levels"
    raise ValueError(f"a mask holds booleans, or 0 and 1, not {array.dtype}: {remedy}")


def rle_encode(mask: ArrayLike) -> str:
    """Encode a mask (height, width), see `as_mask`; an empty one gives `""`.

    Raises:
        ValueError: for values that `as_mask` rejects, and for other shapes.

    Example:
        >>> rle_encode([[True, False], [True, True]])
        '1 2 4 1'
    """
    mask = as_mask(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask has shape (height, width), this array {mask.shape}")
    edges = np.flatnonzero(np.diff(mask.ravel("F"), prepend=False, append=False))
    runs = np.stack([edges[::2] + 1, edges[1::2] - edges[::2]], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def rle_decode(text: str, shape: tuple[int, int] = (101, 101)) -> np.ndarray:
    """Decode runs to a mask, bool (height, width); `""` gives an empty one.

    Raises:
        ValueError: for anything but pairs of positive integers, and for runs that are
            unsorted, overlap or leave the mask.

    Example:
        >>> rle_decode("1 2 4 1", shape=(2, 2)).astype(int).tolist()
        [[1, 0], [1, 1]]
    """
    shown = f"RLE {text!r:.40}"
    if not isinstance(text, str):
        raise ValueError(f"{shown}: no string: use pd.read_csv(keep_default_na=False)")
    tokens = text.split()
    if not text.isascii() or not all(x.isdigit() and len(x) < 19 for x in tokens):
        raise ValueError(f"{shown}: holds something other than positive integers")
    if len(tokens) % 2:
        raise ValueError(f"{shown}: odd number of integers, the last run has no length")
    mask, end = np.zeros(shape[0] * shape[1], bool), 0
    numbers = [int(token) for token in tokens]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start <= end or length < 1 or start + length > mask.size + 1:
            fault = "is below 1, unsorted, overlaps, or leaves the mask"
            raise ValueError(f"{shown}: run `{start} {length}` {fault}")
        end = start + length - 1
        mask[start - 1 : end] = True
    return mask.reshape(shape, order="F")
