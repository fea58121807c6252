"""Fetch, check and read the tiles, and deal them into folds.

What the files hide (each of these has cost somebody a day):

- images are RGB with three equal channels; we keep one;
- a mask is 16-bit with values {0, 65535}, or 8-bit where it is empty: salt is `> 0`;
- ids such as `8e13060816` look like numbers: they are read as text;
- an empty mask is an empty field in `train.csv`, not a missing value.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from helpers import config, synthetic
from helpers.config import TILE, Settings
from helpers.rle import rle_decode
from helpers.utils.files import (
    ADVICE,
    COMPETITION,
    DAMAGED,
    TABLES,
    DataError,
    File,
    atomic_write,
    find_file,
    index_files,
)


@dataclass(frozen=True)
class Tiles:
    """A set of tiles.

    Attributes:
        ids: str (n,).
        images: uint8 (n, 101, 101), grey.
        masks: bool (n, 101, 101), True is salt; `None` for test tiles.
        depths: int (n,), feet below the surface.
    """

    ids: np.ndarray
    images: np.ndarray
    masks: np.ndarray | Any  # Any: None, of test tiles alone
    depths: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray | slice) -> "Tiles":
        """The tiles at these positions (integers, a slice or a bool array)."""
        masks = None if self.masks is None else self.masks[indices]
        return Tiles(
            self.ids[indices], self.images[indices], masks, self.depths[indices]
        )

    @property
    def coverage(self) -> np.ndarray:
        """Share of salt pixels in each tile, float (n,)."""
        return self.masks.mean(axis=(1, 2))

    @property
    def constant(self) -> np.ndarray:
        """Which images have a single grey value (such tiles never hold salt), (n,)."""
        flat = self.images.reshape(len(self), -1)
        return flat.min(axis=1, initial=255) >= flat.max(axis=1, initial=0)


def coverage_class(coverage: ArrayLike) -> np.ndarray:
    """Class 0 ... 10 of a salt share: 0 is empty, 1 up to 10 %, 10 above 90 %."""
    return np.ceil(10 * np.asarray(coverage)).astype(int)


def mask_type(masks: ArrayLike) -> np.ndarray:
    """Sort masks into eight types by their shape and size.

    Olsen (GitHub, 127th) made folds alike in eight mask types. Which types exactly is
    our choice; the first that fits is taken:

    | type | mask |
    |---|---|
    | 0 | empty |
    | 1 | salt only in the tile's transform, the 10 pixels along its border |
    | 2 | vertical strips: all rows are equal |
    | 3 ... 7 | any other; salt up to 15, 25, 50, 75 and 100 % of the tile |

    Args:
        masks: bool (n, 101, 101).

    Returns:
        int (n,), 0 ... 7.
    """
    masks = np.asarray(masks, bool)
    types = 3 + np.searchsorted((0.15, 0.25, 0.5, 0.75), masks.mean(axis=(1, 2)))
    types[(masks == masks[:, :1]).all(axis=(1, 2))] = 2
    types[~masks[:, 10:-10, 10:-10].any(axis=(1, 2))] = 1
    types[~masks.any(axis=(1, 2))] = 0
    return types


FOLD_KEYS = {
    "coverage": lambda tiles: coverage_class(tiles.coverage),
    "depth": lambda tiles: tiles.depths,
    "type": lambda tiles: mask_type(tiles.masks),
}


def make_folds(
    tiles: Tiles, k: int = 5, seed: int = 2018, by: str = "coverage+depth"
) -> np.ndarray:
    """Deal tiles into folds that look alike.

    Tiles are sorted, by coverage class and then depth for example; each run of k
    neighbours is a stratum, of which scikit-learn's `StratifiedKFold` gives every fold
    one tile. So a class gives every fold its share however rare it is: one with fewer
    than k tiles shares a stratum with its neighbours. By depth, all deciles are shared
    out evenly too, as Jain's are.

    Args:
        tiles: labelled `Tiles`, at least k.
        k: number of folds.
        seed: integer; tiles, k, seed and `by` decide the folds, nothing else does.
        by: what the folds are alike in: `"coverage"` (`coverage_class`), `"depth"`,
            `"type"` (`mask_type`), or several with `+` between them, the most important
            first.

    Returns:
        int (n,), the fold of each tile, 0 ... k - 1.

    Raises:
        ValueError: for fewer than k tiles, tiles without masks, or an unknown `by`.
    """
    if tiles.masks is None or len(tiles) < k:
        raise ValueError(f"{k} folds need at least {k} tiles with masks")
    names = by.split("+")
    if not set(names) <= set(FOLD_KEYS):
        raise ValueError(f"by={by!r} is not made of {', '.join(FOLD_KEYS)} and +")
    order = np.lexsort([FOLD_KEYS[name](tiles) for name in reversed(names)])
    strata = np.empty(len(tiles), int)
    strata[order] = np.minimum(np.arange(len(tiles)) // k, len(tiles) // k - 1)
    folds = np.empty(len(tiles), int)
    splitter = StratifiedKFold(k, shuffle=True, random_state=seed)
    for fold, (_, chosen) in enumerate(splitter.split(strata, strata)):
        folds[chosen] = fold
    return folds


def load_tiles(settings: Settings) -> Tiles:
    """Read the labelled tiles.

    Args:
        settings: `config.Settings`; `profile.train_tiles` limits their number (a
            seeded sample).

    Returns:
        `Tiles` in the order of `train.csv`, masks checked against its RLEs.

    Raises:
        DataError: for a missing file or id, a duplicate id, a tile that cannot be
            decoded or has another size, and a mask that differs from its RLE.
    """
    files = open_data(settings)
    table = read_table(files, "train.csv", "rle_mask")
    known = set(table["id"])
    limit = settings.profile.train_tiles
    if limit is not None and limit < len(table):
        rng = np.random.default_rng(settings.seed)
        table = table.iloc[np.sort(rng.choice(len(table), limit, replace=False))]
    ids = table["id"].to_numpy(str)
    images, masks = _cached(settings, files, "train", ids, table["rle_mask"])
    _all_listed(files, "train", known, "train.csv")
    return Tiles(ids, images, masks, _depths(files, ids))


def load_test_tiles(settings: Settings) -> Tiles:
    """Read the test tiles, in the order of `sample_submission.csv`.

    Args:
        settings: `config.Settings`; `profile.test_tiles` limits their number.

    Returns:
        `Tiles` with `masks=None`.

    Raises:
        DataError: as `load_tiles`.
    """
    files = open_data(settings)
    table = read_table(files, "sample_submission.csv", "rle_mask")
    ids = table["id"].to_numpy(str)[: settings.profile.test_tiles]
    images, _ = _cached(settings, files, "test", ids)
    _all_listed(files, "test", set(table["id"]), "sample_submission.csv")
    return Tiles(ids, images, None, _depths(files, ids))


def _all_listed(
    files: Mapping[str, File], split: str, known: set[str], table: str
) -> None:
    """Whether the table was cut off: every image has its row."""
    prefix = f"{split}/images/"
    stored = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
    if stored - known:
        raise DataError(
            f"{find_file(files, table).where}: has no row for image "
            f"{min(stored - known)}: fetch both again"
        )


def check_parts(settings: Settings) -> None:
    """Find out now, not after hours of training, that a part of the data is missing.

    Args:
        settings: `config.Settings`.

    Raises:
        DataError: if a table, or all images of train or test, are not there.
    """
    files = open_data(settings)
    parts = {name: name for name in TABLES}
    parts |= {f"{split}/images/": f"{split}.zip" for split in ("train", "test")}
    for part, name in parts.items():
        flat = part.split("/", 1)[-1]  # both zips, unpacked into one folder
        if not any(found.startswith((part, flat)) for found in files):
            raise DataError(f"{settings.data}: there is no {name}. {ADVICE}")


def open_data(settings: Settings) -> dict[str, File]:
    """The index of the competition's files; synthetic ones are written first."""
    if not settings.synthetic:
        return index_files(settings.data)
    profile = settings.profile
    train, test = profile.train_tiles or 1500, profile.test_tiles or 500
    code = sorted(Path(synthetic.__path__[0]).glob("*.py"))
    recipe = hashlib.sha256(b"".join(f.read_bytes() for f in code)).hexdigest()[:8]
    name = f"synthetic-{train}-{test}-{settings.seed}-{recipe}"
    folder = settings.output_dir / name
    try:
        if not folder.is_dir():
            synthetic.write_dataset(folder, train, test, settings.seed)
    except OSError:
        if not folder.is_dir():  # otherwise another process was faster
            raise
    return index_files(folder)


