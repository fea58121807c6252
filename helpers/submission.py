"""The file that Kaggle scores: one RLE mask a test tile, written and checked."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from helpers.config import TILE
from helpers.rle import as_mask, rle_decode, rle_encode
from helpers.utils.files import DataError, atomic_write

HEADER = ["id", "rle_mask"]


@dataclass(frozen=True)
class Summary:
    """What a submission holds: its path, its rows, how many of them are empty."""

    path: Path
    rows: int
    empty: int

    def __str__(self) -> str:
        share = self.empty / max(self.rows, 1)
        return (
            f"{self.path}: {self.rows} tiles, {self.empty} ({share:.1%}) without salt"
        )


def write_submission(
    path: Path | str,
    ids: Iterable[str],
    masks: ArrayLike,
    expected_ids: Iterable[str] | None = None,
) -> Summary:
    """Write a submission, then check it.

    Args:
        path: the file, `.csv` or `.csv.gz`; equal masks give equal bytes.
        ids: str (n,), in the order wanted.
        masks: (n, 101, 101), see `rle.as_mask`. Constant tiles should be emptied
            before, see `empty_constant`.
        expected_ids: the ids of `sample_submission.csv`; by default `ids`.

    Returns:
        `Summary`.

    Raises:
        ValueError: for another suffix, a stack of another shape, no ids, and ids that
            are malformed, repeated or not the expected ones. Nothing is written then.
    """
    path, ids, masks = Path(path), [str(name) for name in ids], as_mask(masks)
    if not path.name.endswith((".csv", ".csv.gz")):
        raise ValueError(f"{path}: a submission ends in .csv or .csv.gz")
    if masks.shape != (len(ids), TILE, TILE):
        raise ValueError(
            f"{len(ids)} ids need masks ({len(ids)}, {TILE}, {TILE}), not {masks.shape}"
        )
    expected = ids if expected_ids is None else [str(name) for name in expected_ids]
    fault = _fault_in_ids(ids, expected)
    if fault:
        raise ValueError(f"{path}: not written: {fault}")
    rows = [
        f"{name},{rle_encode(mask)}\n" for name, mask in zip(ids, masks, strict=True)
    ]
    text = ("id,rle_mask\n" + "".join(rows)).encode()
    if path.suffix == ".gz":
        text = gzip.compress(text, mtime=0)
    with atomic_write(path) as beside:
        beside.write_bytes(text)
        checked = check_submission(beside, expected)
    return replace(checked, path=path)


def check_submission(
    path: Path | str, expected_ids: Iterable[str], shape: tuple[int, int] = (101, 101)
) -> Summary:
    """Read a submission as Kaggle would, and refuse what Kaggle would refuse.

    Args:
        path: the file, `.csv` or `.csv.gz`.
        expected_ids: the ids of `sample_submission.csv`; the order does not matter.
        shape: of a tile.

    Returns:
        `Summary`.

    Raises:
        DataError: for a missing or unreadable file, another header, ids that are
            missing, unknown or repeated, and a malformed RLE; it names file and id.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        rows = [row for row in csv.reader(lines, strict=True) if row]
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise DataError(f"{path}: unreadable ({error}): write it again") from error
    if rows[:1] != [HEADER]:
        header = ",".join(rows[0]) if rows else ""
        raise DataError(f"{path}: header {header!r}, not id,rle_mask: write it again")
    del rows[0]
    for row in rows:
        if len(row) != 2:
            raise DataError(
                f"{path}: tile {row[0]}: {len(row)} fields, not 2: write it again"
            )
    fault = _fault_in_ids([name for name, _ in rows], [str(i) for i in expected_ids])
    if fault:
        raise DataError(f"{path}: {fault}")
    for name, text in rows:
        try:
            rle_decode(text, shape)
        except ValueError as error:
            raise DataError(f"{path}: tile {name}: {error}: encode it again") from error
    return Summary(path, len(rows), sum(not text.strip() for _, text in rows))


def empty_constant(masks: ArrayLike, constant: ArrayLike) -> np.ndarray:
    """Masks with those of constant tiles emptied: a tile of one grey has no salt.

    Args:
        masks: bool (n, height, width).
        constant: bool (n,), see `data.Tiles.constant`.

    Returns:
        bool (n, height, width), a copy.
    """
    return np.where(np.asarray(constant)[:, None, None], False, masks)


def _fault_in_ids(ids: list[str], expected: list[str]) -> str:
    """What is wrong with these ids, in words; `""` if nothing is."""
    if not ids:
        return "there are no tiles: predict some"
    odd = [name for name in ids if not name.isalnum()]
    if odd:
        return f"{odd[0]!r} is no id of the competition: letters and digits only"
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        return f"tile {twice} stands there twice: keep one row"
    lost, unknown = set(expected) - set(ids), set(ids) - set(expected)
    if lost:
        return f"{len(lost)} tiles are missing, e.g. {min(lost)}: predict them as well"
    if unknown:
        return f"{len(unknown)} ids are no test tiles, e.g. {min(unknown)}: drop them"
    return ""
