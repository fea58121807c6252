"""`python -m helpers`: the five notebooks in order, to a score and a submission.

`python -m helpers train SYSTEM --fold K` trains one system on one fold;
`python -m helpers predict SYSTEM ...` makes a submission from the runs that are there.
`python -m helpers section IN.sgy OUT.sgy` marks the salt in a survey.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from helpers.config import PROFILES, ROOT, SYNTHETIC, Budget, Settings
from helpers.utils.files import DataError
from helpers.utils.hardware import load_keras

STOPPED = 130  # exit status of a program that was asked to stop
MAX_EPOCHS = 100_000
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main(arguments: list[str] | None = None) -> int:
    """Read the options and act.

    Wrong options end the program with a message and exit status 2.

    Args:
        arguments: the words after the command; by default those of this process.

    Returns:
        The exit status: 0, or 1 for a failure. A training run that was asked to stop
        gives 130, and the same command resumes it.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    acts = {"train": _train, "predict": _predict, "section": _section}
    act = acts.get(options.command, _run_notebooks)
    try:
        _export(options)
        settings = Settings.from_env()
        if options.command in ("train", "predict"):
            _check_systems(options, settings)
        if options.command and options.only:
            raise ValueError(f"--only chooses notebooks: not with {options.command}")
        options.notebooks = _numbers(options.only)
    except (DataError, ValueError) as error:
        parser.error(str(error))
    if act is not _section:  # which reads no tiles
        print(settings.describe(), flush=True)
    try:
        return act(options, settings)
    except (DataError, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:  # its text says what was kept
        text = str(stop) or "at once: run the same command to resume"
        print(f"stopped {text}", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    # An option counts before the command's name and after it:
    missing: dict[str, Any] = {"default": argparse.SUPPRESS}
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
    train.add_argument(
        "system", help="a name in helpers/systems.py, or a run's config.json"
    )
    train.add_argument(
        "--fold", type=int, nargs="+", default=[0], help="0 to 4, in a row of five"
    )
    train.add_argument("--epochs", type=int, help="in all, at least one a stage")
    train.add_argument("--weights", help="of the encoder: a file, imagenet, or none")
    predict = commands.add_parser(
        "predict", help="a submission from finished runs", parents=[common]
    )
    predict.add_argument("systems", nargs="+", help="each counts the same")
    section = commands.add_parser("section", help="mark the salt", parents=[common])
    section.add_argument("source", type=Path, help="SEG-Y file, 3-D and stacked")
    section.add_argument("target", type=Path, help="its copy, with probabilities")
    section.add_argument("--run", help="folder of one; default: the geology weights")
    two: dict[str, Any] = {"nargs": 2, "metavar": ("DOWN", "ALONG")}
    text = "a tile's pixels per sample, and per trace"
    section.add_argument("--scale", type=float, default=(1, 1), help=text, **two)
    text, two["metavar"] = "bytes of both numbers", ("INLINE", "CROSSLINE")
    section.add_argument("--lines", type=int, default=(189, 193), help=text, **two)
    section.add_argument("--truth", type=Path, help="SEG-Y file of 1 in salt: the IoU")
    for command in (train, section):
        text = "Dask's workers: tcp://HOST:PORT, or local:2 for two here"
        command.add_argument("--scheduler", help=text)
    return parser


def _export(options: argparse.Namespace) -> None:
    """Set the variables that the notebooks' kernels inherit, with absolute paths.

    An empty path is refused: it comes from a shell's variable that is not set.
    """
    names = {"data_dir": "SALT_DATA_DIR", "output_dir": "SALT_OUTPUT_DIR"}
    for option, name in names.items():
        value = getattr(options, option, None)
        if value is not None:
            if not value.strip():
                raise ValueError(f"--{option[:-4]}-dir is empty: name a folder")
            named = name == "SALT_DATA_DIR" and value.lower() == SYNTHETIC
            if not named and value[0] != "~":
                value = str(Path(value).absolute())
            os.environ[name] = value
    if getattr(options, "profile", None):
        os.environ["SALT_PROFILE"] = options.profile


def _numbers(only: str | None) -> list[Path]:
    """`"02,05"` -> the paths of those notebooks, in order; all of them for `None`."""
    known = {notebook.name[:2]: notebook for notebook in NOTEBOOKS}
    wanted = known if only is None else only.replace(" ", "").split(",")
    wanted = [number.zfill(2) for number in wanted]
    if wrong := [number for number in wanted if number not in known]:
        listed = ", ".join(known)
        raise ValueError(f"--only: no notebook {wrong[0]!r}; there are {listed}")
    return [known[number] for number in sorted(set(wanted))]


def _check_systems(options: argparse.Namespace, settings: Settings) -> None:
    """Refuse unknown systems, and what cannot be trained, before anything is read."""
    load_keras()
    from helpers import systems

    if options.command == "predict":
        for name in options.systems:
            if not (settings.runs_dir / name).is_dir():
                systems.get(name)
        return
    options.planned = _planned(options, settings)
    folds = min(system.folds for system in options.planned)
    if wrong := [fold for fold in options.fold if not 0 <= fold < folds]:
        own = min(row.folds for row in _rows(options.system))
        why = " (under a budget all systems have the same folds)" if own > folds else ""
        raise ValueError(f"--fold: must be 0 to {folds - 1}, not {wrong[0]}{why}")
    one_file = options.weights not in (None, "none", "imagenet")
    if len(options.planned) > 1 and one_file:
        raise ValueError(f"--weights: one file does not fit all of {options.system}")


def _planned(options: argparse.Namespace, settings: Settings) -> list:
    """The systems to train, each cut to its budget in this profile.

    A row from a file is trained as it is.
    """
    from helpers import systems
    from helpers.training import stages

    if options.epochs is not None and not 1 <= options.epochs <= MAX_EPOCHS:
        raise ValueError(f"--epochs: 1 to {MAX_EPOCHS}, not {options.epochs:.4g}")
    profile, planned = settings.profile, []
    for row in _rows(options.system):
        small = row.name != systems.DEFAULT and profile.main.epochs is not None
        budget = profile.encoders if small else profile.main
        if options.system.endswith(".json"):
            budget = Budget(None, row.transform.size, row.tiles)
        row = row.within(replace(budget, epochs=options.epochs or budget.epochs))
        if options.weights is not None:
            row = row.with_weights(options.weights)
        stages.check(row)
        planned.append(row)
    return planned


def _rows(name: str) -> list:
    """The systems that a name stands for: rows of the registry, or that of a file."""
    from helpers import systems
    from helpers.training import runs

    if name.endswith(".json"):
        return [runs.read_system(name)]
    return [systems.get(member) for member, _ in systems.get(name).members]


def _train(options: argparse.Namespace, settings: Settings) -> int:
    """Train a system, or each member of an ensemble, on the folds asked for."""
    from helpers import training
    from helpers.utils import workers

    tasks = [(x, fold) for x in options.planned for fold in options.fold]
    for system, fold in tasks:
        training.estimate([system], workers.load_tiles(settings), settings, fold)
    fit = partial(workers.fit, settings, 2 if options.scheduler else 1)
    for run in workers.run_tasks(fit, tasks, options.scheduler):
        print(f"{run.name}: score {run.score:.4f}, kept in {run.folder}")
    return 0


def _section(options: argparse.Namespace, settings: Settings) -> int:
    """Mark the salt in a survey, and compare it with the truth if that is known."""
    from helpers.utils import segy

    source, target, lines = options.source, options.target, options.lines
    how = options.run, options.scale, lines, options.scheduler
    segy.mark_survey(source, target, *how)
    print(f"probabilities of salt: {target}")
    if options.truth:
        print(f"IoU of the salt: {segy.iou(target, options.truth, lines):.3f}")
    return 0


def _predict(options: argparse.Namespace, settings: Settings) -> int:
    """Average the finished runs of these systems into a checked submission."""
    from tqdm import tqdm

    from helpers import data, inference, metrics, submission
    from helpers.training import runs

    members = runs.find_members(settings, *options.systems)
    data.check_parts(settings)
    for run, weight in members.items():
        print(f"{weight:.3f} x {run.name}, score {run.score:.4f}", flush=True)
    left_out, probabilities = runs.out_of_fold(members, data.load_tiles(settings))
    post_process = inference.PostProcess()
    if len(left_out) > 1 and any(r.config["system"]["search"] for r in members):
        post_process, scores = inference.cross_fit(left_out.masks, probabilities)
    elif len(left_out):
        masks = post_process(probabilities)
        scores = metrics.precision_per_image(left_out.masks, masks)
    if len(left_out):
        low, high = inference.bootstrap_ci(scores)
        print(f"score {scores.mean():.4f} ({low:.3f} to {high:.3f})", end=", ")
        print(f"{len(left_out)} tiles")
    else:
        print("no tile was left out by all systems: no score")
    print(
        f"threshold {post_process.threshold:g}, "
        f"masks under {post_process.min_mask_size} pixels emptied"
    )
    test = data.load_test_tiles(settings)
    masks = post_process(runs.predict(members, test.images, tqdm))
    masks = submission.empty_constant(masks, test.constant)
    path = settings.output_dir / f"submission-{'+'.join(options.systems)}.csv"
    print(submission.write_submission(path, test.ids, masks))
    _warn_of_rehearsal(settings)
    return 0


def _warn_of_rehearsal(settings: Settings) -> None:
    profile = settings.profile
    if profile.test_tiles:
        print(
            f"profile {profile.name}: a rehearsal with {profile.test_tiles} test "
            "tiles, not for Kaggle, which wants them all"
        )


def _run_notebooks(options: argparse.Namespace, settings: Settings) -> int:
    """Run the notebooks, then print the score and the submission of the last."""
    from helpers import data
    from helpers.utils import execute

    data.check_parts(settings)  # bad data is reported now, not after a training run
    folder = settings.output_dir / "notebooks"
    fault = execute.run(options.notebooks, folder, settings.runs_dir)
    if fault:
        print(f"\n{fault}", file=sys.stderr)
        return 1
    print(f"executed notebooks: {folder}")
    if any(notebook.name.startswith("05") for notebook in options.notebooks):
        result = json.loads((settings.output_dir / "result.json").read_text())
        print(f"validation score: {result['score']:.4f} ({result['what']})")
        print(f"submission: {result['submission']}")
        _warn_of_rehearsal(settings)
    return 0


if __name__ == "__main__":
    try:
        status = main()
        print(end="", flush=True)
    except OSError as error:  # of stdout: a full disk, or a reader that has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for Python's own last flush
        sys.exit(f"error: cannot print: {error}")
    sys.exit(status)
