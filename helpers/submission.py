"""The file that Kaggle scores: one RLE mask per test tile, written and checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from helpers.config import TILE
from helpers.rle import as_mask, rle_decode, rle_encode
from helpers.utils import tables
from helpers.utils.files import DataError, atomic_write


@dataclass(frozen=True)
class Summary:
    """A submission's path, number of tiles, and number of empty masks."""

    path: Path
    rows: int
    empty: int

    def __str__(self) -> str:
        empty = f"{self.empty} ({self.empty / self.rows:.1%}) without salt"
        return f"{self.path}: {self.rows} tiles, {empty}"


def write_submission(
    path: Path | str,
    ids: Iterable[str],  # rows are written in this order
    masks: ArrayLike,  # (n, 101, 101); an empty mask is an empty field
    expected_ids: Iterable[str] | None = None,  # of `sample_submission.csv`, or `ids`
) -> Summary:
    """Check a submission, then write it.

    Raises:
        ValueError: for a wrong suffix, shape or id; nothing is written then.
    """
    path, ids, masks = Path(path), list(map(str, ids)), as_mask(masks)
    if path.suffix != ".csv":
        raise ValueError(f"{path}: the name of a submission ends in .csv")
    if masks.shape != (shape := (len(ids), TILE, TILE)):
        raise ValueError(f"masks have shape {masks.shape}, not {shape}")
    rows = [f"{name},{rle_encode(mask)}" for name, mask in zip(ids, masks, strict=True)]
    content = "\n".join(["id,rle_mask", *rows, ""]).encode()
    try:
        summary = _check(content, path, ids if expected_ids is None else expected_ids)
    except DataError as error:
        raise ValueError(f"not written: {error}") from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return summary


def check_submission(path: Path | str, expected_ids: Iterable[str]) -> Summary:
    """Reject what Kaggle would reject; `expected_ids` may be in any order.

    Raises:
        DataError: for an unreadable file and for a wrong header, id or RLE.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error}): write it again") from error
    return _check(content, Path(path), expected_ids)


def _check(content: bytes, path: Path, expected_ids: Iterable[str]) -> Summary:
    table = tables.parse(content, str(path), "rle_mask", "write it again")
    ids, expected = {*table["id"]}, {*map(str, expected_ids)}
    if [*table] != ["id", "rle_mask"]:
        raise DataError(f"{path}: header {[*table]}, not id,rle_mask: write it again")
    if lost := expected - ids:
        fault = f"{len(lost)} tiles are missing, e.g. {min(lost)}"
        raise DataError(f"{path}: {fault}: predict them too")
    if unknown := ids - expected:
        fault = f"{len(unknown)} ids are not test tiles, e.g. {min(unknown)}"
        raise DataError(f"{path}: {fault}: drop them")
    for name, rle in table.itertuples(index=False):
        try:
            rle_decode(rle)
        except ValueError as error:
            raise DataError(f"{path}: tile {name}: {error}: write it again") from error
    return Summary(path, len(table), int((table["rle_mask"].str.strip() == "").sum()))


def empty_constant(masks: ArrayLike, constant: ArrayLike) -> np.ndarray:
    """Copy masks (n, height, width), emptied where `constant`, bool (n,), is true."""
    return np.where(np.asarray(constant)[:, None, None], False, masks)
