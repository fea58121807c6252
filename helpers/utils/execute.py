"""Run notebooks in fresh kernels, and show how far they and their training runs are."""

import contextlib
import csv
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from helpers.utils.files import DataError, atomic_write

KERNEL = "python3"
SECONDS = "seconds"  # in a notebook's metadata: how long each code cell took
REFRESH = 1.0 if sys.stderr.isatty() else 15.0  # seconds
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(paths: Sequence[Path], executed: Path, runs_dir: Path) -> str:
    """Run notebooks in order; returns `""`, or which cell failed and its error.

    Copies with outputs, also of one that fails, are written to the folder `executed`.
    """
    # Ctrl-C and SIGTERM interrupt the kernel, in which a training run finishes its
    # epoch; a second one ends it at once.
    books = [nbformat.read(path, as_version=4) for path in paths]
    clock = _Clock([seconds for book in books for seconds in _cell_seconds(book)])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for path, book in zip(paths, books, strict=True):
        try:
            fault = _run_one(path, book, clock, runs_dir)
        finally:
            _keep_images(book)
            with atomic_write(executed / path.name) as temporary:
                nbformat.write(book, temporary)
        if fault:
            return f"{path.name} failed in {fault}"
    return ""


class _Clock:
    """Time left of all cells, from the seconds that each took for `publish.py`."""

    def __init__(self, seconds: list[float]) -> None:
        self.past, self.rest = 0.0, seconds
        self.began = self.cell_began = time.monotonic()

    def next_cell(self) -> None:
        self.past += self.rest.pop(0)
        self.cell_began = time.monotonic()

    def left(self, training: float | None = None) -> float:
        pace = (self.cell_began - self.began + 30) / (self.past + 30)
        if training is None:
            in_cell = time.monotonic() - self.cell_began
            training = max(pace * sum(self.rest[:1]) - in_cell, 0.0)
        return training + pace * sum(self.rest[1:])


def _cell_seconds(book: Any) -> list[float]:
    count = sum(cell.cell_type == "code" for cell in book.cells)
    return (book.metadata.get(SECONDS, []) + [1.0] * count)[:count]


def _run_one(path: Path, book: Any, clock: _Clock, runs_dir: Path) -> str:
    """Execute a notebook in place; returns the cell that failed and its error."""
    current, signals, began = [0], 0, time.time()
    cells = len(_cell_seconds(book))
    bar = tqdm(total=cells, desc=path.stem, unit="cell", dynamic_ncols=True)

    def cell_starts(cell: Any, cell_index: int) -> None:
        current.append(cell_index)
        if signals:  # while the kernel was idle, which ignores them
            raise RuntimeError("interrupted")

    def cell_done(**_: Any) -> None:
        bar.update()
        clock.next_cell()

    client = NotebookClient(
        book,
        timeout=None,
        kernel_name=KERNEL,
        coalesce_streams=True,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=cell_starts,
        on_cell_executed=cell_done,
    )
    with bar, ThreadPoolExecutor(1) as pool:
        job = pool.submit(client.execute)  # so that signals come to this thread
        while not job.done():
            try:
                text, left = training_progress(runs_dir, began)
                total = tqdm.format_interval(clock.left(left))
                bar.set_postfix_str(f"{text}total {total} left")
                wait([job], timeout=REFRESH)
            except KeyboardInterrupt:
                pid = getattr(getattr(client.km, "provisioner", None), "pid", None)
                if pid and len(current) > 1:  # a kernel that is starting is let be
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL if signals else signal.SIGINT)
                signals += 1
                bar.write("stopping (a training run finishes its epoch first)")
    error = job.exception()
    if signals:
        raise KeyboardInterrupt(f"in {path.name}: run the same command to resume")
    return _fault(book.cells, current[-1], error) if error else ""


def training_progress(runs_dir: Path, since: float) -> tuple[str, float | None]:
    """How far the current run is, in words, and its seconds left, `None` if unknown."""
    # A run that was left unfinished before `since`, seconds since 1970, is not current.
    try:
        changed, plan = max((x.stat().st_mtime, x) for x in runs_dir.rglob("plan.json"))
        if changed < since:
            return "", None
        stages = json.loads(plan.read_text())["system"]["stages"]
        epochs, folder = sum(stage["epochs"] for stage in stages), plan.parents[1]
        table = folder / "history.csv"
        rows = list(csv.DictReader(table.open())) if table.exists() else []
        text = f"{folder.parent.name}: epoch {min(len(rows) + 1, epochs)} of {epochs}"
        if not rows:
            return f"{text}; ", None
        left = (epochs - len(rows)) * float(rows[-1]["seconds"])
        score = float(rows[-1]["val_score"])
    except (OSError, ValueError, LookupError, TypeError, csv.Error):
        return "", None  # there is no run, or a file is half-written
    return f"{text}, score {score:.3f}, {tqdm.format_interval(left)} left; ", left


def _fault(cells: list, number: int, error: BaseException) -> str:
    """The cell that failed, and its error; of bad data the message alone."""
    text = str(error)
    if getattr(error, "ename", "") == DataError.__name__:
        text = getattr(error, "evalue", text)
    first = cells[number].source.strip().split("\n")[0]
    return f"cell {number} (`{first}`):\n" + re.sub(r"\x1b\[[0-9;]*m", "", text)


def _keep_images(book: Any) -> None:
    """Remove widgets, which end with their kernel, but not their still pictures."""
    for cell in book.cells:
        for output in [*cell.get("outputs", [])]:
            widget = output.get("data", {}).pop(WIDGET, None)
            if widget and "image/png" not in output.data:
                cell.outputs.remove(output)