def read_table(files: Mapping[str, File], name: str, column: str) -> pd.DataFrame:
    """Read one of the csv files as text: `id` and one other column.

    Args:
        files: the index, see `open_data`.
        name: of the file, such as `"train.csv"`.
        column: the other column.

    Returns:
        DataFrame, a row a tile, all fields str; an empty field is `""`.

    Raises:
        DataError: if it is missing or unreadable, lacks a column, or repeats an id.
    """
    file = find_file(files, name)
    try:
        content = io.BytesIO(file.read())
        table = pd.read_csv(content, dtype=str, keep_default_na=False)
    except DAMAGED as error:
        raise DataError(
            f"{file.where}: unreadable ({error}): fetch it again"
        ) from error
    if not {"id", column} <= set(table.columns):
        raise DataError(
            f"{file.where}: has columns {list(table.columns)}, needs id and {column}; "
            "fetch it again"
        )
    if not len(table):
        raise DataError(f"{file.where}: has no rows: fetch it again")
    twice = table["id"][table["id"].duplicated()]
    if len(twice):
        raise DataError(
            f"{file.where}: id {twice.iloc[0]} stands there twice: drop one"
        )
    return table


def _depths(files: Mapping[str, File], ids: np.ndarray) -> np.ndarray:
    table = read_table(files, "depths.csv", "z")
    depths = pd.to_numeric(table.set_index("id")["z"], errors="coerce").reindex(ids)
    if depths.isna().any():
        lost = depths.index[depths.isna()][0]
        raise DataError(
            f"{find_file(files, 'depths.csv').where}: no depth for tile {lost}: "
            "fetch the file again"
        )
    return depths.to_numpy(int)


