"""Train one system on one fold, interruptible, into a run (see `runs`)."""

import json
import shutil
import time
import zlib
from dataclasses import asdict

import keras
import numpy as np
import pandas as pd

from helpers import inference, losses
from helpers.callbacks import CosineRate, EpochOrder, Replay, ShortNames
from helpers.data import make_folds
from helpers.files import write_beside
from helpers.machine import choose_precision, jit_compile, precision
from helpers.metrics import CompetitionScore, MeanTileIoU, precision_per_image
from helpers.pipeline import TileBatches
from helpers.runs import PLAN, VERSION, Run, find_runs
from helpers.unet import build_unet

__all__ = ["EpochOrder", "build_model", "find_runs", "fit"]

OPTIMIZERS = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}
WATCHED_SHARE = 0.1  # of the training tiles, to choose the epoch of a plateau stage


def fit(system, tiles, fold, settings, verbose=1):
    """Train a system on all folds but one, or read the run if it is there already.

    Interrupted and started again with the same arguments, the training goes on after
    its last finished epoch.

    Args:
        system: a row of `systems.SYSTEMS`, usually cut by `within(budget)`.
        tiles: labelled `data.Tiles`.
        fold: the fold (0 ... 4, in a row of five) that is not trained on, but
            predicted at the end.
        settings: `config.Settings`: output folder and seed.
        verbose: Keras' progress bar: 0 none, 1 moving, 2 a line per epoch.

    Returns:
        `Run`.

    Raises:
        ValueError: for a fold that does not exist, or wrong options of the network.
        OSError: if ImageNet weights cannot be downloaded.
        FloatingPointError: if the loss is not a number any more.
    """
    folds = make_folds(tiles, system.folds, settings.seed, system.stratify)
    if not 0 <= fold <= folds.max():
        raise ValueError(f"fold {fold} does not exist: 0 to {folds.max()}")
    _check(system)
    policy, reason = choose_precision(system)
    plan = _plan(system, tiles, fold, settings, policy)
    folder = settings.runs_dir / system.name / f"fold-{fold}"
    found = _found(folder, plan)
    if found == "finished":
        print(f"{system.name}, fold {fold}: trained before, read from its run")
        return Run(folder)
    held_out = tiles.take(folds == fold)
    rest = _without_specks(tiles.take(folds != fold), system.smallest)
    model = build_model(system, policy, settings.seed + fold)
    if found == "another":  # only now that nothing is wrong with this one
        _move_aside(folder)
    print(f"{system.name}, fold {fold}: {system.epochs} epochs in {policy} ({reason})")
    _train(model, system, rest, held_out, folder, plan, verbose)
    probabilities = inference.predict(
        model, held_out.images, system.frame, system.flips, 2 * system.batch_size
    )
    scores = precision_per_image(held_out.masks, probabilities > 0.5)
    _keep(model, held_out.ids, probabilities, folder)
    result = {
        "score": float(scores.mean()),
        "interval": inference.interval(scores),
        "parameters": model.count_params(),
        "minutes": round(pd.read_csv(folder / "history.csv")["seconds"].sum() / 60, 2),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }
    with write_beside(folder / "config.json") as beside:  # last: now it is finished
        beside.write_text(json.dumps({**plan, **result}, indent=1))
    shutil.rmtree(folder / "work")
    return Run(folder)


def _plan(system, tiles, fold, settings, policy):
    """Everything that decides how a run comes out, as it is written into it."""
    stages = system.stages
    plan = {
        "version": VERSION,
        "system": asdict(system),
        "losses": [keras.losses.serialize(losses.get(stage.loss)) for stage in stages],
        "fold": int(fold),
        "seed": settings.seed,
        "profile": settings.profile.name,
        "data": settings.kind,
        "tiles": _fingerprint(tiles),
        "precision": policy,
    }
    return json.loads(json.dumps(plan))  # tuples become lists, as they will be read


def _check(system):
    """Refuse a row that contradicts itself, before any training."""
    for stage in system.stages:
        if stage.schedule not in ("cosine", "plateau"):
            raise ValueError(f"schedule is 'cosine' or 'plateau': {stage.schedule!r}")
        if stage.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise ValueError(f"unknown optimizer {stage.optimizer!r}: one of {known}")
        for part in ("gate", "deep"):
            if getattr(stage, part) and not getattr(system.network, part):
                raise ValueError(
                    f"{system.name}: a stage weighs the loss of {part!r}, which the "
                    f"network does not have: set Network({part}=True), or 0 here"
                )


