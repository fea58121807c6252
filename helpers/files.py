"""Nothing half-written: write beside, then rename. And the error for bad files."""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


class DataError(Exception):
    """Bad data: the message names the file, the fault and the remedy."""


@contextmanager
def write_beside(path):
    """Write a file or folder under another name, and rename it when it is complete.

    A reader sees the old content or the new, never a part; if the block raises, the
    old content stays and nothing is left beside it.

    Args:
        path: the file or folder to make; its parent is made where needed. A folder
            must not exist yet (or be empty).

    Yields:
        `pathlib.Path` to write to, of the same suffix, in a fresh folder beside `path`.

    Example:
        >>> with write_beside("outputs/result.json") as beside:  # doctest: +SKIP
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
