"""SEG-Y surveys, marked inline by inline; segyio, which is optional, reads them."""

import json
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from helpers.utils.files import DataError
from helpers.utils.hardware import load_keras
from helpers.utils.workers import run_tasks

LINES = (189, 193)  # bytes of a trace's header with its inline and crossline number


@contextmanager
def open_survey(path: Path, lines: Any = LINES, mode: str = "r") -> Iterator[Any]:
    """Open a stacked 3-D survey of floats as a `segyio.SegyFile`, in a `with` block.

    Raises:
        DataError: for another kind of file, for a damaged one, and without segyio.
    """
    try:
        import segyio

        survey = segyio.open(path, mode, *lines)
    except ImportError as error:
        raise DataError("SEG-Y files need segyio: pip install segyio") from error
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        fault = "not SEG-Y, or truncated: fetch it again"
        if "iline" in str(error):
            fault = f"no full, sorted grid at bytes {lines}: sort it, or give --lines"
        raise DataError(f"{path}: {fault}") from error
    with survey:
        single = min(len(survey.ilines), len(survey.xlines)) < 2
        if single or len(survey.offsets) > 1 or int(survey.format) not in (1, 5):
            fault = "not a stacked 3-D survey of 4-byte floats: convert it, or pass a "
            raise DataError(f"{path}: {fault}2-D line to inference.predict_section")
        yield survey


@lru_cache(maxsize=1)
def _predictor(run: str | None) -> Any:
    """`predict_section` by the geology weights, or by the network of a run."""
    load_keras()
    from helpers import batches, inference, systems
    from helpers.training import Run

    predict = inference.predict_section
    if run is None:
        return partial(predict, systems.load_pretrained())
    trained = Run(Path(run))
    transform = batches.ResizeOrPad(**trained.config["system"]["transform"])
    return partial(predict, trained.model(), transform=transform)


def _mark(source: Path, lines: Any, run: str | None, scale: Any, number: int) -> Any:
    """An inline's number and probabilities, (traces, samples); in any process."""
    with open_survey(source, lines) as survey:
        section = survey.iline[number].T
    return number, np.ascontiguousarray(_predictor(run)(section, scale=scale).T)


def mark_survey(
    source: Path,
    target: Path,
    run: str | None = None,  # a finished run's folder; `None`: the geology weights
    scale: Any = 1.0,  # see `inference.predict_section`
    lines: Any = LINES,
    scheduler: str | None = None,  # see `workers.run_tasks`
) -> None:
    """Copy a survey, with probabilities as amplitudes; the same call resumes.

    Raises:
        ValueError: if the target exists.
    """
    if target.exists():
        raise ValueError(f"{target} exists: remove it, or choose another name")
    file = source.stat()
    with open_survey(source, lines) as survey:
        numbers = survey.ilines.tolist()
    weights = b"".join(x.tobytes() for x in _predictor(run).args[0].get_weights())
    made = str(source), file.st_size, file.st_mtime, zlib.crc32(weights), scale, lines
    plan = json.dumps(made)
    draft, log = (target.with_name(f".{target.name}.{x}") for x in ("part", "done"))
    done = log.read_text().splitlines() if log.exists() and draft.exists() else []
    if done[:1] != [plan]:
        shutil.copyfile(source, draft)
        log.write_text(f"{plan}\n")
        done = []
    left = [number for number in numbers if str(number) not in done]
    task = partial(_mark, source.absolute(), lines, run, scale)
    bar = tqdm(total=len(numbers), initial=len(numbers) - len(left), unit="inline")
    with bar, open_survey(draft, lines, "r+") as survey, log.open("a") as finished:
        for number, marked in run_tasks(task, left, scheduler):
            survey.iline[number] = marked
            survey.flush()
            print(number, file=finished, flush=True)
            bar.update()
    draft.replace(target)
    log.unlink()


def iou(path: Path, truth: Path, lines: Any = LINES) -> float:
    """Intersection over union of all that is above 0.5 in two surveys: float."""
    both = either = 0
    with open_survey(path, lines) as a, open_survey(truth, lines) as b:
        for guess, salt in zip(a.iline, b.iline, strict=True):
            both += np.count_nonzero((guess > 0.5) & (salt > 0.5))
            either += np.count_nonzero((guess > 0.5) | (salt > 0.5))
    return both / max(either, 1)
