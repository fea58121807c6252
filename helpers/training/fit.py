"""Train one system on one fold, interruptible, into a run (see `runs`)."""

import json
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers import inference, losses
from helpers.batches import ResizeOrPad, TileBatches
from helpers.config import Settings
from helpers.data import Tiles, make_folds
from helpers.metrics import precision_per_image
from helpers.systems import DEFAULT, Network, System, get
from helpers.training import devices, stages
from helpers.training.callbacks import ETA, SeedEpoch, Show, duration, tensorboard
from helpers.training.checkpoints import Checkpoints, Copy, bring_back, keep_copy
from helpers.training.runs import PLAN, VERSION, Run, find_runs
from helpers.training.stages import Stopped
from helpers.unet import build_unet
from helpers.utils.files import atomic_write
from helpers.utils.hardware import accelerator, choose_precision, precision
from helpers.utils.model_stats import seconds_per_tile

__all__ = ["SeedEpoch", "Stopped", "build_model", "estimate", "find_runs", "fit"]

CAN_GO_ON = ("begun", "finished")  # with a run in such a state
START = 10.0  # seconds in which a network is made ready, about, on a CPU
MOVE = 8e-9  # seconds in which a CPU moves one weight in a step, about
WATCHED_SHARE = 0.1  # of the training tiles, to choose the epoch of a plateau stage


def fit(
    system: System,
    tiles: Tiles,
    fold: int,
    settings: Settings,
    verbose: int = 1,
    show: Callable[[pd.DataFrame], object] | None = None,
) -> Run:
    """Train a system on all folds but one, or read the run if it is there already.

    Interrupted and started again with the same arguments, the training goes on after
    its last finished epoch, however it was interrupted. Ctrl-C, a notebook's stop
    button and SIGTERM let it finish the current epoch first.

    Args:
        system: a row of `systems.SYSTEMS`, usually cut by `within(budget)`.
        tiles: labelled `data.Tiles`.
        fold: the fold (0 ... 4, in a row of five) that is not trained on, but
            predicted at the end.
        settings: `config.Settings`: output folder and seed.
        verbose: Keras' progress bar: 0 none, 1 moving, 2 a line per epoch.
        show: called after every epoch with the history so far, a DataFrame; for
            example `plotting.live_curves()`.

    Returns:
        `Run`.

    Raises:
        ValueError: for a fold that does not exist, or wrong options of the network.
        OSError: if ImageNet weights cannot be downloaded.
        FloatingPointError: if the loss is not a number any more.
        Stopped: if somebody has asked for it.
    """
    folds = make_folds(tiles, system.folds, settings.seed, system.stratify)
    if not 0 <= fold <= folds.max():
        raise ValueError(f"fold {fold} does not exist: 0 to {folds.max()}")
    _check(system)
    policy, reason = choose_precision()
    plan = _plan(system, tiles, fold, settings, policy)
    folder, copy = _places(system, fold, settings)
    if copy and not folder.exists() and _found(copy.folder, plan) in CAN_GO_ON:
        bring_back(copy, folder)
    if _found(folder, plan) == "finished":
        print(f"{system.name}, fold {fold}: trained before, read from its run")
        return Run(folder)
    held_out = tiles.take(folds == fold)
    rest = _without_specks(tiles.take(folds != fold), system.min_mask_size)
    told = [ETA(system.epochs)] if verbose == 1 else []
    told += [Show(folder / "history.csv", show)] if show else []
    told += tensorboard(settings.output_dir / "tensorboard" / system.name / folder.name)
    with devices.distribute() as count:
        model = build_model(system, policy, settings.seed + fold)
        checkpoints = _begin(folder, copy, plan)
        done = len(checkpoints.state.history)
        print(
            f"{system.name}, fold {fold}: {system.epochs} epochs in {policy} ({reason})"
            + f", {count} devices" * (count > 1)
            + f", going on after epoch {done}" * (done > 0)
        )
        rest, watched = _watched(system, rest, held_out, settings.seed + fold)
        data = _batches(system, rest, watched, model, settings.seed + fold, count)
        with devices.synchronized(model, count):
            stages.train(model, system, data, checkpoints, told, policy, verbose)
        _keep(model, checkpoints.state.snapshots(), folder)
    plan["parameters"] = model.count_params()
    plan["seconds_per_tile"] = seconds_per_tile(model, repeats=2)
    _examine(held_out, checkpoints, plan)
    return Run(folder)


