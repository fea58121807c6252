"""Synthetic tiles, cut from modelled sections and written as the competition did.

`make_tiles` cuts tiles out of many of `geology`'s sections, in the coverage classes of
the real training set; `write_dataset` writes them as the TGS Salt Identification
Challenge (Kaggle, 2018) did, with all the traps that its files hold.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from helpers.config import TILE
from helpers.rle import rle_encode
from helpers.synthetic.geology import (
    SALT,
    SEDIMENT,
    SHAPE,
    SURVEYS,
    WATER,
    Section,
    Survey,
    make_section,
)
from helpers.utils.files import atomic_write

BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
# Tiles per coverage class, ceil(10 * coverage) = 0 ... 10, in the real training set:
CLASS_COUNTS = (1562, 576, 296, 224, 186, 225, 205, 174, 148, 159, 245)


@dataclass(frozen=True)
class SyntheticTiles:
    """Tiles cut from many sections.

    Args:
        images: uint8 (n, 101, 101), grey values.
        masks: bool (n, 101, 101), true on salt.
        labels: uint8 (n, 101, 101), 0 sediment, 1 salt, 2 water.
        depths: int (n,), feet, 51 to 959.
        surveys: str (n,), the survey's name, or `"blank"` for a constant black tile.
    """

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    depths: np.ndarray
    surveys: np.ndarray


def _quota(count: int) -> np.ndarray:
    """Tiles wanted of each coverage class: the real shares, largest remainders."""
    share = np.array(CLASS_COUNTS) / sum(CLASS_COUNTS) * count
    quota = share.astype(int)
    quota[np.argsort(quota - share)[: count - quota.sum()]] += 1
    return quota


def _coverage_class(labels: np.ndarray) -> int:
    """ceil(10 * coverage); a view wholly in salt has no outline to pick: class 0."""
    share = np.mean(labels == SALT)
    return int(np.ceil(10 * share)) if share < 1 else 0


def _cut(
    section: Section, row: float, col: float, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Resample one square window to a tile whose grey values run from 0 to 255."""
    box, shape = (col, row, col + size, row + size), (TILE, TILE)
    image = np.array(Image.fromarray(section.seismic).resize(shape, BICUBIC, box))
    labels = np.array(Image.fromarray(section.labels).resize(shape, NEAREST, box))
    if (labels == SALT).all():  # no real mask covers a whole tile
        labels[:] = SEDIMENT
    image -= image.min()
    return np.round(255 * image / max(image.max(), 1e-9)).astype(np.uint8), labels


