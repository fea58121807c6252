"""`python -m helpers`: the five notebooks in order, to a score and a submission.

`python -m helpers train SYSTEM --fold K` trains one system on one fold;
`python -m helpers predict SYSTEM ...` makes a submission from the runs that are there.
"""

import argparse
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.config import PROFILES, ROOT, SYNTHETIC, Budget, Settings
from helpers.utils.files import DataError, atomic_write
from helpers.utils.hardware import load_keras

STOPPED = 130  # exit status of a program that was asked to stop
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main(arguments: list[str] | None = None) -> int:
    """Read the options and act.

    Wrong options end the program with a message and exit status 2.

    Args:
        arguments: the words after the command; by default those of this process.

    Returns:
        The exit status: 0, or 1 for a failure. A training that was asked to stop gives
        130, and the same command goes on with it.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.refresh:
        options.data_dir, options.profile = SYNTHETIC, "quick"
    _export(options)
    try:
        if options.home:
            return _set_home(options.home)
        settings = Settings.from_env()
        act = {"train": _train, "predict": _predict}.get(options.command)
        names = _known_systems(options, settings) if act else []
        notebooks = _numbers(options.only)
    except (DataError, ValueError) as error:
        parser.error(str(error))
    print(settings.describe(), flush=True)
    try:
        if act:
            return act(names, options, settings)
        return _run_notebooks(notebooks, settings, options.refresh)
    except (DataError, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:  # `training.Stopped` says what was kept
        print(f"stopped {stop}", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    # so that either place of an option counts:
    missing: dict[str, Any] = {"default": argparse.SUPPRESS}
    common.add_argument("--profile", choices=PROFILES, help="sizes, epochs", **missing)
    common.add_argument(
        "--data-dir", help="folder of the data, or synthetic", **missing
    )
    common.add_argument("--output-dir", help="for runs and submissions", **missing)
    name = "python -m helpers"
    parser = argparse.ArgumentParser(name, description=__doc__, parents=[common])
    parser.add_argument("--only", help="notebooks to run, such as 02,05")
    parser.add_argument(
        "--refresh", action="store_true", help="renew the outputs in notebooks/"
    )
    parser.add_argument("--home", help="OWNER/NAME: where badges and clones point to")
    commands = parser.add_subparsers(dest="command", title="commands")
    train = commands.add_parser("train", help="train one system", parents=[common])
    train.add_argument(
        "system", help="a name in helpers/systems.py, or a run's config.json"
    )
    train.add_argument("--fold", type=int, default=0, help="0 to 4, in a row of five")
    train.add_argument("--epochs", type=int, help="in all, at least one a stage")
    train.add_argument(
        "--weights",
        help="of the encoder: a file, imagenet, or none; as the system says by default",
    )
    predict = commands.add_parser(
        "predict", help="a submission from finished runs", parents=[common]
    )
    predict.add_argument("systems", nargs="+", help="each counts the same")
    return parser


def _export(options: argparse.Namespace) -> None:
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


def _numbers(only: str | None) -> list[Path]:
    """`"02,05"` -> the paths of those notebooks, in order; all of them for `None`."""
    known = {notebook.name[:2]: notebook for notebook in NOTEBOOKS}
    wanted = known if only is None else only.replace(" ", "").split(",")
    wanted = [number.zfill(2) for number in wanted]
    wrong = [number for number in wanted if number not in known]
    if wrong:
        listed = ", ".join(known)
        raise ValueError(f"--only: no notebook {wrong[0]!r}; there are {listed}")
    return [known[number] for number in sorted(set(wanted))]


def _known_systems(options: argparse.Namespace, settings: Settings) -> list[str]:
    """The names given, checked before anything is read."""
    load_keras()
    from helpers import systems

    if options.command == "train":
        _check_training(options, _planned(options, settings))
        return [options.system]
    for name in options.systems:
        if not (settings.runs_dir / name).is_dir():
            systems.get(name)
    return options.systems


def _rows(name: str) -> list:
    """The systems that a name stands for: rows of the registry, or that of a file."""
    from helpers import systems

    if name.endswith(".json"):
        return [systems.read(name)]
    return [systems.get(member) for member, _ in systems.get(name).members]


def _planned(options: argparse.Namespace, settings: Settings) -> list:
    """The systems to train at the profile's budget; the full one's is as published.

    A row from a file is trained as it stands there.
    """
    from helpers import systems

    if options.epochs is not None and options.epochs < 1:
        raise ValueError(f"--epochs: at least 1, not {options.epochs}")
    profile, planned = settings.profile, []
    for system in _rows(options.system):
        small = system.name != systems.DEFAULT and profile.main.epochs is not None
        budget = profile.encoders if small else profile.main
        if options.system.endswith(".json"):
            budget = Budget(None, system.transform.size, system.tiles)
        budget = replace(budget, epochs=options.epochs or budget.epochs)
        planned.append(system.within(budget))
    return planned


def _check_training(options: argparse.Namespace, planned: list) -> None:
    """Refuse what cannot be trained."""
    folds = min(system.folds for system in planned)
    if not 0 <= options.fold < folds:
        own = min(row.folds for row in _rows(options.system))
        why = " (under a budget all systems have the same folds)" if own > folds else ""
        raise ValueError(f"--fold: {options.fold} is none of 0 to {folds - 1}{why}")
    if len(planned) > 1 and options.weights not in (None, "none", "imagenet"):
        raise ValueError(f"--weights: one file does not fit all of {options.system}")


def _train(names: list[str], options: argparse.Namespace, settings: Settings) -> int:
    """Train a system, or each member of an ensemble."""
    from helpers import data, training

    tiles = data.load_tiles(settings)
    for system in _planned(options, settings):
        if options.weights is not None:
            system = system.with_weights(options.weights)
        training.estimate([system], tiles, settings, options.fold)
        run = training.fit(system, tiles, options.fold, settings)
        print(f"{run.name}: score {run.score:.4f}, kept in {run.folder}")
    return 0


def _predict(names: list[str], options: argparse.Namespace, settings: Settings) -> int:
    """Ensemble the finished runs of these systems into a checked submission."""
    from tqdm import tqdm

    from helpers import data, inference, metrics, submission
    from helpers.training import runs

    members = runs.find_members(settings, *names)
    data.check_parts(settings)
    for run, weight in members.items():
        print(f"{weight:.3f} x {run.name}, score {run.score:.4f}", flush=True)
    seen, probabilities = runs.out_of_fold(members, data.load_tiles(settings))
    rule, scores = inference.PostProcess(), None
    if any(run.config["system"]["search"] for run in members) and len(seen) > 1:
        rule, scores = inference.cross_fit(seen.masks, probabilities)
    elif len(seen):
        scores = metrics.precision_per_image(seen.masks, rule(probabilities))
    if scores is None:
        print("no tile was left out by all systems: no score")
    else:
        low, high = inference.bootstrap_ci(scores)
        print(f"score {scores.mean():.4f} ({low:.3f} to {high:.3f}), {len(seen)} tiles")
    print(f"threshold {rule.threshold:g}, smallest mask {rule.min_mask_size} pixels")
    test = data.load_test_tiles(settings)
    masks = rule(runs.predict(members, test.images, tqdm))
    masks = submission.empty_constant(masks, test.constant)
    path = settings.output_dir / f"submission-{'+'.join(names)}.csv"
    print(submission.write_submission(path, test.ids, masks))
    _tell_rehearsal(settings)
    return 0


def _tell_rehearsal(settings: Settings) -> None:
    profile = settings.profile
    if profile.test_tiles:
        print(
            f"profile {profile.name}: a rehearsal with {profile.test_tiles} test "
            "tiles, not for Kaggle, which wants them all"
        )


def _set_home(home: str) -> int:
    from helpers import publish

    for path in publish.set_home(home):
        print(path.relative_to(ROOT))
    return 0


def _run_notebooks(
    notebooks: list[Path], settings: Settings, refresh: bool = False
) -> int:
    """One after the other; `refresh` then puts what they show into the files."""
    from helpers import data, publish

    if refresh and settings.runs_dir.exists():
        raise DataError(f"{settings.runs_dir}: in the way of a clean run: move it away")
    data.check_parts(settings)  # bad data is told now, not after a training
    for notebook in notebooks:
        fault = run_notebook(notebook, settings.output_dir / "notebooks")
        if fault:
            print(f"\n{notebook.name} failed in {fault}", file=sys.stderr)
            return 1
    for notebook in notebooks if refresh else ():
        executed = settings.output_dir / "notebooks" / notebook.name
        publish.keep_outputs(executed, notebook)
    print(f"executed notebooks: {settings.output_dir / 'notebooks'}")
    if any(notebook.name.startswith("05") for notebook in notebooks):
        result = json.loads((settings.output_dir / "result.json").read_text())
        print(f"validation score: {result['score']:.4f} ({result['what']})")
        print(f"submission: {result['submission']}")
        _tell_rehearsal(settings)
    return 0


def run_notebook(notebook: Path, folder: Path) -> str:
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
            store_widget_state=False,
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
            told = str(error)
            if getattr(error, "ename", "") == DataError.__name__:
                told = getattr(error, "evalue", told)  # says it all, without traceback
            told = re.sub(r"\x1b\[[0-9;]*m", "", told)  # without colours
            fault = f"cell {cell} (`{first}`):\n{told}"
        finally:
            _make_still(book)
            with atomic_write(folder / notebook.name) as beside:
                nbformat.write(book, beside)
    return fault


def _make_still(book: Any) -> None:
    """Leave of widgets, which live as long as their kernel, the pictures they give."""
    widget = "application/vnd.jupyter.widget-view+json"
    for cell in book.cells:
        outputs = cell.get("outputs", [])
        alive = [output for output in outputs if widget in output.get("data", {})]
        for output in alive:
            del output.data[widget]
            if "image/png" not in output.data:
                outputs.remove(output)


if __name__ == "__main__":
    sys.exit(main())
