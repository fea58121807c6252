"""Download, check and read the tiles, and split them into folds.

- Images are RGB with three equal channels; we keep one.
- Masks are 16-bit with values 0 and 65535, or 8-bit if empty: salt is `> 0`.
- Ids such as `8e13060816` look like numbers, but are read as text.
- In `train.csv`, an empty field is an empty mask, not a missing value.
"""

import hashlib
import io
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from helpers import mosaics, synthetic
from helpers.config import ROOT, TILE, Settings
from helpers.rle import rle_decode
from helpers.utils import files
from helpers.utils.files import DataError, File, atomic_write, find_file

ID_TABLES = {"train": "train.csv", "test": "sample_submission.csv"}


@dataclass(frozen=True)
class Tiles:
    """A set of n tiles."""

    ids: np.ndarray  # str (n,)
    images: np.ndarray  # uint8 (n, 101, 101), intensities
    masks: np.ndarray | Any  # bool (n, 101, 101), True is salt; None for test tiles
    depths: np.ndarray  # int (n,), feet below the surface
    sections: np.ndarray | None = None  # int (n,), equal for tiles of one section

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: np.ndarray | slice) -> "Tiles":
        """The tiles at these positions (integers, a slice or a bool array)."""
        arrays: list[Any] = [x if x is None else x[index] for x in vars(self).values()]
        return Tiles(*arrays)

    @property
    def coverage(self) -> np.ndarray:
        """Fraction of salt pixels in each tile, float (n,)."""
        return self.masks.mean(axis=(1, 2))

    @property
    def constant(self) -> np.ndarray:
        """Which images have a single intensity, bool (n,); they never contain salt."""
        return (self.images == self.images[:, :1, :1]).all(axis=(1, 2))


def coverage_class(coverage: ArrayLike) -> np.ndarray:
    """Class of a salt coverage, int: 0 is empty, 1 up to 10 %, ..., 10 above 90 %."""
    return np.ceil(10 * np.asarray(coverage)).astype(int)


def mask_type(masks: ArrayLike) -> np.ndarray:
    """Sort masks, bool (n, 101, 101), into eight types, int (n,), by shape and size."""
    # Olsen (GitHub, 127th place) balanced folds over eight types without naming them.
    masks = np.asarray(masks, bool)
    types = 3 + np.searchsorted((0.15, 0.25, 0.5, 0.75), masks.mean(axis=(1, 2)))
    types[(masks == masks[:, :1]).all(axis=(1, 2))] = 2  # vertical strips
    types[~masks[:, 10:-10, 10:-10].any(axis=(1, 2))] = 1  # only near the border
    types[~masks.any(axis=(1, 2))] = 0  # empty
    return types