def estimate(
    planned: Iterable[System], tiles: Tiles, settings: Settings, fold: int = 0
) -> float:
    """Say in one line how long some trainings will take on this machine.

    One prediction with each network is timed; learning from a tile takes about three
    times as long, since the gradient goes the way back twice: for the layers' inputs,
    and for their weights. To that come the moves of the weights, one a step (up to
    half of the time on a CPU, where many weights meet small batches), the tiles
    watched after each epoch, and the time until a training moves at all. Trainings
    that are finished take no time.

    Args:
        planned: the systems to be trained.
        tiles, settings, fold: as for `fit`.

    Returns:
        float, seconds.
    """
    planned = [x for x in planned if not _is_finished(x, tiles, settings, fold)]
    if not planned:
        print("nothing to train: the runs are there")
        return 0.0
    total = sum(expected(system, tiles) for system in planned)
    trainings = f"{len(planned)} trainings" if len(planned) > 1 else planned[0].name
    print(f"{trainings}: about {duration(total)} on this machine", flush=True)
    return total


def expected(system: System, tiles: Tiles) -> float:
    """Seconds that one training will take, about: see `estimate`."""
    weights, seconds = size_up(system)
    share = round(len(tiles) * (1 - 1 / system.folds))
    count = min(system.tiles or share, share)
    moves = math.ceil(count / system.batch_size) * weights
    moving = 0.0 if accelerator() else MOVE * moves
    epoch = seconds * (3 * count + system.watched) + moving
    return epoch * system.epochs + START


def size_up(system: System) -> tuple[int, float]:
    """`(weights, seconds)`: how many a network has, and what one prediction takes."""
    network = replace(system.network, weights=None, frozen=())
    plain = replace(system, network=network, batch_size=min(system.batch_size, 8))
    return _size_up(plain.network, plain.transform, plain.batch_size)


@cache
def _size_up(
    network: Network, transform: ResizeOrPad, batch_size: int
) -> tuple[int, float]:
    plain = replace(get(DEFAULT), network=network, transform=transform)
    model = build_model(plain, choose_precision()[0])
    return model.count_params(), seconds_per_tile(model, batch_size)


def _is_finished(system: System, tiles: Tiles, settings: Settings, fold: int) -> bool:
    policy, _ = choose_precision()
    folder, _ = _places(system, fold, settings)
    return _found(folder, _plan(system, tiles, fold, settings, policy)) == "finished"


def _places(system: System, fold: int, settings: Settings) -> tuple[Path, Copy | None]:
    """The folder of a run, and the `Copy` of it or `None`."""
    where = Path("runs", system.name, f"fold-{fold}")
    copies = settings.copy_dir
    copy = Copy(copies, copies / where) if copies else None
    return settings.output_dir / where, copy


def _plan(
    system: System, tiles: Tiles, fold: int, settings: Settings, policy: str
) -> dict[str, Any]:
    """Everything that decides how a run comes out, as it is written into it."""
    plan = {
        "version": VERSION,
        "system": asdict(system),
        "losses": [
            keras.losses.serialize(losses.get(stage.loss)) for stage in system.stages
        ],
        "fold": int(fold),
        "seed": settings.seed,
        "profile": settings.profile.name,
        "data": settings.kind,
        "tiles": _fingerprint(tiles),
        "precision": policy,
    }
    return json.loads(json.dumps(plan))  # tuples become lists, as they will be read


def _check(system: System) -> None:
    """Refuse a row that contradicts itself, before any training."""
    for stage in system.stages:
        if stage.schedule not in ("cosine", "plateau"):
            raise ValueError(f"schedule is 'cosine' or 'plateau': {stage.schedule!r}")
        if stage.optimizer not in stages.OPTIMIZERS:
            known = ", ".join(stages.OPTIMIZERS)
            raise ValueError(f"unknown optimizer {stage.optimizer!r}: one of {known}")
        for part in ("gate", "deep_supervision"):
            if getattr(stage, part) and not getattr(system.network, part):
                raise ValueError(
                    f"{system.name}: a stage weighs the loss of {part!r}, which the "
                    f"network does not have: set Network({part}=True), or 0 here"
                )


def _without_specks(tiles: Tiles, min_mask_size: int) -> Tiles:
    """Tiles but for those whose mask has some salt, and fewer pixels than this."""
    pixels = np.count_nonzero(tiles.masks, axis=(1, 2))
    kept = tiles.take((pixels == 0) | (pixels >= min_mask_size))
    if not len(kept):
        raise ValueError("there are no tiles to train on: read more of them")
    return kept


def _fingerprint(tiles: Tiles) -> str:
    """Eight hexadecimal digits that change when anything in the tiles does."""
    digest = 0
    for part in (tiles.images, tiles.masks, tiles.depths, tiles.ids):
        digest = zlib.crc32(np.ascontiguousarray(part).tobytes(), digest)
    return f"{digest:08x}"


