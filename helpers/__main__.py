"""`python -m helpers`: the five notebooks in order, to a score and a submission.

`python -m helpers train SYSTEM --fold K` trains one system on one fold.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from helpers.config import PROFILES, ROOT, SYNTHETIC, Settings
from helpers.files import DataError, write_beside
from helpers.machine import load_keras

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main(arguments=None):
    """Read the options and act. Returns the exit status: 0, or 1 for a failure.

    Wrong options end the program with a message and exit status 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    _export(options)
    try:
        settings = Settings.from_env()
        system = _system(options) if options.command == "train" else None
        notebooks = _numbers(options.only)
    except ValueError as error:
        parser.error(str(error))
    print(settings.describe(), flush=True)
    try:
        if system:
            return _train(system, options.fold, settings)
        return _run_notebooks(notebooks, settings)
    except (DataError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser():
    common = argparse.ArgumentParser(add_help=False)
    missing = {"default": argparse.SUPPRESS}  # so that either place of an option counts
    common.add_argument("--profile", choices=PROFILES, help="sizes, epochs", **missing)
    common.add_argument(
        "--data-dir", help="folder of the data, or synthetic", **missing
    )
    common.add_argument("--output-dir", help="for runs and submissions", **missing)
    name = "python -m helpers"
    parser = argparse.ArgumentParser(name, description=__doc__, parents=[common])
    parser.add_argument("--only", help="notebooks to run, such as 02,05")
    commands = parser.add_subparsers(dest="command", title="commands")
    train = commands.add_parser("train", help="train one system", parents=[common])
    train.add_argument("system", help="a name in helpers/systems.py, e.g. salt-net")
    train.add_argument("--fold", type=int, default=0, choices=range(5), help="0 to 4")
    return parser


def _export(options):
    """Put the options where notebooks' kernels read them; paths become complete."""
    names = {"data_dir": "SALT_DATA_DIR", "output_dir": "SALT_OUTPUT_DIR"}
    for option, name in names.items():
        value = getattr(options, option, None)
        if value and value.lower() != SYNTHETIC:
            value = str(Path(value).expanduser().absolute())
        if value:
            os.environ[name] = value
    if getattr(options, "profile", None):
        os.environ["SALT_PROFILE"] = options.profile


def _numbers(only):
    """`"02,05"` -> the paths of those notebooks, in order; all of them for `None`."""
    known = {notebook.name[:2]: notebook for notebook in NOTEBOOKS}
    wanted = known if only is None else only.replace(" ", "").split(",")
    wrong = [number for number in wanted if number not in known]
    if wrong:
        listed = ", ".join(known)
        raise ValueError(f"--only: no notebook {wrong[0]!r}; there are {listed}")
    return [known[number] for number in sorted(set(wanted))]


def _system(options):
    load_keras()
    from helpers import systems

    return systems.get(options.system)


def _train(system, fold, settings):
    """Train at the profile's budget; the full profile's is the published recipe."""
    from helpers import data, systems, training

    profile = settings.profile
    small = system.name != systems.DEFAULT and profile.main.epochs is not None
    system = system.within(profile.encoders if small else profile.main)
    run = training.fit(system, data.load_tiles(settings), fold, settings)
    print(f"{run.name}: score {run.score:.4f}, kept in {run.folder}")
    return 0


def _run_notebooks(notebooks, settings):
    from helpers import data

    data.open_data(settings)  # bad data is told now, not by the first notebook
    for notebook in notebooks:
        fault = run_notebook(notebook, settings.output_dir / "notebooks")
        if fault:
            print(f"\n{notebook.name} failed in {fault}", file=sys.stderr)
            return 1
    print(f"executed notebooks: {settings.output_dir / 'notebooks'}")
    if any(notebook.name.startswith("05") for notebook in notebooks):
        result = json.loads((settings.output_dir / "result.json").read_text())
        print(f"validation score: {result['score']:.4f} ({result['what']})")
        print(f"submission: {result['submission']}")
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
            cell = current[-1] if current else 0
            first = book.cells[cell].source.strip().split("\n")[0]
            error = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without colours
            fault = f"cell {cell} (`{first}`):\n{error}"
        finally:
            with write_beside(folder / notebook.name) as beside:
                nbformat.write(book, beside)
    return fault


if __name__ == "__main__":
    sys.exit(main())
