"""Independent tasks: one after the other, or on workers of Dask, which is optional."""

import logging
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from helpers.config import Settings
from helpers.utils.files import DataError
from helpers.utils.hardware import load_keras


def run_tasks(
    function: Callable, items: Iterable, scheduler: str | None = None
) -> Iterator[Any]:
    """Yield `function(item)` of all items, in order, or as workers finish.

    Raises:
        DataError: if Dask is not installed.
    """
    # A scheduler is an address such as tcp://host:8786, whose workers see the same
    # files, or local:2, two workers here. A dead worker's item goes to another one.
    if scheduler is None:
        yield from map(function, items)
        return
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        remedy = 'pip install "dask[distributed]"'
        raise DataError(f"--scheduler needs Dask: {remedy}") from error
    options: dict[str, Any] = {"address": scheduler}
    if scheduler.startswith("local"):
        count = int(scheduler.partition(":")[2] or 2)
        threads = max((os.cpu_count() or 1) // count, 1)  # or each would take all cores
        env = {"TF_NUM_INTRAOP_THREADS": str(threads)}
        options = {"n_workers": count, "threads_per_worker": 1, "env": env}
        options |= {"dashboard_address": None, "silence_logs": logging.ERROR}
    with Client(**options) as client:
        waiting = as_completed(client.map(function, list(items), pure=False))
        yield from (task.result() for task in waiting)


@lru_cache(maxsize=1)
def load_tiles(settings: Settings) -> Any:
    """`data.load_tiles`, once in every process."""
    load_keras()
    from helpers import data

    return data.load_tiles(settings)


def fit(settings: Settings, verbose: int, task: tuple[Any, int]) -> Any:
    """`training.fit` of `(system, fold)` in any process: `training.Run`."""
    tiles = load_tiles(settings)
    if threading.current_thread() is not threading.main_thread():  # one of Dask's
        from keras.src.random import seed_generator
        from keras.src.utils import rng_utils

        # Dask draws from Python's `random` at any time, and Keras the initial weights.
        seed_generator.python_random = rng_utils.random = random.Random()
    from helpers import training

    return training.fit(task[0], tiles, task[1], settings, verbose)
