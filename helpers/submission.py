"""The file that Kaggle scores: one RLE mask per test tile, written and checked."""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from helpers.config import TILE
from helpers.rle import as_mask, rle_decode, rle_encode
from helpers.utils.files import DataError, atomic_write


@dataclass(frozen=True)
class Summary:
    """A submission's path, number of tiles, and number of empty masks."""

    path: Path
    rows: int
    empty: int

    def __str__(self) -> str:
        share = f"{self.empty / self.rows:.1%}"
        return f"{self.path}: {self.rows} tiles, {self.empty} ({share}) without salt"


def write_submission(
    path: Path | str,
    ids: Iterable[str],
    masks: ArrayLike,
    expected_ids: Iterable[str] | None = None,
) -> Summary:
    """Write a submission, then check it.

    Args:
        path: the `.csv` file; equal masks give equal bytes.
        ids: str (n,); rows are written in this order.
        masks: (n, 101, 101) as in `rle.as_mask`; an empty mask is an empty field.
        expected_ids: those of `sample_submission.csv`; by default `ids`.

    Returns:
        `Summary`.

    Raises:
        ValueError: for a wrong suffix, shape or id; nothing is written then.
    """
    path, ids, masks = Path(path), list(map(str, ids)), as_mask(masks)
    if path.suffix != ".csv":
        raise ValueError(f"{path}: the name of a submission ends in .csv")
    if masks.shape != (shape := (len(ids), TILE, TILE)):
        raise ValueError(f"masks have shape {masks.shape}, not {shape}")
    expected = set(ids if expected_ids is None else map(str, expected_ids))
    if fault := _fault_in_ids(ids, expected):
        raise ValueError(f"{path}: not written: {fault}")
    rows = [f"{name},{rle_encode(mask)}" for name, mask in zip(ids, masks, strict=True)]
    with atomic_write(path) as temporary:
        temporary.write_bytes("\n".join(["id,rle_mask", *rows, ""]).encode())
        summary = check_submission(temporary, expected)
    return replace(summary, path=path)


def check_submission(path: Path | str, expected_ids: Iterable[str]) -> Summary:
    """Reject what Kaggle would reject; `expected_ids` may be in any order.

    Raises:
        DataError: for an unreadable file and for a wrong header, id or RLE.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines, strict=True) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: unreadable ({error}): write it again") from error
    header, rows = rows[:1], rows[1:]
    if header != [["id", "rle_mask"]]:
        raise DataError(f"{path}: header {header}, not id,rle_mask: write it again")
    if fault := _fault_in_ids([row[0] for row in rows], set(map(str, expected_ids))):
        raise DataError(f"{path}: {fault}")
    for name, *fields in rows:
        try:
            if len(fields) != 1:
                raise ValueError(f"{1 + len(fields)} fields, not 2")
            rle_decode(fields[0])
        except ValueError as error:
            raise DataError(f"{path}: tile {name}: {error}: write it again") from error
    return Summary(path, len(rows), sum(not row[1].strip() for row in rows))


def empty_constant(masks: ArrayLike, constant: ArrayLike) -> np.ndarray:
    """Copy masks (n, height, width), emptied where `constant`, bool (n,), is true."""
    return np.where(np.asarray(constant)[:, None, None], False, masks)


def _fault_in_ids(ids: list[str], expected: set[str]) -> str:
    """What is wrong with these ids, or `""`."""
    if not ids:
        return "there are no tiles: predict some"
    if odd := [name for name in ids if not name.isalnum()]:
        return f"{odd[0]!r} is not an id of the competition: use letters and digits"
    if repeated := [name for name, count in Counter(ids).items() if count > 1]:
        return f"tile {repeated[0]} appears more than once: keep one row"
    if lost := expected - {*ids}:
        return f"{len(lost)} tiles are missing, e.g. {min(lost)}: predict them too"
    if unknown := {*ids} - expected:
        return f"{len(unknown)} ids are not test tiles, e.g. {min(unknown)}: drop them"
    return ""
