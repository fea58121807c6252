"""Atomic writes, and an index of the competition's files, however they are packed."""

import io
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

COMPETITION = "tgs-salt-identification-challenge"
TABLES = ("train.csv", "depths.csv", "sample_submission.csv")
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError)
ADVICE = (
    "SALT_DATA_DIR is the folder of train.zip, test.zip, train.csv, depths.csv and "
    "sample_submission.csv, packed or not; SALT_DATA_DIR=synthetic needs no files"
)
_mounts: set[Path] = set()  # the disks that this process has written to


class DataError(Exception):
    """Bad data: the message names the file, the fault and the remedy."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path for a file or folder; move it to `path` when complete.

    Raises:
        DataError: for any `OSError`, such as a full or an unmounted disk.
    """
    path = Path(path)
    parents = path.absolute().parents
    try:  # a path on an unmounted disk can often be written to: on the disk below it
        if gone := [p for p in _mounts.intersection(parents) if not os.path.ismount(p)]:
            raise OSError(f"{gone[0]} is no longer mounted")
        path.parent.mkdir(parents=True, exist_ok=True)
        _mounts.add(next(filter(os.path.ismount, parents)))
        with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            yield Path(folder, path.name)
            Path(folder, path.name).replace(path)
    except OSError as error:
        advice = "mount or free the disk of SALT_OUTPUT_DIR, and make the call again"
        raise DataError(f"{path}: cannot be written ({error}): {advice}") from error


def sweep(folder: Path | str) -> None:
    """Remove what killed processes left behind in this folder in `atomic_write`."""
    for path in Path(folder).glob(".*-????????"):
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class File:
    """A file on disk or in a zip."""

    where: str  # for messages
    read: Callable[[], bytes]
    path: Path | None = None  # if on disk


def index_files(source: Path | str) -> dict[str, File]:
    """Map names such as `"train/images/<id>"` to the files of a folder or bundle zip.

    Raises:
        DataError: if the source is missing, is a damaged zip, or contains no table.
    """
    source = Path(source)
    files: dict[str, File] = {}
    if source.is_file():
        _add_zip(files, PurePath(), File(str(source), source.read_bytes, source))
    elif not source.is_dir():
        raise DataError(f"{source}: no such folder or zip. {ADVICE}")
    for path in filter(Path.is_file, sorted(source.rglob("*"))):
        _add(files, path.relative_to(source), File(str(path), path.read_bytes, path))
    if not files.keys() & {*TABLES}:
        raise DataError(f"{source}: holds none of {', '.join(TABLES)}. {ADVICE}")
    return files


def find_file(files: Mapping[str, File], name: str) -> File:
    """Find a file by its name, with or without `train/` or `test/`.

    Raises:
        DataError: if there is none.
    """
    if file := files.get(name) or files.get(name.partition("/")[2]):
        return file
    raise DataError(f"{name} is missing from the data. {ADVICE}")


def _add(files: dict[str, File], name: PurePath, file: File) -> None:
    """Add one file to the index, or the members of a zip of the competition."""
    if "__MACOSX" in name.parts or name.name.startswith("."):
        return
    parts = name.with_suffix("").parts
    split = [part for part in parts if part in ("train", "test")][-1:]
    bundle = len(parts) == 1 and file.path and zipfile.is_zipfile(file.path)
    if name.suffix == ".zip" and (split or COMPETITION in name.stem or bundle):
        _add_zip(files, PurePath(*split), file)
    elif name.name in (*TABLES, "sections.csv"):
        files.setdefault(name.name, file)
    elif name.match("images/*.png") or name.match("masks/*.png"):
        files.setdefault("/".join((*split, *parts[-2:])), file)


def _add_zip(files: dict[str, File], prefix: PurePath, file: File) -> None:
    try:
        archive = zipfile.ZipFile(file.path or io.BytesIO(file.read()))
    except DAMAGED as error:
        fault = f"{file.where}: damaged zip ({error}): fetch it again"
        raise DataError(fault) from error
    for info in archive.infolist():
        if not info.is_dir():
            where, read = f"{file.where}!{info.filename}", partial(archive.read, info)
            _add(files, prefix / info.filename, File(where, read))