def _cached(
    settings: Settings,
    files: Mapping[str, File],
    split: str,
    ids: np.ndarray,
    rles: Iterable[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images (and masks, if RLEs are given) of these ids, from the cache if it fits.

    The cache is keyed by size and time of every file that goes into it, and packs
    masks to bits; a damaged one is made again.
    """
    images = [find_file(files, f"{split}/images/{name}") for name in ids]
    masks = [
        find_file(files, f"{split}/masks/{name}") for name in ids if rles is not None
    ]
    texts = [] if rles is None else list(rles)
    key = repr([[file.stamp for file in images + masks], list(ids), texts])
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = settings.output_dir / "cache" / f"{split}-{key}.npz"
    shape = (len(ids), TILE, TILE)
    try:
        with np.load(path) as stored:
            bits = np.unpackbits(stored["masks"], axis=1, count=TILE * TILE)
            cached = stored["images"], bits.reshape(-1, TILE, TILE).astype(bool)
        if cached[0].shape == shape:
            return cached
    except Exception:  # NumPy and zipfile raise many kinds for a damaged file
        pass  # not there yet, or damaged: read the tiles
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = np.array(list(pool.map(_read_image, images)), np.uint8)
        masks = np.array(list(pool.map(_read_mask, masks, ids, texts)), bool)
    images, masks = images.reshape(shape), masks.reshape(-1, TILE, TILE)
    packed = np.packbits(masks.reshape(-1, TILE * TILE), axis=1)
    with atomic_write(path) as beside, beside.open("wb") as stream:
        np.savez(stream, images=images, masks=packed)
    return images, masks


def _read_image(file: File) -> np.ndarray:
    """The grey values of an image: 8 bits, and equal channels if it is in colour."""
    pixels = _read_pixels(file)
    channels = pixels[..., :3] if pixels.ndim == 3 else pixels[..., None]
    if pixels.dtype != np.uint8 or (channels != channels[..., :1]).any():
        raise DataError(f"{file.where}: not an 8-bit grey image: fetch it again")
    return channels[..., 0]


def _read_mask(file: File, name: str, text: str) -> np.ndarray:
    """One mask, equal to its RLE in train.csv."""
    pixels = _read_pixels(file)
    mask = (pixels[..., 0] if pixels.ndim == 3 else pixels) > 0
    try:
        expected = rle_decode(text, (TILE, TILE))
    except ValueError as error:
        raise DataError(
            f"train.csv, tile {name}: {error}: fetch the file again"
        ) from None
    if not np.array_equal(mask, expected):
        raise DataError(
            f"{file.where}: mask of tile {name} differs from its RLE in train.csv "
            f"in {np.count_nonzero(mask != expected)} pixels: fetch both again"
        )
    return mask


def _read_pixels(file: File) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            pixels = np.asarray(image)
    except Exception as error:  # PIL raises many kinds for a damaged file
        raise DataError(f"{file.where}: no readable image: fetch it again") from error
    if pixels.shape[:2] != (TILE, TILE):
        raise DataError(
            f"{file.where}: {pixels.shape[0]} x {pixels.shape[1]} pixels, a tile has "
            f"{TILE} x {TILE}: fetch it again"
        )
    return pixels


def download(folder: Path | str = config.ROOT / "data" / "tgs") -> Path:
    """Download the competition's data with kagglehub, into the place we look first.

    Nothing in this package calls it for you: the data may be used under the rules of
    the competition only, which you accept with your own Kaggle account.

    Args:
        folder: where the files go; if it holds files it is returned as it is.

    Returns:
        The folder, `pathlib.Path`.

    Raises:
        DataError: if kagglehub is missing or refused; the message says what to do.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    try:
        import kagglehub

        fetched = Path(kagglehub.competition_download(COMPETITION))
    except Exception as error:  # kagglehub and requests raise many kinds
        raise DataError(HOW_TO_DOWNLOAD.format(error=error, folder=folder)) from error
    index_files(fetched)  # raises if this is not the competition's data
    with atomic_write(folder) as beside:
        shutil.copytree(fetched, beside)
    return folder


HOW_TO_DOWNLOAD = """the download failed: {error}

1. Make a free account at https://www.kaggle.com.
2. Open https://www.kaggle.com/c/tgs-salt-identification-challenge/rules and accept the
   rules (press "Late Submission" or "Join Competition" if asked to).
3. Settings > API > Create New Token. Then either
   - in Colab: key symbol on the left > Secrets > add KAGGLE_USERNAME and KAGGLE_KEY
     from the token, and allow this notebook to read them; or
   - elsewhere: save the file as ~/.kaggle/kaggle.json.
4. pip install kagglehub, restart the kernel, and call data.download() again.

Or download the zip by hand from the competition's Data page and put it into {folder}.
Without any data the notebooks run on synthetic tiles: SALT_DATA_DIR=synthetic."""
