"""Atomic writes, and an index of the competition's files, however they are packed."""

import io
import os
import platform
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import IO

COMPETITION = "tgs-salt-identification-challenge"
TABLES = ("train.csv", "depths.csv", "sample_submission.csv")
OURS = ("train", "test", "images", "masks")  # folders
_HIDDEN = re.compile(r"\.|__MACOSX|\$|lost\+found|synthetic-")  # by its first letters
ADVICE = (
    "SALT_DATA_DIR is the folder of train.zip, test.zip, train.csv, depths.csv and "
    "sample_submission.csv, packed or not; SALT_DATA_DIR=synthetic needs no files"
)
_mounts: set[Path] = set()  # the disks that this process has written to


class DataError(Exception):
    """Bad data: the message names the file, the fault and the remedy."""

    def __str__(self) -> str:  # names that are not UTF-8 can be printed too
        return super().__str__().encode("utf-8", "backslashreplace").decode()


@contextmanager
def atomic_write(path: Path | str, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path for a file or folder; move it to `path` when complete.

    Raises:
        DataError: for any `OSError`, such as a full or an unmounted disk.
    """
    # `size` bytes must be free. What killed processes left beside it is removed.
    path = Path(path)
    parents = path.absolute().parents
    try:  # a path on an unmounted disk can often be written to: on the disk below it
        if gone := [p for p in _mounts.intersection(parents) if not os.path.ismount(p)]:
            raise OSError(f"{gone[0]} is no longer mounted")
        free = shutil.disk_usage(next(filter(Path.exists, parents))).free
        if free < size:
            raise OSError(f"needs {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
        path.parent.mkdir(parents=True, exist_ok=True)
        _mounts.add(next(filter(os.path.ismount, parents)))
        for left in path.parent.glob(".*-unfinished-*/.lock"):
            with suppress(OSError), left.open("a") as file:
                if _hold(file):  # whoever wrote there was killed
                    shutil.rmtree(left.parent)
        prefix = f".{path.name}-unfinished-"
        with TemporaryDirectory(prefix=prefix, dir=path.parent) as folder:
            with Path(folder, ".lock").open("a") as file:
                _hold(file)
                yield Path(folder, path.name)
            Path(folder, path.name).replace(path)
    except OSError as error:
        raise DataError(_unwritable(path, error)) from error


def _unwritable(path: Path, error: OSError) -> str:
    advice = "mount or free the disk of SALT_OUTPUT_DIR, and make the call again"
    return f"{path}: cannot be written ({error}): {advice}"


def _hold(file: IO) -> bool | None:
    """Lock an open file for this process; `None` where there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # another process has it
    except (ImportError, OSError):  # on Windows, and on some networks' disks
        return None
    return True


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time into a `with` block, by a file that names it.

    Raises:
        DataError: if another process is in the block, or for any `OSError` before it.
    """
    since = time.strftime("%H:%M on %d %B")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", errors="replace")
        if _hold(file) is False:
            other = file.seek(0) or file.read() or "another process"
            fault = f"being trained by {other}: wait for it, or set another"
            raise DataError(f"{path.with_suffix('')}: {fault} SALT_OUTPUT_DIR")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {since}")
        file.flush()
    except OSError as error:
        raise DataError(_unwritable(path, error)) from error
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class File:
    """A file on disk or in a zip."""

    where: str  # for messages
    load: Callable[[], bytes]
    path: Path | None = None  # if on disk
    rank: int = 0  # ten times the other folders around it, plus zips; the lowest wins

    def read(self) -> bytes:
        """Its content.

        Raises:
            DataError: if it cannot be read.
        """
        try:
            return self.load()
        except Exception as error:  # the decoders raise many kinds
            raise DataError(_refusal(self.where, "unreadable file", error)) from error


def index_files(source: Path | str) -> dict[str, File]:
    """Map names such as `"train/images/<id>"` to the files of a folder or bundle zip.

    Raises:
        DataError: if the source cannot be read, is a damaged zip, or contains no table,
            or if files of one name differ and neither is nearer to the top.
    """
    source = Path(source)
    files: dict[str, File] = {}
    try:
        source.stat()
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or error
        raise DataError(f"{source}: no folder or zip ({fault}). {ADVICE}") from error
    if not source.is_dir():
        _add_zip(files, PurePath(), File(str(source), source.read_bytes, source))
    for path in _walk(source) if source.is_dir() else ():
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


def _walk(source: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(_refusal(error.filename, "unreadable folder", error))

    for here, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        deep = len(Path(here).parts) - len(source.parts) > 5  # links in a circle, say
        folders[:] = [x for x in sorted(folders) if not (deep or _HIDDEN.match(x))]
        yield from (Path(here, name) for name in sorted(names))


def _add(files: dict[str, File], name: PurePath, file: File) -> None:
    """Add one file to the index, or the members of a zip of the competition.

    Of several files of one name, that in the fewest other folders and zips counts.
    """
    name = PurePath(str(name).replace("\\", "/"))  # from Windows
    folders, suffix = [part.lower() for part in name.parts[:-1]], name.suffix.lower()
    if any(map(_HIDDEN.match, name.parts)):
        return
    around = [*folders, name.stem.lower()] if suffix == ".zip" else folders
    split = [part for part in around if part in ("train", "test")][-1:]
    other = [x for x in folders if x not in OURS and COMPETITION not in x]
    file = replace(file, rank=file.rank + 10 * len(other))
    bundle = len(name.parts) == 1 and file.path and zipfile.is_zipfile(file.path)
    if suffix == ".zip" and (split or COMPETITION in name.stem or bundle):
        return _add_zip(files, PurePath(*split), file)
    if suffix == ".png" and folders[-1:] in (["images"], ["masks"]):
        key = "/".join((*split, folders[-1], name.stem))
    elif (key := name.name.lower()) not in (*TABLES, "sections.csv"):
        return
    known = files.setdefault(key, file)
    if file.rank < known.rank:
        files[key] = file
    elif known is not file and file.rank == known.rank and file.read() != known.read():
        raise DataError(f"{known.where} and {file.where} differ: move one away")


def _add_zip(files: dict[str, File], prefix: PurePath, file: File) -> None:
    content = file.path or io.BytesIO(file.read())
    try:
        archive = zipfile.ZipFile(content)
    except Exception as error:
        raise DataError(_refusal(file.where, "damaged zip", error)) from error
    for info in archive.infolist():
        if info.filename[-1:] not in ("", "/") and file.rank % 10 < 4:  # no folder
            read = partial(archive.read, info)
            member = File(f"{file.where}!{info.filename}", read, rank=file.rank + 1)
            _add(files, prefix / info.filename.lstrip("/"), member)


def _refusal(where: str, kind: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{where}: no permission to read it: change its mode"
    if isinstance(error, RuntimeError):  # a password, or an unknown compression
        return f"{where}: {error}: unpack the zip yourself, into its folder"
    return f"{where}: {kind} ({error}): fetch it again"
