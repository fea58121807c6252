"""Train one system on one fold, which makes a `Run`."""

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import keras
import numpy as np
from keras.callbacks import LambdaCallback

from helpers import inference
from helpers.batches import TileBatches
from helpers.config import Settings
from helpers.data import Tiles, make_folds
from helpers.metrics import precision_per_image
from helpers.systems import System
from helpers.training import runs, stages, timing
from helpers.training.checkpoints import Checkpoints
from helpers.utils import hardware
from helpers.utils.files import atomic_write, lock


def fit(
    system: System,
    tiles: Tiles,
    fold: int,
    settings: Settings,
    verbose: int = 1,
    show: Callable | None = None,
) -> runs.Run:
    """Train a system on all folds but one, or read the run if it is already there.

    The same call resumes an interrupted run after its last finished epoch.

    Args:
        system: a row of `systems.SYSTEMS`, usually cut by `within(budget)`.
        tiles, settings: labelled `data.Tiles`, and `config.Settings`.
        fold: number of the fold to leave out and to predict at the end.
        verbose: 0 is silent, 1 a moving progress bar, 2 a line per epoch.
        show: called with the history after every epoch: `plotting.live_curves()`.

    Returns:
        `runs.Run`.

    Raises:
        ValueError: for a fold that does not exist, or a row that contradicts itself.
        Stopped: after an epoch in which there was Ctrl-C, a stop button or SIGTERM.
    """
    stages.check(system)
    folds = make_folds(tiles, system.folds, settings.seed, system.stratify)
    if not 0 <= fold <= folds.max():
        raise ValueError(f"fold {fold} does not exist: 0 to {folds.max()}")
    run, _, state = runs.look_up(system, tiles, fold, settings)
    home = run.folder.with_name(f"fold-{fold}")
    if state == "finished" and run.folder == home:
        print(f"{system.name}, fold {fold}: trained before, read from its run")
        return run
    with lock(home.with_suffix(".lock")):
        run, plan, state = runs.look_up(system, tiles, fold, settings)
        if state == "finished":  # aside, or by another process just now
            return _move(run, home, state)
        if state != "begun":  # else in the number format in which it was begun
            plan["precision"] = timing.choose_precision(system, tiles, settings)
        held_out, seed = tiles.take(folds == fold), settings.seed + fold
        parts = _split(system, tiles.take(folds != fold), held_out, seed)
        extra = [LambdaCallback(on_epoch_end=lambda *_: show and show(run.history()))]
        with hardware.distribute() as count:
            model = stages.build_model(system, plan["precision"], seed)
            run = _move(run, home, state)
            checkpoints = _begin(run, plan, model, state)
            data = _batches(system, parts, seed, count)
            hardware.synchronize(model, count > 1)
            stages.train(model, system, data, checkpoints, extra, verbose)
            hardware.synchronize(model, False)
            room = 8 * model.count_params()  # bytes, twice what it needs
            with atomic_write(run.folder / "model.keras", room) as temporary:
                model.save(temporary)
        _evaluate(run, plan, system, held_out)
    return run


def _move(run: runs.Run, home: Path, state: str) -> runs.Run:
    """Move another run out of the folder `home`, and this one back if it is aside."""
    if home.exists() and (home != run.folder or state not in ("begun", "finished")):
        why = state if home == run.folder else "made with other settings"
        now = datetime.now().strftime("%Y%m%d-%H%M%S-%f-")
        print(f"{home}: {why}, moved to {now}{home.name}")
        home.rename(home.with_name(now + home.name))
    if home != run.folder:
        print(f"{home}: moved back from {run.folder.rename(home).name}")
    return runs.Run(home)


def _begin(run: runs.Run, plan: dict, model: keras.Model, state: str) -> Checkpoints:
    """Write down what is being trained, if the disk has room, and how far it is."""
    room = 0 if state == "begun" else 64 * model.count_params()  # four checkpoints
    with atomic_write(run.folder / runs.PLAN_FILE, room) as temporary:
        temporary.write_text(json.dumps(plan))
    checkpoints = Checkpoints(run.folder)
    if done := len(checkpoints.history):
        print(f"resuming after epoch {done} in {plan['precision']}")
    return checkpoints


def _split(system: System, rest: Tiles, held_out: Tiles, seed: int) -> list[Tiles]:
    """The tiles to train on, and those to validate on after every epoch.

    A plateau stage keeps what validates best, so it must not see the reported fold.
    """
    pixels = np.count_nonzero(rest.masks, axis=(1, 2))
    rest = rest.take((pixels == 0) | (pixels >= system.min_mask_size))
    if not len(rest):
        raise ValueError("there are no tiles to train on: read more of them")
    order = np.random.default_rng(seed).permutation(len(rest))
    validation = held_out.take(slice(system.validation_tiles))
    if any(stage.schedule == "plateau" for stage in system.stages):
        count = max(1, round(0.1 * len(rest)))  # of the training tiles instead
        validation, order = rest.take(order[:count]), order[count:]
    return [rest.take(order[: system.tiles]), validation]


def _batches(
    system: System, parts: list[Tiles], seed: int, devices: int
) -> list[TileBatches]:
    """Batches for training, and larger ones (without gradients) for validation."""
    sizes = (system.batch_size, system.augmentation), (2 * system.batch_size, None)
    gate = system.network.gate
    return [
        TileBatches(x.images, x.masks, system.transform, *size, seed, gate, devices)
        for x, size in zip(parts, sizes, strict=True)
    ]


def _evaluate(run: runs.Run, plan: dict, system: System, held_out: Tiles) -> None:
    """Predict the fold that was left out, and complete the run."""
    model = keras.models.load_model(run.folder / "model.keras", compile=False)
    images, how = held_out.images, (system.transform, False, 4 * system.batch_size)
    plain = inference.predict(model, images, *how)
    mirrored = inference.predict(model, images[:, :, ::-1], *how)[:, :, ::-1]
    mean = (plain + mirrored) / 2 if system.tta else plain
    scores = precision_per_image(held_out.masks, mean > 0.5)
    plain, mirrored = map(inference.as_bytes, (plain, mirrored))
    with atomic_write(run.folder / "validation.npz") as temporary:
        np.savez_compressed(temporary, ids=held_out.ids, plain=plain, mirrored=mirrored)
    result = {
        "score": float(scores.mean()),
        "confidence_interval": inference.bootstrap_ci(scores),
        "minutes": round(run.history()["seconds"].sum() / 60, 2),
        "keras": f"{keras.__version__} on {keras.backend.backend()}",
    }
    with atomic_write(run.folder / "config.json") as temporary:
        temporary.write_text(json.dumps(plan | result, indent=1))
    shutil.rmtree(run.folder / "work")
