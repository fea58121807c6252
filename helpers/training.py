"""Train one system on one fold, interruptible, into a run (see `runs`)."""

import json
import math
import shutil
import time
import zlib
from dataclasses import asdict

import keras
import numpy as np
import pandas as pd

from helpers import inference, losses
from helpers.data import make_folds
from helpers.files import write_beside
from helpers.machine import choose_precision, jit_compile, precision
from helpers.metrics import CompetitionScore, MeanTileIoU, precision_per_image
from helpers.pipeline import TileBatches
from helpers.runs import PLAN, Run, find_runs
from helpers.unet import build_unet

__all__ = ["build_model", "find_runs", "fit"]

WARM_UP = 100  # steps in which the first learning rate rises from zero
WATCHED_SHARE = 0.1  # of the training tiles, to choose the epoch of a plateau stage


def fit(system, tiles, fold, settings, verbose=1):
    """Train a system on all folds but one, or read the run if it is there already.

    Interrupted and started again with the same arguments, the training goes on after
    its last finished epoch.

    Args:
        system: a row of `systems.SYSTEMS`, usually cut by `within(budget)`.
        tiles: labelled `data.Tiles`.
        fold: the fold (0 ... 4) that is not trained on, but predicted at the end.
        settings: `config.Settings`: output folder and seed.
        verbose: Keras' progress bar: 0 none, 1 moving, 2 a line per epoch.

    Returns:
        `Run`.

    Raises:
        ValueError: for a fold that does not exist, or wrong options of the network.
        OSError: if ImageNet weights cannot be downloaded.
        FloatingPointError: if the loss is not a number any more.
    """
    folds = make_folds(tiles, seed=settings.seed)
    if not 0 <= fold <= folds.max():
        raise ValueError(f"fold {fold} does not exist: 0 to {folds.max()}")
    policy, reason = choose_precision(system)
    plan = {
        "system": asdict(system),
        "losses": [
            keras.losses.serialize(losses.get(stage.loss)) for stage in system.stages
        ],
        "fold": int(fold),
        "seed": settings.seed,
        "profile": settings.profile.name,
        "data": "synthetic" if settings.synthetic else "competition",
        "tiles": _fingerprint(tiles),
        "precision": policy,
    }
    plan = json.loads(json.dumps(plan))  # tuples become lists, as they will be read
    folder = settings.runs_dir / system.name / f"fold-{fold}"
    if _is_finished(folder, plan):
        print(f"{system.name}, fold {fold}: trained before, read from its run")
        return Run(folder)
    print(f"{system.name}, fold {fold}: {system.epochs} epochs in {policy} ({reason})")
    started = time.perf_counter()
    rest, held_out = tiles.take(folds != fold), tiles.take(folds == fold)
    model = _train(system, rest, held_out, folder, plan, verbose)
    probabilities = inference.predict(
        model, held_out.images, system.frame, system.flips
    )
    scores = precision_per_image(held_out.masks, probabilities > 0.5)
    _keep(model, held_out.ids, probabilities, folder)
    result = {
        "score": float(scores.mean()),
        "interval": inference.interval(scores),
        "parameters": model.count_params(),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
    }
    with write_beside(folder / "config.json") as beside:  # last: now it is finished
        beside.write_text(json.dumps({**plan, **result}, indent=1))
    shutil.rmtree(folder / "work")
    return Run(folder)


def _fingerprint(tiles):
    """Eight hexadecimal digits that change when anything in the tiles does."""
    digest = 0
    for part in (tiles.images, tiles.masks, tiles.depths, tiles.ids):
        digest = zlib.crc32(np.ascontiguousarray(part).tobytes(), digest)
    return f"{digest:08x}"


def _is_finished(folder, plan):
    """Whether this folder holds the run of this plan; another plan's is moved aside."""
    if not folder.exists():
        return False
    for name in ("config.json", "work/plan.json"):
        if (folder / name).exists():
            found = json.loads((folder / name).read_text())
            if all(found.get(key) == plan[key] for key in PLAN):
                return name == "config.json"
    aside = folder.with_name(f"{time.strftime('%Y%m%d-%H%M%S')}-{folder.name}")
    folder.rename(aside)
    print(f"{folder}: made with other settings, moved to {aside.name}")
    return False


