"""`python -m helpers`: the five notebooks in order, to a score and a submission.

`python -m helpers train SYSTEM --fold K` trains one system on one fold.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from helpers.config import PROFILES, ROOT, Settings
from helpers.files import DataError, write_beside
from helpers.machine import load_keras

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main(arguments=None):
    """Read the options and act. Returns the exit status: 0, or 1 for a failure.

    Wrong options end the program with a message and exit status 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = {
        "SALT_DATA_DIR": options.data_dir,
        "SALT_OUTPUT_DIR": options.output_dir,
        "SALT_PROFILE": options.profile,
    }
    # Paths given here start at the shell's folder, and reach the kernels complete.
    for name in ("SALT_DATA_DIR", "SALT_OUTPUT_DIR"):
        if chosen[name] and chosen[name] != "synthetic":
            chosen[name] = str(Path(chosen[name]).expanduser().absolute())
    os.environ.update({name: value for name, value in chosen.items() if value})
    try:
        settings = Settings.from_env()
        numbers = _numbers(options.only) if options.command is None else []
    except ValueError as error:
        parser.error(str(error))
    print(settings.describe(), flush=True)
    try:
        if options.command == "train":
            return _train(options, settings, parser)
        return _run_notebooks(numbers, settings)
    except (DataError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, help="sizes and epochs")
    parser.add_argument("--data-dir", help="folder with the data, or `synthetic`")
    parser.add_argument("--output-dir", help="for runs and submissions (outputs)")
    parser.add_argument("--only", help="notebooks to run, such as 02,05")
    commands = parser.add_subparsers(dest="command", title="commands")
    train = commands.add_parser("train", help="train one system on one fold")
    train.add_argument("system", help="a name in helpers/systems.py, e.g. salt-net")
    train.add_argument("--fold", type=int, default=0, help="0 to 4 (default 0)")
    return parser


def _numbers(only):
    """`"02,05"` -> the paths of those notebooks; all of them for `None`."""
    known = {notebook.name[:2]: notebook for notebook in NOTEBOOKS}
    wanted = sorted(known) if only is None else only.replace(" ", "").split(",")
    wrong = [number for number in wanted if number not in known]
    if wrong:
        raise ValueError(
            f"--only: no notebook {wrong[0]!r}; there are {', '.join(known)}"
        )
    return [known[number] for number in wanted]


def _train(options, settings, parser):
    load_keras()
    from helpers import data, systems, training

    try:
        system = systems.get(options.system)
        is_main = system.name == systems.DEFAULT
        profile = settings.profile
        system = system.within(profile.main if is_main else profile.encoders)
        run = training.fit(system, data.load_tiles(settings), options.fold, settings)
    except ValueError as error:
        parser.error(str(error))
    print(f"{run.name}: score {run.score:.4f}, kept in {run.folder}")
    return 0


def _run_notebooks(notebooks, settings):
    from helpers import data

    data.open_data(settings)  # bad data is told now, not by the first notebook
    result = settings.output_dir / "result.json"
    result.unlink(missing_ok=True)
    for notebook in notebooks:
        fault = run_notebook(notebook, settings.output_dir / "notebooks")
        if fault:
            print(f"\n{notebook.name} failed in {fault}", file=sys.stderr)
            return 1
    print(f"executed notebooks: {settings.output_dir / 'notebooks'}")
    if result.exists():
        found = json.loads(result.read_text())
        print(f"validation score: {found['score']:.4f} ({found['what']})")
        print(f"submission: {found['submission']}")
    return 0


def run_notebook(notebook, folder):
    """Execute one notebook in a fresh kernel, with a progress bar over its cells.

    Args:
        notebook: path of the `.ipynb`; it is not changed.
        folder: where the executed copy is kept, also when a cell fails.

    Returns:
        `""`, or the cell that failed and its error, for people.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from tqdm import tqdm

    book = nbformat.read(notebook, as_version=4)
    count = sum(cell.cell_type == "code" for cell in book.cells)
    current = []
    with tqdm(total=count, desc=notebook.stem, unit="cell") as bar:
        client = NotebookClient(
            book,
            timeout=None,
            kernel_name="python3",
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(notebook.parent)}},
            on_cell_start=lambda cell, cell_index: current.append(cell_index),
            on_cell_executed=lambda **_: bar.update(),
        )
        try:
            client.execute()
            fault = ""
        except (CellExecutionError, DeadKernelError) as error:
            first = book.cells[current[-1]].source.strip().split("\n")[0]
            error = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without colours
            fault = f"cell {current[-1]} (`{first}`):\n{error}"
    with write_beside(folder / notebook.name) as beside:
        nbformat.write(book, beside)
    return fault


if __name__ == "__main__":
    sys.exit(main())
