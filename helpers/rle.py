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
    if array.dtype == bool:
        return array
    if array.dtype.kind in "iuf" and ((array == 0) | (array == 1)).all():
        return array == 1
    raise ValueError(
        f"a mask holds booleans, or 0 and 1, not other values ({array.dtype}): apply a "
        "threshold first, e.g. `p > 0.5` to probabilities, `mask > 0` to gray levels"
    )


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
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels, prepend=False, append=False))
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
    if not isinstance(text, str):
        raise ValueError(
            f"an RLE is a string, not {text!r:.40}: "
            "use pd.read_csv(keep_default_na=False)"
        )
    shown = f"RLE {text!r:.40}"
    tokens = text.split()
    if not text.isascii() or not all(x.isdigit() and len(x) < 19 for x in tokens):
        raise ValueError(f"{shown}: holds something other than positive integers")
    if len(tokens) % 2:
        raise ValueError(f"{shown}: odd number of integers, the last run has no length")
    mask, end = np.zeros(shape[0] * shape[1], bool), 0
    numbers = [int(token) for token in tokens]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start < 1 or length < 1:
            raise ValueError(f"{shown}: run `{start} {length}` is below 1")
        if start <= end:
            raise ValueError(f"{shown}: run `{start} {length}` is unsorted or overlaps")
        end = start + length - 1
        if end > mask.size:
            raise ValueError(f"{shown}: run `{start} {length}` leaves the mask")
        mask[start - 1 : end] = True
    return mask.reshape(shape, order="F")