def _train(system, rest, held_out, folder, plan, verbose):
    """Go through the stages, skipping what an interrupted training has done."""
    work = folder / "work"
    seed = plan["seed"] + plan["fold"]
    model = build_model(system, plan["precision"], seed)
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
    )
    watched = TileBatches(watched.images, watched.masks, system.frame, 64)
    first = 0
    for number, stage in enumerate(system.stages):
        weights = work / f"stage-{number}.weights.h5"
        if not weights.exists():
            data = batches, watched
            policy = plan["precision"]
            _train_stage(model, stage, system, data, first, folder, policy, verbose)
            with write_beside(weights) as beside:
                model.save_weights(beside)
            shutil.rmtree(work / "backup")
        model.load_weights(weights)
        first += stage.epochs
    return model


def build_model(system, policy="float32", seed=0):
    """The untrained network of a system.

    Args:
        system: a row of `systems.SYSTEMS`.
        policy: Keras dtype policy, see `choose_precision`.
        seed: of the random weights.

    Returns:
        A Keras model, see `unet.build_unet`.
    """
    network = asdict(system.network)
    if system.network.encoder != "scratch":  # a published family is what it is
        for own in ("filters", "depth", "blocks", "stem"):
            del network[own]
    keras.utils.set_random_seed(seed)
    shape = (system.frame.size, system.frame.size, 1)
    with precision(policy):
        return build_unet(input_shape=shape, **network)


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
    with precision(policy):  # on a model that is new but for its layers
        model = keras.Model(model.input, model.output)
        model.compile(
            optimizer=keras.optimizers.Adam(stage.learning_rate),
            loss=losses.get(stage.loss),
            metrics=[CompetitionScore(system.frame), MeanTileIoU(system.frame)],
            jit_compile=jit_compile(),
        )
    watch = {"monitor": "val_score", "mode": "max"}
    if stage.schedule == "cosine":
        rule = [CosineRate(stage.learning_rate, first, stage.epochs, len(batches))]
    else:
        patient = [
            keras.callbacks.ReduceLROnPlateau(
                **watch, patience=stage.patience, factor=stage.factor
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


class EpochOrder(keras.callbacks.Callback):
    """Tells batches and dropout which epoch it is: chance follows from (seed, epoch).

    Keras does neither, and a backup does not hold the state of the dropout layers.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        """Draw the order of the epoch that begins, and seed every dropout layer."""
        self.batches.start_epoch(epoch)
        for number, layer in enumerate(self.model.layers):
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
                seed = self.batches.seed + number
                layer.seed_generator.state.assign([seed, epoch])


class Replay(keras.callbacks.Callback):
    """Tells callbacks that count epochs of those before an interruption.

    Keras starts their counts anew whenever a training begins.

    Args:
        callbacks: the callbacks, which come before this one in the list.
        history: path of the run's `history.csv`.
        first: number of the stage's first epoch.
    """

    def __init__(self, callbacks, history, first):
        super().__init__()
        self.callbacks, self.history, self.first = callbacks, history, first

    def on_train_begin(self, logs=None):
        """Live through the stage's finished epochs once more."""
        table = pd.read_csv(self.history) if self.history.exists() else pd.DataFrame()
        for row in table.to_dict("records"):
            if row["epoch"] >= self.first:
                for callback in self.callbacks:
                    callback.on_epoch_end(int(row["epoch"]), dict(row))


class CosineRate(keras.callbacks.Callback):
    """Learning rate along half a cosine, from its peak to zero, step by step.

    It follows from the step's number alone, so it goes on where it was interrupted.

    Args:
        peak: the highest rate.
        first: number of the stage's first epoch.
        epochs: of the stage.
        steps: in an epoch.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    """

    def __init__(self, peak, first, epochs, steps):
        super().__init__()
        self.peak, self.first, self.epochs, self.steps = peak, first, epochs, steps

    def rate(self, epoch, step):
        """Rate of a step; the very first steps of a training warm up linearly."""
        done = (epoch - self.first) * self.steps + step
        total = self.epochs * self.steps
        warm_up = min(WARM_UP, total // 4)
        rise = (done + 1) / warm_up if self.first == 0 and done < warm_up else 1.0
        return self.peak * rise * (1 + math.cos(math.pi * done / total)) / 2

    def on_epoch_begin(self, epoch, logs=None):
        """Remember the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Set the rate of this step."""
        self.model.optimizer.learning_rate = self.rate(self.epoch, batch)

    def on_epoch_end(self, epoch, logs=None):
        """Enter the last rate into the history."""
        logs["learning_rate"] = self.rate(epoch, self.steps - 1)
