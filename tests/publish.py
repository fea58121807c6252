"""For maintainers: renew the notebooks' outputs, set the course's address.

`python tests/publish.py refresh` runs the notebooks once on synthetic tiles in the
`quick` profile, and keeps in the files what they show.
`python tests/publish.py setup` writes the one set-up cell into every notebook.
`python tests/publish.py home OWNER/NAME` writes the address on GitHub, and the commit
to fetch from there, into every badge and set-up cell. Push that commit first.
"""

import argparse
import base64
import io
import os
import re
import subprocess
import sys
import zlib
from datetime import datetime
from pathlib import Path

import nbformat
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import __main__ as main
from helpers.config import HOME, ROOT, SYNTHETIC, Settings
from helpers.utils.execute import SECONDS
from helpers.utils.files import DataError, atomic_write

STAMP = "ran"  # in a notebook's metadata: a checksum of the cells that were run
WORDS = "<details><summary>The figure in words</summary>"
FIGURE = re.compile(WORDS + r"\s*(.+?)\s*</details>", re.DOTALL)
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{}/blob/main/notebooks/{})"
)
LANGUAGE = {  # without it `nbconvert --to script` writes a .txt
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


def stamp(book: nbformat.NotebookNode) -> str:
    """Eight digits that change when a code cell does, but for the set-up cell."""
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    return f"{zlib.crc32(chr(10).join(code[1:]).encode()):08x}"


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
            if "text" in output:  # without terminal colours, and this machine's folder
                text = re.sub(r"\x1b\[[0-9;]*m", "", output.text)
                output.text = text.replace(str(ROOT.parent), "/…")
            if "image/png" in output.get("data", {}):
                if not above:
                    raise DataError(
                        f"{notebook}: the figure of {cell.source[:60]!r} is not "
                        f"described: add {WORDS} ... </details> to the text above it"
                    )
                output.metadata = {"image/png": {"alt": " ".join(above[1].split())}}
                output.data["image/png"] = _smaller(output.data["image/png"])
        if cell.cell_type == "markdown":
            above = FIGURE.search(cell.source)
    spec = nbformat.read(notebook, as_version=4).metadata
    book.metadata = {**spec, STAMP: stamp(book), SECONDS: seconds}
    nbformat.validate(book)
    with atomic_write(notebook) as beside:
        nbformat.write(book, beside)


def _smaller(png: str) -> str:
    """The same picture, compressed better; base64 in and out."""
    picture, small = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _seconds(timing: dict) -> float:
    """How long a cell took, from what nbclient has recorded."""
    begin, end = (
        timing.get(name) for name in ("iopub.status.busy", "iopub.status.idle")
    )
    if not begin or not end:
        return 0.0
    times = [datetime.fromisoformat(time) for time in (begin, end)]
    return round((times[1] - times[0]).total_seconds(), 1)


def setup_cell(home: str = HOME) -> str:
    """The code cell that opens every notebook, at most 88 characters wide.

    It looks for the course in the notebook's folder, above it, and in folders and zips
    beside it. Otherwise it fetches what `SALT_REPOSITORY` names, or exactly the commit
    of `home`: Git compares what comes with that hash, which is one of all the content.
    """
    address, _, commit = home.partition("@")
    find = """\
zips = [zipfile.Path(p) for p in here.glob("*.zip") if zipfile.is_zipfile(p)]
places = *here.parents, *here.iterdir(), *zips, *(p for z in zips for p in z.iterdir())
found = [str(p) for p in (here, *places) if (p / "helpers/config.py").is_file()]
"""
    clone = f"""\
here, given = pathlib.Path.cwd(), os.environ.get("SALT_REPOSITORY")
if given and not [*here.glob("*/notebooks"), *here.parent.glob("helpers")]:
    os.system('timeout 25 git clone -q --depth=1 "$SALT_REPOSITORY" salt-course-$$')
{find}"""
    fetch = f"""\
HOME = "https://github.com/{address}"
COMMIT = "{commit}"
here, given = pathlib.Path.cwd(), os.environ.get("SALT_REPOSITORY", HOME)
{find}\
if not found:  # alone, as in Colab: fetch the course as it was at this commit
    new, pin = f"salt-course-{{os.getpid()}}", COMMIT if given == HOME else "HEAD"
    git = f"git init -q {{new}} && cd {{new}} && timeout 25 git fetch -q --depth=1"
    if os.system(f'{{git}} "{{given}}" {{pin}} && git checkout -q FETCH_HEAD') == 0:
        found = [str(here / new)]
"""
    return f"""\
import os, pathlib, sys, zipfile  # noqa: E401, I001

{fetch if home else clone}\
sys.path[:0] = found or sys.exit("Upload the course's zip here, or set SALT_REPOSITORY")
from helpers import config

settings = config.start()"""


def set_up(home: str = HOME, root: Path = ROOT) -> list[Path]:
    """Write the set-up cell, the badge and the language into every notebook.

    Args:
        home: `OWNER/NAME@COMMIT` on GitHub, or `""`: then there is no badge.
        root: of the repository.

    Returns:
        The notebooks that were changed.
    """
    changed = []
    for path in sorted(root.glob("notebooks/*.ipynb")):
        book = nbformat.read(path, as_version=4)
        before = nbformat.writes(book)
        title = book.cells[0]
        title.source = re.sub(r"\[!\[Open in Colab\].*\n*", "", title.source)
        if home:
            badge = BADGE.format(home.partition("@")[0], path.name)
            head, _, rest = title.source.partition("\n")
            title.source = f"{head}\n\n{badge}\n\n{rest.lstrip()}"
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        code[0].source = setup_cell(home)
        book.metadata["language_info"] = LANGUAGE
        if nbformat.writes(book) != before:
            with atomic_write(path) as beside:
                nbformat.write(book, beside)
            changed.append(path)
    return changed


def set_home(home: str, root: Path = ROOT) -> list[Path]:
    """Write another address into `config.HOME`, badges and set-up cells.

    Args:
        home: `OWNER/NAME@COMMIT` on GitHub; the commit in full.
        root: of the repository.

    Returns:
        The files that were changed.

    Raises:
        ValueError: for anything else.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", home, re.ASCII):
        raise ValueError(f"home is OWNER/NAME, and a commit in full, not {home!r}")
    config = root / "helpers" / "config.py"
    text = config.read_text(encoding="utf-8")
    with atomic_write(config) as beside:
        home_line = re.sub('^HOME = ".*?"', f'HOME = "{home}"', text, flags=re.M)
        beside.write_text(home_line, encoding="utf-8")
    return [config, *set_up(home, root)]


def last_commit() -> str:
    """The commit that is checked out, in full."""
    git = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        git, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("refresh", help="renew the outputs")
    commands.add_parser("setup", help="write the set-up cell into all notebooks")
    move = commands.add_parser("home", help="set the address on GitHub")
    move.add_argument("address", help="OWNER/NAME")
    move.add_argument("commit", nargs="?", help="by default the one checked out")
    options = parser.parse_args()
    try:
        if options.command == "refresh":
            sys.exit(refresh())
        changed = set_up() if options.command == "setup" else []
        if options.command == "home":
            commit = options.commit or last_commit()
            changed = set_home(f"{options.address}@{commit}")
        for path in changed:
            print(path.relative_to(ROOT))
    except (DataError, ValueError) as error:
        parser.error(str(error))
