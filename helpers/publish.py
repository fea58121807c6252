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
from helpers.files import DataError, write_beside

STAMP = "ran"  # in a notebook's metadata: a checksum of the cells that were run
ADDRESSED = ("README.md", "helpers/config.py", "notebooks/*.ipynb")


def stamp(book: nbformat.NotebookNode, home: str = HOME) -> str:
    """Eight digits that change when a code cell does, wherever the course lives."""
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    text = "\n".join(code).replace(home, "")
    return f"{zlib.crc32(text.encode()):08x}"


def keep_outputs(executed: Path, notebook: Path) -> None:
    """Replace a notebook by its executed copy, cleaned and stamped.

    Args:
        executed: the copy, as `__main__.run_notebook` leaves it.
        notebook: the notebook.

    Raises:
        DataError: if something was written to stderr: a warning is to be mended, not
            committed.
    """
    book = nbformat.read(executed, as_version=4)
    above = ""
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
                output.metadata = {"image/png": {"alt": f"Figure. {above}"}}
        if cell.cell_type == "markdown":
            above = first_sentence(cell.source)
    spec = nbformat.read(notebook, as_version=4).metadata
    book.metadata = {**spec, STAMP: stamp(book)}
    nbformat.validate(book)
    with write_beside(notebook) as beside:
        nbformat.write(book, beside)


def first_sentence(markdown: str) -> str:
    """The first sentence of a text, without marks: what its figure shows, roughly."""
    lines = [line for line in markdown.splitlines() if line[:1] not in ("#", "|", "")]
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(lines))
    text = re.sub(r"[*_`$]|\s+(?=\s)", "", text)
    return re.split(r"(?<=[.?!:])\s", text, maxsplit=1)[0][:200]


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
                with write_beside(path) as beside:
                    beside.write_text(text.replace(HOME, home), encoding="utf-8")
                changed.append(path)
    return changed