def _without_specks(tiles, smallest):
    """Tiles but for those whose mask has some salt, and fewer pixels than this."""
    pixels = np.count_nonzero(tiles.masks, axis=(1, 2))
    kept = tiles.take((pixels == 0) | (pixels >= smallest))
    if not len(kept):
        raise ValueError("there are no tiles to train on: read more of them")
    return kept


def _fingerprint(tiles):
    """Eight hexadecimal digits that change when anything in the tiles does."""
    digest = 0
    for part in (tiles.images, tiles.masks, tiles.depths, tiles.ids):
        digest = zlib.crc32(np.ascontiguousarray(part).tobytes(), digest)
    return f"{digest:08x}"


def _found(folder, plan):
    """What a run's folder holds: `"finished"`, `"begun"`, `"another"`, or nothing."""
    if not folder.exists():
        return ""
    for name, state in {"config.json": "finished", "work/plan.json": "begun"}.items():
        if (folder / name).exists():
            found = json.loads((folder / name).read_text())
            if all(found.get(key) == plan[key] for key in PLAN):
                return state
    return "another"


def _move_aside(folder):
    """Keep a run that was made with other settings, under another name."""
    aside = folder.with_name(f"{time.strftime('%Y%m%d-%H%M%S')}-{folder.name}")
    folder.rename(aside)
    print(f"{folder}: made with other settings, moved to {aside.name}")


def _train(model, system, rest, held_out, folder, plan, verbose):
    """Go through the stages, skipping what an interrupted training has done."""
    work = folder / "work"
    seed = plan["seed"] + plan["fold"]
    with write_beside(work / "plan.json") as beside:
        beside.write_text(json.dumps(plan))
    rest, watched = _watched(system, rest, held_out, seed)
    batches = TileBatches(
        rest.images,
        rest.masks,
        system.frame,
        system.batch_size,
        system.augmentation,
        seed,
        tuple(model.output) if isinstance(model.output, dict) else (),
    )
    watched = TileBatches(
        watched.images,
        watched.masks,
        system.frame,
        2 * system.batch_size,  # without gradients there is room for more
        outputs=batches.outputs,
    )
    first = 0
    for number, stage in enumerate(system.stages):
        weights = work / f"stage-{number}.weights.h5"
        if not weights.exists():
            data = batches, watched
            policy = plan["precision"]
            _train_stage(model, stage, system, data, first, folder, policy, verbose)
            with write_beside(weights) as beside:
                model.save_weights(beside)
            shutil.rmtree(work / "backup", ignore_errors=True)
        model.load_weights(weights)
        first += stage.epochs


def build_model(system, policy="float32", seed=0):
    """The untrained network of a system.

    Args:
        system: a row of `systems.SYSTEMS`.
        policy: Keras dtype policy, see `choose_precision`.
        seed: of the random weights.

    Returns:
        A Keras model, see `unet.build_unet`.
    """
    keras.utils.set_random_seed(seed)
    shape = (system.frame.size, system.frame.size, 1)
    with precision(policy):
        return build_unet(input_shape=shape, **system.network.options())


def _watched(system, rest, held_out, seed):
    """The tiles trained on, and those whose score is shown after each epoch.

    Where that score decides when to stop and what to keep (plateau), it must not be
    that of the fold which is reported: a share of the training tiles is watched.
    """
    order = np.random.default_rng(seed).permutation(len(rest))
    if any(stage.schedule == "plateau" for stage in system.stages):
        count = max(1, round(WATCHED_SHARE * len(rest)))
        return rest.take(order[count:][: system.tiles]), rest.take(order[:count])
    return rest.take(order[: system.tiles]), held_out.take(slice(system.watched))


