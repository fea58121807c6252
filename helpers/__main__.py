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
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main(arguments: list[str] | None = None) -> int:
    """Read the options, by default those of this process, and act.

    The exit status is 0, 1 for a failure, 2 for a wrong option, or 130 if stopped.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        for name in ("profile", "data_dir", "output_dir"):  # for the notebooks' kernels
            if value := getattr(options, name, None):
                os.environ[f"SALT_{name.upper()}"] = value
        settings = Settings.from_env()
        if options.command and options.only:
            raise ValueError(f"--only chooses notebooks: not with {options.command}")
        if options.command == "train":
            options.planned = _planned(options, settings)
    except (DataError, ValueError) as error:
        parser.error(str(error))
    if options.command != "section":  # which reads no tiles
        print(settings.describe(), flush=True)
    try:
        return options.act(options, settings)
    except (DataError, ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:  # its text says what was kept
        text = str(stop) or "at once: run the same command to resume"
        print(f"stopped {text}", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    # These count before a command's name and after it, where they have no default.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--profile", choices=PROFILES, help="sizes, epochs")
    data, text = partial(_folder, word=SYNTHETIC), "folder of the data, or synthetic"
    common.add_argument("--data-dir", type=data, help=text)
    common.add_argument("--output-dir", type=_folder, help="for results")
    name = "python -m helpers"
    parser = argparse.ArgumentParser(name, description=__doc__, parents=[common])
    parser.set_defaults(act=_run_notebooks)
    parser.add_argument("--only", type=_notebooks, help="those to run, such as 02,05")
    commands = parser.add_subparsers(dest="command", title="commands")

    def add(name: str, act: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, parents=[common])
        command.set_defaults(act=act)
        return command

    train = add("train", _train, "train one system")
    train.add_argument("system", help="of helpers/systems.py, or a run's config.json")
    train.add_argument("--fold", type=int, nargs="+", default=[0], help="of 0 to 4")
    train.add_argument("--epochs", type=int, help="in all, at least one a stage")
    train.add_argument("--weights", help="of the encoder: a file, imagenet, or none")
    predict = add("predict", _predict, "a submission from finished runs")
    predict.add_argument("systems", nargs="+", help="each counts the same")
    section = add("section", _section, "mark the salt in a survey")
    section.add_argument("source", type=Path, help="SEG-Y file, 3-D and stacked")
    section.add_argument("target", type=Path, help="its copy, with probabilities")
    section.add_argument("--run", help="folder of one; default: the geology weights")
    text = "a tile's pixels per sample, and per trace"
    section.add_argument("--scale", type=float, nargs=2, default=(1, 1), help=text)
    text = "bytes of a header with the inline and the crossline number"
    section.add_argument("--lines", type=int, nargs=2, default=(189, 193), help=text)
    section.add_argument("--truth", type=Path, help="SEG-Y file of 1 in salt: the IoU")
    for command in (train, section):
        text = "Dask's workers: tcp://HOST:PORT, or local:2 for two here"
        command.add_argument("--scheduler", help=text)
    return parser


def _folder(text: str, word: str = "") -> str:
    if not text.strip():  # a shell's variable that is not set, say
        raise argparse.ArgumentTypeError("is empty: name a folder")
    kept = text.lower() == word or text[0] == "~"
    return text if kept else str(Path(text).absolute())


def _notebooks(only: str) -> list[Path]:
    """`"02,05"` -> the paths of those notebooks, in order."""
    known = {notebook.name[:2]: notebook for notebook in NOTEBOOKS}
    wanted = {number.strip().zfill(2) for number in only.split(",")}
    if wrong := wanted - known.keys():
        fault = f"no notebook {min(wrong)!r}; there are {', '.join(known)}"
        raise argparse.ArgumentTypeError(fault)
    return [known[number] for number in sorted(wanted)]


def _planned(options: argparse.Namespace, settings: Settings) -> list:
    """The systems to train, each cut to its budget; that of a file is not cut."""
    load_keras()
    from helpers import systems
    from helpers.training import plans, stages

    if options.epochs is not None and not 1 <= options.epochs <= 100_000:
        raise ValueError(f"--epochs: 1 to 100000, not {options.epochs:.4g}")
    profile, name, planned = settings.profile, options.system, []
    if own := name.endswith(".json"):
        rows = [plans.read_system(name)]
    else:
        rows = [systems.get(member) for member, _ in systems.get(name).members]
    for row in rows:
        budget = profile.main
        if own:
            budget = Budget(None, row.transform.size, row.tiles)
        elif row.name != systems.DEFAULT and budget.epochs is not None:
            budget = profile.encoders
        row = row.within(replace(budget, epochs=options.epochs or budget.epochs))
        if options.weights is not None:
            row = row.with_weights(options.weights)
        stages.check(row)
        if wrong := [fold for fold in options.fold if not 0 <= fold < row.folds]:
            raise ValueError(f"--fold: must be 0 to {row.folds - 1}, not {wrong[0]}")
        planned.append(row)
    return planned


def _train(options: argparse.Namespace, settings: Settings) -> int:
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
    from helpers.utils import segy

    target, lines = options.target, options.lines
    how = options.run, options.scale, lines, options.scheduler
    segy.mark_survey(options.source, target, *how)
    print(f"probabilities of salt: {target}")
    if options.truth:
        print(f"IoU of the salt: {segy.iou(target, options.truth, lines):.3f}")
    return 0


def _predict(options: argparse.Namespace, settings: Settings) -> int:
    """Average the finished runs of these systems into a checked submission."""
    load_keras()
    from tqdm import tqdm

    from helpers import data, inference, metrics, submission
    from helpers.training import runs

    members = runs.find_members(settings, *options.systems)
    data.check_parts(settings)
    for run, weight in members.items():
        print(f"{weight:.3f} x {run.name}, score {run.score:.4f}", flush=True)
    left_out, probabilities = runs.out_of_fold(members, data.load_tiles(settings))
    post_process = inference.PostProcess()
    if len(left_out) > 1 and any(run.config["system"]["search"] for run in members):
        post_process, scores = inference.cross_fit(left_out.masks, probabilities)
    else:
        masks = post_process(probabilities)
        scores = metrics.precision_per_image(left_out.masks, masks)
    if len(scores):
        interval = "{:.3f} to {:.3f}".format(*inference.bootstrap_ci(scores))
        print(f"score {scores.mean():.4f} ({interval}), {len(scores)} tiles")
    else:
        print("no tile was left out by all systems: no score")
    small = f"masks under {post_process.min_mask_size} pixels emptied"
    print(f"threshold {post_process.threshold:g}, {small}")
    test = data.load_test_tiles(settings)
    masks = post_process(runs.predict(members, test.images, tqdm))
    masks = submission.empty_constant(masks, test.constant)
    rehearsal = settings.synthetic or settings.profile.test_tiles
    name = f"{'rehearsal' if rehearsal else 'submission'}-{'+'.join(options.systems)}"
    path = settings.output_dir / f"{name}.csv"
    print(submission.write_submission(path, test.ids, masks))
    if rehearsal:
        print("a rehearsal, not for Kaggle, which wants all of its own test tiles")
    return 0


def _run_notebooks(options: argparse.Namespace, settings: Settings) -> int:
    """Run the notebooks, then print the score and the submission of the last."""
    from helpers import data
    from helpers.utils import execute

    data.check_parts(settings)  # bad data is reported now, not after a training run
    folder, notebooks = settings.output_dir / "notebooks", options.only or NOTEBOOKS
    if fault := execute.run(notebooks, folder, settings.runs_dir):
        print(f"\n{fault}", file=sys.stderr)
        return 1
    print(f"executed notebooks: {folder}")
    if notebooks[-1].name.startswith("05"):
        result = json.loads((settings.output_dir / "result.json").read_text())
        print(f"validation score: {result['score']:.4f} ({result['what']})")
        path = Path(result["submission"])  # submission.csv or rehearsal.csv
        print(f"{path.stem}: {path}")
    return 0


if __name__ == "__main__":
    try:
        status = main()
        print(end="", flush=True)
    except OSError as error:  # of stdout: a full disk, or a reader that has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for Python's own last flush
        sys.exit(f"error: cannot print: {error}")
    sys.exit(status)