def _found(folder: Path, plan: dict[str, Any]) -> str:
    """What a run's folder holds: `"finished"`, `"begun"`, `"another"`, or nothing."""
    if not folder.exists():
        return ""
    for name, state in {"config.json": "finished", "work/plan.json": "begun"}.items():
        if (folder / name).exists():
            found = json.loads((folder / name).read_text())
            if all(found.get(key) == plan[key] for key in PLAN):
                return state
    return "another"


def _begin(folder: Path, copy: Copy | None, plan: dict[str, Any]) -> Checkpoints:
    """The checkpoints to go on from, or none; runs of other plans are moved aside."""
    for place in (folder, *([copy.folder] if copy else [])):
        if _found(place, plan) == "another":
            aside = place.with_name(f"{time.strftime('%Y%m%d-%H%M%S')}-{place.name}")
            place.rename(aside)
            print(f"{place}: made with other settings, moved to {aside.name}")
    with atomic_write(folder / "work" / "plan.json") as beside:
        beside.write_text(json.dumps(plan))
    return Checkpoints(folder, copy)


def build_model(system: System, policy: str = "float32", seed: int = 0) -> keras.Model:
    """The untrained network of a system.

    Args:
        system: a row of `systems.SYSTEMS`.
        policy: Keras dtype policy, see `choose_precision`.
        seed: of the random weights.

    Returns:
        A Keras model, see `unet.build_unet`.
    """
    keras.utils.set_random_seed(seed)
    shape = (system.transform.size, system.transform.size, 1)
    with precision(policy):
        return build_unet(input_shape=shape, **system.network.options())


def _watched(
    system: System, rest: Tiles, held_out: Tiles, seed: int
) -> tuple[Tiles, Tiles]:
    """The tiles trained on, and those whose score is shown after each epoch.

    Where that score decides when to stop and what to keep (plateau), it must not be
    that of the fold which is reported: a share of the training tiles is watched.
    """
    order = np.random.default_rng(seed).permutation(len(rest))
    if any(stage.schedule == "plateau" for stage in system.stages):
        count = max(1, round(WATCHED_SHARE * len(rest)))
        return rest.take(order[count:][: system.tiles]), rest.take(order[:count])
    return rest.take(order[: system.tiles]), held_out.take(slice(system.watched))


def _batches(
    system: System,
    rest: Tiles,
    watched: Tiles,
    model: keras.Model,
    seed: int,
    count: int,
) -> tuple[TileBatches, TileBatches]:
    """Batches of the tiles trained on, and of those watched."""
    outputs = stages.output_names(model)
    return TileBatches(
        rest.images,
        rest.masks,
        system.transform,
        system.batch_size,
        system.augmentation,
        seed,
        outputs,
        count,
    ), TileBatches(
        watched.images,
        watched.masks,
        system.transform,
        2 * system.batch_size,  # without gradients there is room for more
        outputs=outputs,
        devices=count,
    )


def _keep(model: keras.Model, snapshots: list[Path], folder: Path) -> None:
    """Write the network, and what it was before each restart of the learning rate."""
    with atomic_write(folder / "model.keras") as beside:
        model.save(beside)
    for weights in snapshots:
        model.load_weights(weights)
        name = weights.name.replace(".weights.h5", ".keras")
        with atomic_write(folder / name) as beside:
            model.save(beside)


def _examine(held_out: Tiles, checkpoints: Checkpoints, config: dict[str, Any]) -> None:
    """Predict the fold that was left out, and close the run."""
    run = Run(checkpoints.run)
    once = {**config["system"], "tta": False}
    images = np.concatenate([held_out.images, held_out.images[:, :, ::-1]])
    plain, mirrored = np.split(run.predict_as(once, images), 2)
    mirrored = mirrored[:, :, ::-1]
    with atomic_write(run.folder / "validation.npz") as beside:
        np.savez_compressed(
            beside,
            ids=held_out.ids,
            plain=inference.as_bytes(plain),
            mirrored=inference.as_bytes(mirrored),
        )
    both = config["system"]["tta"]
    probabilities = inference.ensemble([plain, mirrored] if both else [plain])
    scores = precision_per_image(held_out.masks, probabilities > 0.5)
    seconds = sum(row["seconds"] for row in checkpoints.state.history)
    config |= {
        "score": float(scores.mean()),
        "confidence_interval": inference.bootstrap_ci(scores),
        "minutes": round(seconds / 60, 2),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }
    with atomic_write(run.folder / "config.json") as beside:  # last: now it is finished
        beside.write_text(json.dumps(config, indent=1))
    shutil.rmtree(run.folder / "work")
    keep_copy(run.folder, checkpoints.copy)