def _train_stage(model, stage, system, data, first, folder, policy, verbose):
    """Train for one stage; the model ends with the weights to keep."""
    batches, watched = data
    backup, history = folder / "work" / "backup", folder / "history.csv"
    best = folder / "work" / "best.weights.h5"
    _trim(history, backup, first)
    if stage.schedule == "plateau" and _has_stopped(stage, history, first):
        model.load_weights(best)
        return
    metrics = [CompetitionScore(system.frame), MeanTileIoU(system.frame)]
    loss, weights = _losses(stage, batches.outputs)
    with precision(policy):  # on a model that is new but for its layers
        model = keras.Model(model.input, model.output)
        model.compile(
            optimizer=OPTIMIZERS[stage.optimizer](
                stage.learning_rate, weight_decay=stage.weight_decay or None
            ),
            loss=loss,
            loss_weights=weights,
            metrics={"mask": metrics} if batches.outputs else metrics,
            jit_compile=jit_compile(),
        )
    watch = {"monitor": "val_score", "mode": "max"}
    if stage.schedule == "cosine":
        rule = [CosineRate(stage.learning_rate, first, stage.epochs, len(batches))]
    else:
        patient = [
            keras.callbacks.ReduceLROnPlateau(
                **watch,
                patience=stage.patience,
                factor=stage.factor,
                min_lr=stage.floor,
            ),
            keras.callbacks.EarlyStopping(**watch, patience=stage.stopping),
        ]
        keep = keras.callbacks.ModelCheckpoint(
            best,
            **watch,
            save_best_only=True,
            save_weights_only=True,
            initial_value_threshold=_best_so_far(history, first),
        )
        rule = [*patient, Replay(patient, history, first), keep]
    model.fit(
        batches,
        validation_data=watched,
        initial_epoch=first,
        epochs=first + stage.epochs,
        shuffle=False,  # the batches have an order of their own
        verbose=verbose,
        callbacks=[
            EpochOrder(batches),
            ShortNames(),
            *rule,
            keras.callbacks.CSVLogger(history, append=True),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.BackupAndRestore(  # last: all else is done by then
                backup, double_checkpoint=True, delete_checkpoint=False
            ),
        ],
    )
    if not np.isfinite(pd.read_csv(history)["loss"].iloc[-1]):
        raise FloatingPointError(
            f"{system.name}: the loss is not a number any more; lower the learning "
            f"rate ({stage.learning_rate}), delete {folder} and train again"
        )
    if stage.schedule == "plateau":
        model.load_weights(best)


def _losses(stage, outputs):
    """The losses of a stage and their weights, one an output of the network."""
    if not outputs:
        return losses.get(stage.loss), None
    loss = {name: losses.get(stage.loss) for name in outputs}
    weights = {name: 1.0 if name == "mask" else stage.deep for name in outputs}
    if "gate" in outputs:
        loss["gate"], weights["gate"] = losses.get("bce"), stage.gate
    return loss, weights


def _trim(history, backup, first):
    """Drop epochs from the history that the backup does not have: they come again."""
    try:
        metadata = json.loads((backup / "training_metadata.json").read_text())
        done = metadata["epoch"]
    except (OSError, ValueError, KeyError):  # none yet, or damaged: the stage anew
        shutil.rmtree(backup, ignore_errors=True)
        done = first
    if history.exists():
        table = pd.read_csv(history)
        with write_beside(history) as beside:
            table[table["epoch"] < done].to_csv(beside, index=False)


def _has_stopped(stage, history, first):
    """Whether a plateau stage was at its end when it was interrupted."""
    if not history.exists():
        return False
    table = pd.read_csv(history)
    scores = table["val_score"][table["epoch"] >= first].to_numpy()
    return len(scores) > 0 and len(scores) - 1 - scores.argmax() >= stage.stopping


def _best_so_far(history, first):
    """The best watched score of this stage before it was interrupted, or `None`."""
    if not history.exists():
        return None
    table = pd.read_csv(history)
    table = table[table["epoch"] >= first]
    return float(table["val_score"].max()) if len(table) else None


def _keep(model, ids, probabilities, folder):
    """Write the network and its predictions for the fold's tiles."""
    with write_beside(folder / "model.keras") as beside:
        model.save(beside)
    with write_beside(folder / "validation.npz") as beside:
        packed = np.rint(probabilities * 255).astype(np.uint8)
        np.savez_compressed(beside, ids=ids, probabilities=packed)
