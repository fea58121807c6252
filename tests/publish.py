"""For maintainers: renew the notebooks' outputs, set the course's address.

`python tests/publish.py refresh` runs the notebooks once on synthetic tiles in the
`quick` profile, and keeps in the files what they show.
`python tests/publish.py home OWNER/NAME` writes the address on GitHub into every badge
and set-up cell.
"""

import argparse
import os
import re
import sys
import zlib
from datetime import datetime
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import __main__ as main
from helpers.config import HOME, ROOT, SYNTHETIC, Settings
from helpers.utils.execute import SECONDS
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


def refresh() -> int:
    """Run all notebooks in a clean output folder, and keep their outputs."""
    os.environ |= {"SALT_DATA_DIR": SYNTHETIC, "SALT_PROFILE": "quick"}
    settings = Settings.from_env()
    if settings.runs_dir.exists():
        raise DataError(f"{settings.runs_dir}: not a clean start: move it away")
    status = main.main([])
    for notebook in main.NOTEBOOKS if status == 0 else ():
        keep_outputs(settings.output_dir / "notebooks" / notebook.name, notebook)
    return status


def keep_outputs(executed: Path, notebook: Path) -> None:
    """Replace a notebook by its executed copy, cleaned and stamped.

    Every figure is described in the text above its cell, folded away: `WORDS`, the
    words, `</details>`. Few viewers read alternative texts of notebooks; for those the
    words become one as well. How long each cell took is kept in the metadata, from
    which `python -m helpers` estimates the time left.

    Args:
        executed: the copy, as `execute.run` leaves it.
        notebook: the notebook.

    Raises:
        DataError: if something was written to stderr (a warning is to be mended, not
            committed), or a figure is not described.
    """
    book = nbformat.read(executed, as_version=4)
    above, seconds = None, []
    for cell in book.cells:
        if cell.cell_type == "code":
            seconds.append(_seconds(cell.metadata.get("execution", {})))
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
    book.metadata = {**spec, STAMP: stamp(book), SECONDS: seconds}
    nbformat.validate(book)
    with atomic_write(notebook) as beside:
        nbformat.write(book, beside)


def _seconds(timing: dict) -> float:
    """How long a cell took, from what nbclient has recorded."""
    begin, end = (
        timing.get(name) for name in ("iopub.status.busy", "iopub.status.idle")
    )
    if not begin or not end:
        return 0.0
    times = [datetime.fromisoformat(time) for time in (begin, end)]
    return round((times[1] - times[0]).total_seconds(), 1)


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["refresh", "home"])
    parser.add_argument("address", nargs="?", help="OWNER/NAME, for home")
    options = parser.parse_args()
    try:
        if options.command == "refresh":
            sys.exit(refresh())
        for path in set_home(options.address or ""):
            print(path.relative_to(ROOT))
    except (DataError, ValueError) as error:
        parser.error(str(error))
