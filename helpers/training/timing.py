"""How long training takes on this machine, and in which number format it is faster."""

import json
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import keras
import numpy as np
from tqdm import tqdm

from helpers import losses
from helpers.batches import TileBatches
from helpers.config import TILE, Settings
from helpers.data import Tiles
from helpers.systems import System
from helpers.training import runs, stages
from helpers.utils import hardware
from helpers.utils.files import atomic_write

LONG = 40  # seconds of training that make it worth timing a second number format


def choose_precision(system: System, tiles: Tiles, settings: Settings) -> str:
    """Choose the dtype policy in which a system trains faster, and print why: str."""
    times = _step_times(system, tiles, settings)
    words = ", ".join(f"{seconds:.2g} s in {name}" for name, seconds in times.items())
    print(f"{system.name}: one training step takes {words}", flush=True)
    return min(times, key=times.__getitem__)


def estimate(
    systems: Iterable[System], tiles: Tiles, settings: Settings, fold: int = 0
) -> float:
    """Print how long the unfinished runs of these systems will take: float, seconds."""
    looked = ((x, runs.look_up(x, tiles, fold, settings)[2]) for x in systems)
    left = [system for system, state in looked if state != "finished"]
    total = 0.0
    for system in left:
        step = min(_step_times(system, tiles, settings).values())
        total += step * _steps(system, tiles)
    name = left[0].name if len(left) == 1 else f"{len(left)} training runs"
    about = f"{name}: about {tqdm.format_interval(total)} on this machine"
    print(about if left else "nothing to train: the runs are there", flush=True)
    return total


def _steps(system: System, tiles: Tiles) -> float:
    """Steps of a run; validation, which needs no gradients, costs a third per tile."""
    held_out = round(len(tiles) / system.folds)
    count = min(system.tiles or len(tiles), len(tiles) - held_out)
    validation = min(system.validation_tiles, held_out) / system.batch_size / 3
    return system.epochs * (-(-count // system.batch_size) + validation)


def _step_times(system: System, tiles: Tiles, settings: Settings) -> dict[str, float]:
    """{policy: seconds per step}, timed once per network and machine."""
    path, known = settings.output_dir / "step-times.json", {}
    with suppress(OSError, ValueError):  # else all is timed again
        known = json.loads(path.read_text())
    plain = replace(system, network=replace(system.network, weights=None))
    what = plain.network, plain.transform.size, plain.batch_size
    where = platform.node(), hardware.accelerators(), keras.backend.backend()
    key = repr((*what, *where, keras.__version__))
    times = known.setdefault(key, {})
    for policy in ("float32", hardware.half_precision()):
        is_long = times.get("float32", LONG) * _steps(system, tiles) >= LONG
        if policy not in times and is_long:
            times[policy] = _time_step(plain, policy)
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(known))
    return times


def _time_step(system: System, policy: str) -> float:
    """Seconds per step with SGD, which compiles faster than Adam."""
    model, size = stages.build_model(system, policy), system.batch_size
    bce, gate = losses.get("bce"), system.network.gate
    with hardware.precision(policy):
        loss = {"mask": bce, "gate": bce} if gate else bce
        model.compile("sgd", loss, jit_compile=hardware.jit_compile())
    images = np.random.default_rng(0).integers(256, size=(size, TILE, TILE), dtype="u1")
    batch = TileBatches(images, images > 99, system.transform, size, gate=gate)[0]
    seconds: list[float] = []
    while len(seconds) < 4 and sum(seconds[1:]) < 1:  # the first one compiles
        start = time.perf_counter()
        model.train_on_batch(*batch)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