def _tiles(
    rng: Generator, section: Section, left: np.ndarray, most: int = 5, tries: int = 60
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut tiles of the classes that are still wanted, and count `left` down."""
    tiles: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(tries):
        size = TILE * np.exp(rng.uniform(-0.4, 0.3))
        row, col = rng.uniform(0, np.subtract(SHAPE, size))
        top, side, end = int(row), int(col), int(size)
        view = section.labels[top : top + end : 4, side : side + end : 4]
        if np.mean(view == WATER) > 0.9:  # nothing to see
            continue
        rare = 0.08 if (view == SALT).all() else 1.0
        if rng.random() * left.max() >= rare * left[_coverage_class(view)]:
            continue
        tile = _cut(section, row, col, size)
        kind = _coverage_class(tile[1])
        if left[kind] and len(tiles) < most:
            left[kind] -= 1
            tiles.append(tile)
    return tiles


def make_tiles(
    count: int, seed: int | Sequence[int] = 0, surveys: Sequence[Survey] = SURVEYS
) -> SyntheticTiles:
    """Cut tiles from as many sections as it takes to meet the real coverage classes.

    2 % of the tiles are constant black, and no mask covers a whole tile, as in the
    real set. Depth is drawn at random, a little deeper where there is more salt.

    Args:
        count: number of tiles.
        seed: int, or a sequence of ints; equal arguments give equal tiles.
        surveys: the `Survey` rows to draw from, by their `share`.

    Returns:
        `SyntheticTiles`, shuffled. About 10 ms a tile.

    Example:
        >>> make_tiles(20).images.shape
        (20, 101, 101)
    """
    rng = np.random.default_rng(seed)
    share = np.array([survey.share for survey in surveys])
    left = _quota(count)
    blank = np.zeros((TILE, TILE), np.uint8)
    tiles = [(blank, blank)] * round(0.02 * count)
    names = ["blank"] * len(tiles)
    left[0] -= len(tiles)
    while left.any():
        survey = surveys[rng.choice(len(surveys), p=share / share.sum())]
        new = _tiles(rng, make_section(survey, rng.integers(2**63)), left)
        tiles += new
        names += [survey.name] * len(new)
    order = rng.permutation(count)
    images, labels = (np.stack(part)[order] for part in zip(*tiles, strict=True))
    masks = labels == SALT
    depths = rng.normal(485, 205, count) + 90 * masks.mean((1, 2))
    depths = depths.round().clip(51, 959).astype(int)
    return SyntheticTiles(images, masks, labels, depths, np.array(names)[order])


def _ids(rng: Generator, count: int) -> list[str]:
    """Ten hexadecimal characters each; some all digits, some that look like floats."""
    ids = [f"{n:010x}" for n in rng.choice(16**10, count, replace=False)]
    for i in range(0, count - 1, 40):
        ids[i] = f"{rng.integers(10**10):010d}"
        ids[i + 1] = f"{rng.integers(10)}e{rng.integers(10**8):08d}"
    return ids


def _write_zip(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """PNG files: uint8 (n, m) is grey, (n, m, 3) RGB, uint16 a 16-bit mask."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            png = io.BytesIO()
            Image.fromarray(array).save(png, "PNG")
            info = zipfile.ZipInfo(f"{name}.png", (2018, 7, 19, 0, 0, 0))
            archive.writestr(info, png.getvalue())


def _images(ids: list[str], tiles: np.ndarray) -> dict[str, np.ndarray]:
    pairs = zip(ids, tiles, strict=True)
    return {f"images/{name}": np.dstack([tile] * 3) for name, tile in pairs}


def _masks(ids: list[str], masks: np.ndarray) -> dict[str, np.ndarray]:
    """16-bit where there is salt, 8-bit where there is none: as in the real files."""
    white = [m * np.uint16(65535) if m.any() else m.astype(np.uint8) for m in masks]
    return {f"masks/{name}": mask for name, mask in zip(ids, white, strict=True)}


def _write_csv(path: Path, column: str, ids: list[str], values: Iterable) -> None:
    rows = [f"{name},{value}" for name, value in zip(ids, values, strict=True)]
    path.write_text("\n".join([f"id,{column}", *rows, ""]), newline="\n")


def write_dataset(
    folder: Path | str, train: int = 1500, test: int = 500, seed: int = 0
) -> Path:
    """Write synthetic tiles as the competition's files, traps included.

    The traps: RGB images of equal channels; 16-bit masks {0, 65535}, but 8-bit ones
    where there is no salt; ids that look like numbers; black tiles. The folder
    appears when it is complete; equal arguments give equal bytes.

    Args:
        folder: path to make.
        train, test: numbers of tiles.
        seed: int.

    Returns:
        The folder as a `pathlib.Path`, with `train.zip`, `test.zip`, `train.csv`,
        `depths.csv` and `sample_submission.csv`.

    Raises:
        ValueError: if the folder exists already.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists already: remove it or name another folder")
    known, asked = make_tiles(train, [seed, 0]), make_tiles(test, [seed, 1])
    ids = _ids(np.random.default_rng([seed, 2]), train + test)
    depths = [*known.depths, *asked.depths]
    runs = [rle_encode(mask) for mask in known.masks]
    with atomic_write(folder) as draft:
        draft.mkdir()
        files = _images(ids[:train], known.images) | _masks(ids[:train], known.masks)
        _write_zip(draft / "train.zip", files)
        _write_zip(draft / "test.zip", _images(ids[train:], asked.images))
        _write_csv(draft / "train.csv", "rle_mask", ids[:train], runs)
        _write_csv(draft / "depths.csv", "z", ids, depths)
        names = draft / "sample_submission.csv"
        _write_csv(names, "rle_mask", ids[train:], ["1 1"] * test)
    return folder
