"""For those who maintain the course: its outputs, and its address.

`python -m helpers --refresh` runs the notebooks once on synthetic tiles and commits
what they show to the files; `python -m helpers --home OWNER/NAME` tells every badge and
set-up cell where the course lives on GitHub.
"""

import re
import zlib
from pathlib import Path

import nbformat

from helpers.config import HOME, ROOT
from helpers.utils.files import DataError, atomic_write

STAMP = "ran"  # in a notebook's metadata: a checksum of the cells that were run
WORDS = "<details><summary>The figure in words</summary>"
FIGURE = re.compile(WORDS + r"\s*(.+?)\s*</details>", re.DOTALL)
ADDRESSED = ("README.md", "helpers/config.py", "notebooks/*.ipynb")


def stamp(book: nbformat.NotebookNode, home: str = HOME) -> str:
    """Eight digits that change when a code cell does, wherever the course lives."""
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    text = "\n".join(code).replace(home, "")
    return f"{zlib.crc32(text.encode()):08x}"


def keep_outputs(executed: Path, notebook: Path) -> None:
    """Replace a notebook by its executed copy, cleaned and stamped.

    What can be seen in a figure is told, for those who cannot see it, in the text
    above its cell, folded away: `WORDS`, the words, `</details>`. Few viewers know of
    alternative texts in notebooks; for those the words become one as well.

    Args:
        executed: the copy, as `__main__.run_notebook` leaves it.
        notebook: the notebook.

    Raises:
        DataError: if something was written to stderr (a warning is to be mended, not
            committed), or a figure is not described.
    """
    book = nbformat.read(executed, as_version=4)
    above = None
    for cell in book.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise DataError(
                    f"{executed}: stderr holds {output.text[:200]!r}: mend its cause"
                )
            if "text" in output:  # without terminal colours
                output.text = re.sub(r"\x1b\[[0-9;]*m", "", output.text)
            if "image/png" in output.get("data", {}):
                if not above:
                    raise DataError(
                        f"{notebook}: the figure of {cell.source[:60]!r} is not "
                        f"described: add {WORDS} ... </details> to the text above it"
                    )
                output.metadata = {"image/png": {"alt": " ".join(above[1].split())}}
        if cell.cell_type == "markdown":
            above = FIGURE.search(cell.source)
    spec = nbformat.read(notebook, as_version=4).metadata
    book.metadata = {**spec, STAMP: stamp(book)}
    nbformat.validate(book)
    with atomic_write(notebook) as beside:
        nbformat.write(book, beside)


def set_home(home: str, root: Path = ROOT) -> list[Path]:
    """Write another address into badges, set-up cells and `config.HOME`.

    Args:
        home: `OWNER/NAME` on GitHub.
        root: of the repository.

    Returns:
        The files that were changed.

    Raises:
        ValueError: for anything but `OWNER/NAME`.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", home):
        raise ValueError(f"--home is OWNER/NAME, as in {HOME}, not {home!r}")
    changed = []
    for pattern in ADDRESSED:
        for path in sorted(root.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            if HOME in text and home != HOME:
                with atomic_write(path) as beside:
                    beside.write_text(text.replace(HOME, home), encoding="utf-8")
                changed.append(path)
    return changed
