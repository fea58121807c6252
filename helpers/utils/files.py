"""Files: one index of the competition's, however packed; nothing half-written.

The data reach people as unpacked folders, as `train.zip` and `test.zip`, or as one
bundle zip that holds them all. `index_files` makes one index of names to bytes from
any of these; everything else reads from the index.
"""

import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

COMPETITION = "tgs-salt-identification-challenge"
TABLES = ("train.csv", "depths.csv", "sample_submission.csv")
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
DAMAGED = (*ZIP_ERRORS, OSError, ValueError)  # what a damaged file may raise
ADVICE = (
    "SALT_DATA_DIR is the folder that holds train.zip, test.zip, train.csv, depths.csv "
    "and sample_submission.csv (or the unpacked folders train/ and test/, or the one "
    "bundle zip); SALT_DATA_DIR=synthetic needs no files"
)


class DataError(Exception):
    """Bad data: the message names the file, the fault and the remedy."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write a file or folder under another name, and rename it when it is complete.

    A reader sees the old content or the new, never a part; if the block raises, the
    old content stays and nothing is left beside it.

    Args:
        path: the file or folder to make; its parent is made where needed. A folder
            must not exist yet (or be empty).

    Yields:
        `pathlib.Path` to write to, of the same suffix, in a fresh folder beside `path`.

    Example:
        >>> with atomic_write("outputs/result.json") as beside:  # doctest: +SKIP
        ...     beside.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield folder / path.name
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path | str) -> None:
    """Remove what a killed process has left of `atomic_write` directly in a folder."""
    for path in Path(folder).glob(".*-????????"):
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class File:
    """A file somewhere: where it is (for messages), a fingerprint, and its bytes."""

    where: str
    stamp: tuple
    read: Callable[[], bytes]


def index_files(source: Path | str) -> dict[str, File]:
    """Index the competition's files in a folder or a bundle zip.

    Args:
        source: path of the folder or the zip.

    Returns:
        dict from names such as `"train.csv"`, `"train/images/<id>"` to `File`. Where
        `train.zip` and `test.zip` were unpacked into one folder, the name is
        `"images/<id>"`.

    Raises:
        DataError: if the source is missing, is a damaged zip, or holds none of the
            competition's tables.
    """
    source = Path(source)
    files: dict[str, File] = {}
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                _add(files, path.relative_to(source), _on_disk(path), path)
    elif source.is_file():
        _add_zip(files, PurePosixPath(), _on_disk(source), source)
    else:
        raise DataError(f"{source}: no such folder or zip. {ADVICE}")
    if not any(table in files for table in TABLES):
        raise DataError(f"{source}: holds none of {', '.join(TABLES)}. {ADVICE}")
    return files


def _on_disk(path: Path) -> File:
    status = path.stat()
    return File(str(path), (status.st_size, status.st_mtime_ns), path.read_bytes)


def _add(
    files: dict[str, File], name: PurePath, file: File, archive: Path | None = None
) -> None:
    """Enter one file; look inside if it is a zip that belongs to the competition."""
    split = [part for part in name.with_suffix("").parts if part in ("train", "test")]
    if name.suffix == ".zip" and not name.name.startswith("."):
        if split or COMPETITION in name.stem:
            _add_zip(files, PurePosixPath(*split[-1:]), file, archive)
        elif len(name.parts) == 1 and zipfile.is_zipfile(archive or io.BytesIO()):
            _add_zip(files, PurePosixPath(), file, archive)  # a bundle of any name
    elif name.name in TABLES:
        files.setdefault(name.name, file)
    elif name.suffix == ".png" and name.parent.name in ("images", "masks"):
        if "__MACOSX" not in name.parts:
            key = (*split[-1:], name.parent.name, name.stem)
            files.setdefault("/".join(key), file)


def _add_zip(
    files: dict[str, File], prefix: PurePath, file: File, archive: Path | None = None
) -> None:
    """Enter the members of a zip: the file itself, or the archive on disk."""
    try:
        archive = zipfile.ZipFile(archive or io.BytesIO(file.read()))
    except DAMAGED as error:
        raise DataError(
            f"{file.where}: damaged zip ({error}): fetch it again"
        ) from error
    for info in archive.infolist():
        if not info.is_dir():
            member = File(
                f"{file.where}!{info.filename}",
                (*file.stamp, info.CRC, info.file_size),
                partial(archive.read, info),
            )
            _add(files, prefix / info.filename, member)


def find_file(files: Mapping[str, File], name: str) -> File:
    """The file of that name, or of the name without `train/` or `test/`.

    Args:
        files: what `index_files` returned.
        name: for example `"train.csv"` or `"train/images/<id>"`.

    Returns:
        `File`.

    Raises:
        DataError: if there is neither.
    """
    short = name.split("/", 1)[1] if name.count("/") > 1 else name
    file = files.get(name) or files.get(short)
    if file is None:
        raise DataError(f"{name} is missing from the data. {ADVICE}")
    return file


def extract(archive: Path | str, folder: Path | str) -> Path:
    """Unpack a zip into a new folder, completely or not at all.

    Args:
        archive: path of the zip.
        folder: the folder to make; it must not exist yet.

    Returns:
        The folder, `pathlib.Path`.

    Raises:
        DataError: for a damaged zip, or a member that would land outside the folder
            (`../x`, an absolute path, a drive letter); nothing is written then.
        ValueError: if the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists: delete it, or extract to another folder")
    try:
        with zipfile.ZipFile(archive) as zipped, atomic_write(folder) as beside:
            for name in zipped.namelist():
                parts = PurePosixPath(name.replace("\\", "/")).parts
                if ".." in parts or name.startswith(("/", "\\")) or ":" in name:
                    raise DataError(
                        f"{archive}: member {name!r} would be written outside "
                        f"{folder}: do not use this file, fetch it again"
                    )
            beside.mkdir()
            zipped.extractall(beside)
    except DAMAGED as error:
        raise DataError(
            f"{archive}: cannot unpack ({error}): fetch it again"
        ) from error
    return folder
