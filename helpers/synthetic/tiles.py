"""Synthetic tiles, cut from modelled sections, and written as the real files are."""

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from PIL import Image
from threadpoolctl import threadpool_limits

from helpers.config import TILE
from helpers.rle import rle_encode
from helpers.synthetic import geology
from helpers.synthetic.geology import SALT, SURVEYS, Section, make_section
from helpers.utils.files import atomic_write

BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
# Tiles per coverage class, ceil(10 * coverage) = 0 ... 10, in the real training set:
CLASS_COUNTS = (1562, 576, 296, 224, 186, 225, 205, 174, 148, 159, 245)
Pair = tuple[np.ndarray, np.ndarray]  # image and labels, both uint8 (101, 101)


@dataclass(frozen=True)
class SyntheticTiles:
    """Tiles cut from many sections."""

    images: np.ndarray  # uint8 (n, 101, 101), intensities
    masks: np.ndarray  # bool (n, 101, 101), True is salt
    labels: np.ndarray  # uint8 (n, 101, 101), 0 sediment, 1 salt, 2 water
    depths: np.ndarray  # int (n,), feet, 51 to 959
    surveys: np.ndarray  # str (n,), the survey's name; "blank" for a black tile
    sections: np.ndarray  # int (n,), number of the section; one of its own if black


def _quota(count: int) -> np.ndarray:
    """Tiles per coverage class in the real proportions (largest remainder method)."""
    share = np.array(CLASS_COUNTS) / sum(CLASS_COUNTS) * count
    quota = share.astype(int)
    quota[np.argsort(quota - share)[: count - quota.sum()]] += 1
    return quota


def _coverage_class(labels: np.ndarray) -> int:
    """ceil(10 * coverage), or 0 if all is salt: there is no outline to label."""
    share = np.mean(labels == SALT)
    return int(np.ceil(10 * share)) if share < 1 else 0


def _cut(section: Section, row: float, col: float, size: float) -> Pair:
    """Resample a square window to a tile with intensities from 0 to 255."""
    box, shape = (col, row, col + size, row + size), (TILE, TILE)
    image = np.array(Image.fromarray(section.seismic).resize(shape, BICUBIC, box))
    labels = np.array(Image.fromarray(section.labels).resize(shape, NEAREST, box))
    if (labels == SALT).all():  # no real mask covers a whole tile
        labels[:] = geology.SEDIMENT
    image -= image.min()
    return np.round(255 * image / max(image.max(), 1e-9)).astype(np.uint8), labels


def _tiles(rng: Generator, section: Section, left: np.ndarray, most: int) -> list[Pair]:
    """Cut tiles of classes that are still wanted, and count `left` down."""
    tiles: list[Pair] = []
    for _ in range(60):
        size = TILE * np.exp(rng.uniform(-0.4, 0.3))
        row, col = rng.uniform(0, np.subtract(geology.SHAPE, size))
        top, side, end = int(row), int(col), int(size)
        view = section.labels[top : top + end : 4, side : side + end : 4]
        if np.mean(view == geology.WATER) > 0.9:  # nothing to see
            continue
        rare = 0.08 if (view == SALT).all() else 1.0
        if rng.random() * left.max() >= rare * left[_coverage_class(view)]:
            continue
        tile = _cut(section, row, col, size)
        kind = _coverage_class(tile[1])
        if left[kind]:
            left[kind] -= 1
            tiles.append(tile)
        if len(tiles) == most:
            break
    return tiles


def make_tiles(count: int, seed: int | Sequence[int] = 0) -> SyntheticTiles:
    """Cut `SyntheticTiles` from sections of `SURVEYS`, in proportion to their share.

    Equal arguments give equal tiles; about 20 ms each, 4 in sets of thousands.
    """
    # As in the real set, 2 % of the tiles are constant black, no mask covers a whole
    # tile, and depth is random but a little larger where there is more salt.
    rng = np.random.default_rng(seed)
    share = np.array([survey.share for survey in SURVEYS])
    left, most = _quota(count), int(np.clip(count // 300, 2, 12))  # tiles per section
    number = round(0.02 * count)
    left[0] -= number
    blank = np.zeros((TILE, TILE), np.uint8)
    tiles = [(blank, blank, "blank", section) for section in range(number)]
    with threadpool_limits(1):  # threads cost more than these small products
        while left.any():
            survey = SURVEYS[rng.choice(len(SURVEYS), p=share / share.sum())]
            section = make_section(survey, rng.integers(2**63))
            new = _tiles(rng, section, left, most)
            tiles += [(*tile, survey.name, number) for tile in new]
            number += 1
    order = rng.permutation(count)
    parts = (np.array(part)[order] for part in zip(*tiles, strict=True))
    images, labels, names, sections = parts
    masks = labels == SALT
    depths = rng.normal(485, 205, count) + 90 * masks.mean((1, 2))
    depths = depths.round().clip(51, 959).astype(int)
    return SyntheticTiles(images, masks, labels, depths, names, sections)


def _ids(rng: Generator, count: int) -> list[str]:
    """Ten hexadecimal digits each; some look like integers, some like floats."""
    ids = [f"{n:010x}" for n in rng.choice(16**10, count, replace=False)]
    for i in range(0, count - 1, 40):
        ids[i] = f"{rng.integers(10**10):010d}"
        ids[i + 1] = f"{rng.integers(10)}e{rng.integers(10**8):08d}"
    return ids


def _write_zip(path: Path, ids: list[str], images: Iterable, masks: Iterable) -> None:
    """Save RGB images, and masks in 16 bits, or 8 if empty, as in the real files."""
    named = zip(ids, images, strict=True)
    pictures = {f"images/{name}.png": np.dstack([image] * 3) for name, image in named}
    for name, mask in zip(ids, masks, strict=False):  # test tiles have none
        white = np.uint16(65535) if mask.any() else np.uint8(0)
        pictures[f"masks/{name}.png"] = mask * white
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in pictures.items():
            png = io.BytesIO()
            Image.fromarray(array).save(png, "PNG")
            info = zipfile.ZipInfo(name, (2018, 7, 19, 0, 0, 0))
            archive.writestr(info, png.getvalue())


def write_dataset(
    folder: Path | str, train: int = 1500, test: int = 500, seed: int = 0
) -> Path:
    """Write tiles as the competition's files; equal arguments give equal bytes.

    Raises:
        ValueError: if the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists: remove it or choose another folder")
    known, asked = make_tiles(train, [seed, 0]), make_tiles(test, [seed, 1])
    ids = _ids(np.random.default_rng([seed, 2]), train + test)
    with atomic_write(folder) as draft:
        draft.mkdir()
        _write_zip(draft / "train.zip", ids[:train], known.images, known.masks)
        _write_zip(draft / "test.zip", ids[train:], asked.images, [])
        for name, column, tiles, values in (
            ("train", "rle_mask", ids[:train], [*map(rle_encode, known.masks)]),
            ("depths", "z", ids, [*known.depths, *asked.depths]),
            ("sections", "section", ids[:train], known.sections),
            ("sample_submission", "rle_mask", ids[train:], "1 1"),
        ):
            table = pd.DataFrame({"id": tiles, column: values})
            table.to_csv(draft / f"{name}.csv", index=False, lineterminator="\n")
    return folder