def make_folds(
    tiles: Tiles, k: int = 5, seed: int = 2018, by: str = "coverage+depth"
) -> np.ndarray:
    """Split tiles into k folds with similar distributions of coverage and depth.

    Tiles of one section share a fold: neighbors of training tiles are easy to predict.

    Args:
        tiles: labelled `Tiles`, from at least k sections.
        k: number of folds.
        seed: integer; equal arguments give equal folds.
        by: what to balance: `"coverage"` (see `coverage_class`), `"depth"`, `"type"`
            (see `mask_type`), or several of them joined by `+`.

    Returns:
        int (n,), the fold of each tile, 0 ... k - 1.

    Raises:
        ValueError: for missing masks, fewer than k sections, or an unknown `by`.
    """
    sections = np.arange(len(tiles)) if tiles.sections is None else tiles.sections
    if tiles.masks is None or len(np.unique(sections)) < k:
        raise ValueError(f"{k} folds need tiles with masks, from {k} sections or more")
    rank = np.argsort(np.argsort(tiles.depths, kind="stable"), kind="stable")
    parts = 10 if by == "depth" else 3
    keys = {"coverage": coverage_class(tiles.coverage)}
    keys |= {"depth": rank * parts // len(rank), "type": mask_type(tiles.masks)}
    if not set(names := by.split("+")) <= set(keys):
        raise ValueError(f"by={by!r} is not made of {', '.join(keys)} and +")
    table = np.stack([keys[name] for name in names], axis=1)
    _, strata, counts = np.unique(
        table, axis=0, return_inverse=True, return_counts=True
    )
    strata = strata * (counts.max() >= k)  # else there are too few tiles to balance
    folds = np.empty(len(tiles), int)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # rare strata
        for fold, (_, chosen) in enumerate(splitter.split(table, strata, sections)):
            folds[chosen] = fold
    return folds


def load_tiles(settings: Settings) -> Tiles:
    """Read the labelled tiles in the order of `train.csv`; the profile may limit them.

    Raises:
        DataError: for a missing, damaged or repeated tile, or a mask unlike its RLE.
    """
    return _load(settings, "train", settings.profile.train_tiles)


def load_test_tiles(settings: Settings) -> Tiles:
    """Read the test tiles in the order of `sample_submission.csv`, without masks."""
    return _load(settings, "test", settings.profile.test_tiles)


def check_parts(settings: Settings) -> None:
    """Raise `DataError` if a file is missing, before hours of training."""
    index = open_data(settings)
    for split, name in ID_TABLES.items():
        for tile in read_table(index, name, "rle_mask")["id"]:
            find_file(index, f"{split}/images/{tile}")
    find_file(index, "depths.csv")


def open_data(settings: Settings) -> dict[str, File]:
    """Index the competition's files; synthetic ones are written first."""
    if not settings.synthetic:
        return files.index_files(settings.data)
    train = settings.profile.train_tiles or 1500
    test = settings.profile.test_tiles or 500
    code = sorted(Path(synthetic.__path__[0]).glob("*.py"))
    version = hashlib.sha256(b"".join(f.read_bytes() for f in code)).hexdigest()[:8]
    folder = settings.output_dir / f"synthetic-{train}-{test}-{settings.seed}-{version}"
    try:
        if not folder.is_dir():
            synthetic.write_dataset(folder, train, test, settings.seed)
    except (DataError, ValueError):
        if not folder.is_dir():  # else another process has just written it
            raise
    return files.index_files(folder)


def read_table(index: Mapping[str, File], name: str, column: str) -> pd.DataFrame:
    """Read `id` and another column of a csv file as text; an empty field is `""`.

    Raises:
        DataError: if it is missing, unreadable or empty, lacks a column or repeats ids.
    """
    file, fault = find_file(index, name), ""
    try:
        table = pd.read_csv(io.BytesIO(file.read()), dtype=str, keep_default_na=False)
    except files.DAMAGED as error:
        raise DataError(f"{file.where}: unreadable, fetch it again: {error}") from error
    if not {"id", column} <= set(table.columns):
        fault = f"has columns {list(table.columns)}, needs id and {column}"
    elif table.empty:
        fault = "has no rows"
    elif (repeated := table["id"].duplicated()).any():
        fault = f"id {table['id'][repeated].iloc[0]} appears more than once"
    if fault:
        raise DataError(f"{file.where}: {fault}: fetch it again")
    return table


def _load(settings: Settings, split: str, limit: int | None) -> Tiles:
    index, train = open_data(settings), split == "train"
    table = read_table(index, ID_TABLES[split], "rle_mask")
    rows = table[:limit]
    if train:
        rows = table.sample(len(rows), random_state=settings.seed).sort_index()
    ids = rows["id"].to_numpy(str)
    image_files = [find_file(index, f"{split}/images/{name}") for name in ids]
    mask_files = [find_file(index, f"train/masks/{name}") for name in ids if train]
    with ThreadPoolExecutor() as pool:
        images = np.array([*pool.map(_read, image_files)])
        masks = np.array([*pool.map(_read, mask_files, rows["rle_mask"])])
    stored = {key.rpartition("/")[2] for key in index if f"{split}/images/" in key}
    if unlisted := stored - set(table["id"]):
        fault = f"has no row for image {min(unlisted)}: fetch both again"
        raise DataError(f"{ID_TABLES[split]}: {fault}")
    depths = _numbers(index, "depths.csv", "z", ids)
    if not train:
        return Tiles(ids, images, None, depths)
    if "sections.csv" in index:  # of synthetic tiles
        sections = _numbers(index, "sections.csv", "section", ids)
    else:
        sections = mosaics.find_sections(images)
    return Tiles(ids, images, masks, depths, sections)


def _numbers(index: dict, name: str, column: str, ids: np.ndarray) -> np.ndarray:
    """Read a column of a csv file: int (n,), in the order of the ids."""
    texts = read_table(index, name, column).set_index("id")[column].reindex(ids)
    numbers = pd.to_numeric(texts, errors="coerce")
    if (lost := numbers.isna()).any():
        raise DataError(f"{name}: no {column} for tile {ids[lost][0]}: fetch it again")
    return numbers.to_numpy(int)


def _read(file: File, rle: str | None = None) -> np.ndarray:
    """Read an image as uint8, or a mask as bool and compare it with its RLE."""
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            pixels = np.asarray(image)
        expected = None if rle is None else rle_decode(rle)
    except Exception as error:  # the decoders raise many kinds
        fault = f"{file.where}: image, or RLE in train.csv, is unreadable: {error}"
        raise DataError(fault) from error
    channels = pixels.reshape(*pixels.shape[:2], -1)[..., :3]  # drops transparency
    pixels, fault = channels[..., 0], ""
    if pixels.shape != (TILE, TILE):
        fault = f"has shape {pixels.shape}, expected ({TILE}, {TILE})"
    elif expected is not None:
        pixels = pixels > 0
        if wrong := np.count_nonzero(pixels != expected):
            fault = f"mask differs from its RLE in train.csv in {wrong} pixels"
    elif pixels.dtype != np.uint8 or (channels != pixels[..., None]).any():
        fault = "not an 8-bit grayscale image"
    if fault:
        raise DataError(f"{file.where}: {fault}: fetch it again")
    return pixels


def download(folder: Path | str = ROOT / "data" / "tgs") -> Path:
    """Download the competition's data with kagglehub, unless the folder has files.

    Raises:
        DataError: if kagglehub is missing or refuses; the message says what to do.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    try:
        import kagglehub

        fetched = Path(kagglehub.competition_download(files.COMPETITION))
    except Exception as error:  # kagglehub and requests raise many kinds
        raise DataError(HOW_TO_DOWNLOAD.format(error=error, folder=folder)) from error
    files.index_files(fetched)  # raises if this is not the competition's data
    with atomic_write(folder) as temporary:
        shutil.copytree(fetched, temporary)
    return folder


HOW_TO_DOWNLOAD = """The download failed: {error}
1. With a free Kaggle account, accept the rules ("Late Submission") at
   https://www.kaggle.com/c/tgs-salt-identification-challenge/rules.
2. Settings > API > Create New Token; save the file as ~/.kaggle/kaggle.json (in Colab:
   add its KAGGLE_USERNAME and KAGGLE_KEY under Secrets, the key symbol on the left).
3. pip install kagglehub, restart the kernel, and call data.download() again.
Or put the zip from the competition's Data page into {folder}.
Or set SALT_DATA_DIR=synthetic, which needs no data."""
