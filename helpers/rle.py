"""Run-length encoding: a mask as the competition wants it written.

A run is `start length`. Pixels are counted from 1, down the columns first: pixel 1 is
the top left corner, pixel 2 lies *below* it, pixel 102 to its right (on a tile of
101 x 101). Runs are sorted and do not overlap; an empty mask is an empty string.

Source: the competition's evaluation page,
https://www.kaggle.com/c/tgs-salt-identification-challenge/overview/evaluation
"""

import numpy as np
from numpy.typing import ArrayLike


def as_mask(array: ArrayLike) -> np.ndarray:
    """Check that an array holds a mask, and return it as booleans.

    Args:
        array: booleans, or integers of which every non-zero one is salt (the
            competition's files use 65535), or floats that are all 0 or 1.

    Returns:
        A bool array of the same shape.

    Raises:
        ValueError: for floats between 0 and 1 (probabilities need a threshold first),
            for logits, NaN and anything that is not a number.
    """
    array = np.asarray(array)
    if array.dtype == bool:
        return array
    if array.dtype.kind in "iu":
        return array != 0
    if array.dtype.kind == "f" and np.isin(array, (0.0, 1.0)).all():
        return array == 1.0
    raise ValueError(
        f"a mask holds booleans, integers or the floats 0 and 1, not {array.dtype} "
        "values such as probabilities: apply a threshold first, e.g. `p > 0.5`"
    )


def rle_encode(mask: ArrayLike) -> str:
    """Encode one mask as a run-length string.

    Args:
        mask: array (height, width), see `as_mask` for the values.

    Returns:
        The runs, e.g. `"1 3 102 5"`; an empty string for an empty mask.

    Raises:
        ValueError: if the mask is not two-dimensional or not a mask.

    Example:
        >>> rle_encode([[True, False], [True, True]])
        '1 2 4 1'
    """
    mask = as_mask(mask)
    if mask.ndim != 2:
        raise ValueError(f"one mask has shape (height, width), this one {mask.shape}")
    pixels = np.zeros(mask.size + 2, np.int8)  # a zero on both sides ends every run
    pixels[1:-1] = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels))
    starts, ends = edges[::2], edges[1::2]
    runs = np.stack([starts + 1, ends - starts], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def rle_decode(text: str, shape: tuple[int, int] = (101, 101)) -> np.ndarray:
    """Decode a run-length string into a mask.

    Args:
        text: the runs; an empty string is an empty mask.
        shape: (height, width) of the mask.

    Returns:
        A bool array of that shape.

    Raises:
        ValueError: if the text is not a string of `start length` pairs, or if a run
            starts before 1, is shorter than 1, passes the last pixel, or does not
            start after the end of the run before it.

    Example:
        >>> rle_decode("1 2 4 1", shape=(2, 2)).astype(int).tolist()
        [[1, 0], [1, 1]]
    """
    if not isinstance(text, str):
        raise ValueError(
            f"an RLE is a string, not {text!r}: read csv files with keep_default_na="
            "False, then an empty mask is an empty string"
        )
    height, width = shape
    tokens = text.split()
    wrong = [token for token in tokens if not (token.isascii() and token.isdigit())]
    if wrong:
        raise ValueError(f"RLE {_short(text)}: {wrong[0]!r} is not a positive integer")
    if len(tokens) % 2:
        raise ValueError(f"RLE {_short(text)}: odd count, the last run has no length")
    pixels = np.zeros(height * width, bool)
    numbers = [int(token) for token in tokens]
    end = 0  # the last pixel of the run before
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start < 1 or length < 1:
            raise ValueError(f"RLE {_short(text)}: `{start} {length}` is below 1")
        if start <= end:
            raise ValueError(
                f"RLE {_short(text)}: `{start} {length}` is unsorted or overlaps"
            )
        end = start + length - 1
        if end > pixels.size:
            raise ValueError(
                f"RLE {_short(text)}: `{start} {length}` passes pixel {pixels.size}, "
                f"the last of {height} x {width}"
            )
        pixels[start - 1 : end] = True
    return pixels.reshape(shape, order="F")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
