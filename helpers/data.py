"""Download, check and read the tiles, and split them into folds.

- Images are RGB with three equal channels; we keep one.
- Masks are 16-bit with values 0 and 65535, or 8-bit if empty: salt is `> 0`.
- Ids such as `8e13060816` look like numbers, but are read as text.
- In `train.csv`, an empty field is an empty mask, not a missing value.
- What is missing, damaged or contradictory is a `DataError` with the remedy.
"""

import hashlib
import io
import shutil
import struct
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
from helpers.utils import files, tables
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
        tiles, k, seed: equal arguments give equal folds.
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
    depth = rank * (10 if by == "depth" else 3) // len(rank)
    keys = {"coverage": coverage_class(tiles.coverage), "depth": depth}
    keys["type"] = mask_type(tiles.masks)
    if not {*by.split("+")} <= {*keys}:
        raise ValueError(f"by={by!r} is not made of {', '.join(keys)} and +")
    table = np.stack([keys[name] for name in by.split("+")], axis=1)
    _, strata = np.unique(table, axis=0, return_inverse=True)
    strata *= np.bincount(strata).max() >= k  # else there are too few tiles to balance
    folds = np.empty(len(tiles), int)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # rare strata
        for fold, (_, chosen) in enumerate(splitter.split(table, strata, sections)):
            folds[chosen] = fold
    return folds


def load_tiles(settings: Settings) -> Tiles:
    """Read the tiles of `train.csv`, in its order; the profile may limit them."""
    return _load(settings, "train", settings.profile.train_tiles)


def load_test_tiles(settings: Settings) -> Tiles:
    """Read those of `sample_submission.csv`, in its order, without masks."""
    return _load(settings, "test", settings.profile.test_tiles)


def check_parts(settings: Settings) -> None:
    """Raise `DataError` for bad tables or missing images, before hours of training."""
    index = open_data(settings)
    for split in ID_TABLES:
        _read_list(index, split)


def open_data(settings: Settings) -> dict[str, File]:
    """Index the competition's files; synthetic ones are written first.

    Raises:
        DataError: if they cannot be read, or if synthetic tiles stand in for them.
    """
    if not settings.synthetic:
        index = files.index_files(settings.data)
        if file := index.get("sections.csv"):
            fault = "of synthetic tiles: set SALT_DATA_DIR=synthetic, or move it away"
            raise DataError(f"{file.where}: {fault}")
        return index
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
    """Read a csv file with `id` and another column as text; an empty field is `""`."""
    file = find_file(index, name)
    return tables.parse(file.read(), file.where, column, "fetch it again")


def _read_list(index: Mapping[str, File], split: str) -> pd.DataFrame:
    """Read which tiles there are, with RLE and depth `z`; all files must agree."""
    table, folder = read_table(index, ID_TABLES[split], "rle_mask"), f"{split}/images/"
    ids, fault = {*table["id"]}, ""
    if lost := {key[len(folder) :] for key in index if key.startswith(folder)} - ids:
        fault = f"has no row for image {min(lost)!r} (has a spreadsheet cut its zeros?)"
    elif split == "test" and "train.csv" in index:
        if both := ids & {*read_table(index, "train.csv", "rle_mask")["id"]}:
            fault = f"tile {min(both)} is a training tile too"
    if fault:
        where = find_file(index, ID_TABLES[split]).where
        raise DataError(f"{where}: {fault}: fetch it again")
    for part in ("images", "masks") if split == "train" else ("images",):
        table[part] = [find_file(index, f"{split}/{part}/{x}") for x in table["id"]]
    return table.assign(z=_numbers(index, "depths.csv", "z", table["id"]))


def _load(settings: Settings, split: str, limit: int | None) -> Tiles:
    index, train = open_data(settings), split == "train"
    table = _read_list(index, split)
    rows = table[:limit]
    if train:
        rows = table.sample(len(rows), random_state=settings.seed).sort_index()
    ids, depths = rows["id"].to_numpy(str), rows["z"].to_numpy()
    with ThreadPoolExecutor() as pool:
        images = np.array([*pool.map(_read, rows["images"])])
        if not train:
            return Tiles(ids, images, None, depths)
        masks = np.array([*pool.map(_read, rows["masks"], rows["rle_mask"])])
    if "sections.csv" in index:  # of synthetic tiles
        sections = _numbers(index, "sections.csv", "section", rows["id"])
    else:
        sections = mosaics.find_sections(images)
    return Tiles(ids, images, masks, depths, sections)


def _numbers(index: Mapping, name: str, column: str, ids: pd.Series) -> np.ndarray:
    """Read a column of a csv file: int (n,), in the order of the ids."""
    known = read_table(index, name, column).set_index("id")[column]
    texts = known.reindex(ids, fill_value="missing")
    if (wrong := ~texts.str.fullmatch(r"[0-9]{1,6}(\.0*)?")).any():
        tile, text = texts.index[wrong][0], texts[wrong].iloc[0]
        fault = f"{column} of tile {tile} is {text!r:.40}"
        remedy = "not 0 to 999999 (has a spreadsheet cut its zeros?): fetch it again"
        raise DataError(f"{find_file(index, name).where}: {fault}, {remedy}")
    return texts.astype(float).to_numpy(int)


def _read(file: File, rle: str | None = None) -> np.ndarray:
    """Read an image as uint8, or a mask as bool and compare it with its RLE."""
    content, where = file.read(), file.where + " or train.csv" * (rle is not None)
    kind, width, height, bits = struct.unpack(">4s12xIIB", content[:25].ljust(25))
    try:
        if kind != b"\x89PNG":
            raise ValueError("not a PNG image")
        if (height, width) != (TILE, TILE):  # noticed before gigabytes are unpacked
            raise ValueError(f"has shape {height, width}, expected {TILE, TILE}")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            pixels = np.asarray(image if bits > 8 else image.convert("RGBA"))
        channels = pixels.reshape(TILE, TILE, -1)[..., :3]  # drops transparency
        pixels = channels[..., 0]
        if rle is None:
            if bits > 8 or (channels != pixels[..., None]).any():
                raise ValueError("not an 8-bit grayscale image")
            return pixels
        if wrong := np.count_nonzero((pixels > 0) != rle_decode(rle)):
            raise ValueError(f"mask differs from its RLE in {wrong} pixels")
        return pixels > 0
    except Exception as error:  # the decoders raise many kinds
        raise DataError(f"{where}: {error}: fetch it again") from error


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
2. Settings > API > Generate New Token; save it as ~/.kaggle/access_token, or as the
   variable, or secret in Colab, KAGGLE_API_TOKEN. An older kaggle.json works too.
3. pip install -U kagglehub, restart the kernel, and call data.download() again.
Or put the zip of the competition's Data page into {folder}.
Or set SALT_DATA_DIR=synthetic, which needs no data."""
