"""How long training takes on this machine, and in which number format it is faster."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import keras
import numpy as np

from helpers import losses
from helpers.batches import TileBatches
from helpers.config import TILE, Settings
from helpers.data import Tiles
from helpers.systems import System
from helpers.training import runs, stages
from helpers.training.callbacks import duration
from helpers.utils import hardware
from helpers.utils.files import atomic_write

LONG = 120  # seconds of training that make it worth timing a second number format


def choose_precision(system: System, tiles: Tiles, settings: Settings) -> str:
    """Choose the dtype policy in which a system trains faster, and print why: str."""
    times = _step_times(system, tiles, settings)[1]
    words = ", ".join(f"{seconds:.2g} s in {name}" for name, seconds in times.items())
    print(f"{system.name}: one training step takes {words}", flush=True)
    return min(times, key=times.__getitem__)


def cost(system: System, tiles: Tiles, settings: Settings) -> tuple[int, float]:
    """`(parameters, seconds)` of one training run: int, float."""
    parameters, times = _step_times(system, tiles, settings)
    return parameters, min(times.values()) * _steps(system, tiles)


def estimate(
    systems: Iterable[System], tiles: Tiles, settings: Settings, fold: int = 0
) -> float:
    """Print how long the unfinished runs of these systems will take: float, seconds."""
    looked = ((x, runs.look_up(x, tiles, fold, settings)[2]) for x in systems)
    left = [system for system, state in looked if state != "finished"]
    total = sum((cost(system, tiles, settings)[1] for system in left), 0.0)
    name = left[0].name if len(left) == 1 else f"{len(left)} training runs"
    about = f"{name}: about {duration(total)} on this machine"
    print(about if left else "nothing to train: the runs are there", flush=True)
    return total


def _steps(system: System, tiles: Tiles) -> float:
    """Steps of a run; validation, which needs no gradients, costs a third per tile."""
    held_out = round(len(tiles) / system.folds)
    count = min(system.tiles or len(tiles), len(tiles) - held_out)
    validation = min(system.validation_tiles, held_out) / system.batch_size / 3
    return system.epochs * (-(-count // system.batch_size) + validation)


def _step_times(system: System, tiles: Tiles, settings: Settings) -> tuple[int, dict]:
    """Parameters, and {policy: seconds per step}, timed once per network and device."""
    path, known = settings.output_dir / "step-times.json", {}
    with suppress(OSError, ValueError, TypeError):  # else all is timed again
        known = dict(json.loads(path.read_text()))
    plain = replace(system, network=replace(system.network, weights=None))
    where = hardware.describe_device(), keras.backend.backend(), keras.__version__
    key = repr((*where, plain.network, system.transform.size, system.batch_size))
    parameters, times = known.get(key, (0, {}))
    for policy in ("float32", hardware.half_precision()):
        is_long = times.get("float32", LONG) * _steps(system, tiles) >= LONG
        if policy not in times and is_long:
            parameters, times[policy] = _time_step(plain, policy)
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(known | {key: (parameters, times)}))
    return parameters, times


def _time_step(system: System, policy: str) -> tuple[int, float]:
    """Parameters, and seconds per step with SGD, which compiles faster than Adam."""
    model, size = stages.build_model(system, policy), system.batch_size
    names = stages.output_names(model)
    with hardware.precision(policy):
        loss = {name: losses.get("bce") for name in names} or losses.get("bce")
        model.compile("sgd", loss, jit_compile=hardware.jit_compile())
    images = np.random.default_rng(0).integers(256, size=(size, TILE, TILE), dtype="u1")
    tiles = TileBatches(images, images > 99, system.transform, size, outputs=names)
    seconds: list[float] = []
    while len(seconds) < 4 and sum(seconds[1:]) < 1:  # the first one compiles
        start = time.perf_counter()
        model.train_on_batch(*tiles[0])
        seconds.append(time.perf_counter() - start)
    return model.count_params(), min(seconds[1:])
