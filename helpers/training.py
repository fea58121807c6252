"""Train one system on one fold, and keep everything about it in one folder: a run.

A run `runs/<system>/fold-<k>/` holds

| file | content |
|---|---|
| `config.json` | the system's row, fold, seed, precision, versions, score |
| `history.csv` | a row per epoch: loss, score, IoU, learning rate |
| `model.keras` | the network with the weights that were kept |
| `validation.npz` | ids and probabilities (uint8, 255 is 1) of the fold's tiles |

Notebooks, ensembles and comparisons read runs; none needs another's memory.
"""

import json
import math
import shutil
import time
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from helpers import inference, losses
from helpers.config import accelerator
from helpers.data import make_folds
from helpers.files import write_beside
from helpers.metrics import CompetitionScore, MeanTileIoU, precision_per_image
from helpers.pipeline import Frame, TileBatches
from helpers.unet import build_unet

WARM_UP = 100  # steps in which the first learning rate rises from zero
WATCHED_SHARE = 0.1  # of the training tiles, to choose the epoch of a plateau stage


@dataclass(frozen=True)
class Run:
    """A finished training, read from its folder.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @cached_property
    def config(self):
        """What was trained, and how it ended: dict."""
        return json.loads((self.folder / "config.json").read_text())

    @property
    def name(self):
        """`<system>/fold-<k>`."""
        return f"{self.config['system']['name']}/fold-{self.config['fold']}"

    @property
    def frame(self):
        """The `pipeline.Frame` of its network."""
        return Frame(**self.config["system"]["frame"])

    @property
    def score(self):
        """Competition score of the fold's tiles at threshold 0.5, nothing tuned."""
        return self.config["score"]

    def history(self):
        """DataFrame, a row per epoch."""
        return pd.read_csv(self.folder / "history.csv")

    def model(self):
        """The trained Keras model."""
        return keras.models.load_model(self.folder / "model.keras", compile=False)

    def validation(self):
        """`(ids, probabilities)` of the fold's tiles: str (n,), float32 (n, 101, 101).

        Stored with 255 steps, so within 0.002 of what the network said.
        """
        with np.load(self.folder / "validation.npz") as stored:
            return stored["ids"], stored["probabilities"] / np.float32(255)

    def predict(self, images, progress=None):
        """Probabilities of new tiles, uint8 (n, 101, 101) -> float32, same shape."""
        flips = self.config["system"]["flips"]
        model = self.model()
        return inference.predict(model, images, self.frame, flips, progress=progress)


PLAN = ("system", "fold", "seed", "profile", "data", "tiles", "precision")


def find_runs(folder, like=None):
    """The finished runs below a folder.

    Args:
        folder: for example `settings.runs_dir`.
        like: a `Run`; only runs that were made as this one, whatever their fold.

    Returns:
        List of `Run`, sorted by name; [] if there is none.
    """
    files = sorted(Path(folder).glob("*/fold-*/config.json"))
    runs = [Run(file.parent) for file in files]
    alike = [key for key in PLAN if key != "fold"] if like else []
    return [r for r in runs if all(r.config[key] == like.config[key] for key in alike)]


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
        ValueError: for a fold that does not exist.
    """
    folds = make_folds(tiles, seed=settings.seed)
    if not 0 <= fold <= folds.max():
        raise ValueError(f"fold {fold} does not exist: 0 to {folds.max()}")
    policy, reason = choose_precision(system)
    plan = {
        "system": asdict(system),
        "fold": fold,
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
    """Eight hexadecimal digits that change when a tile or a mask does."""
    return f"{zlib.crc32(tiles.masks, zlib.crc32(tiles.images)):08x}"


def choose_precision(system):
    """The fastest number format for this machine and system, and why.

    Weights, losses and scores stay in float32 in any case.

    Returns:
        `(policy, reason)`: the name of a Keras dtype policy, and words for people.
    """
    device = accelerator()
    if device.lower().startswith("gpu"):
        return "mixed_float16", "a GPU computes twice as fast with 16 bits"
    if device:
        return "mixed_bfloat16", f"made for {device}"
    if system.network.encoder != "scratch":
        return "float32", "no gain from 16 bits with a wide network on a CPU"
    if keras.backend.backend() == "tensorflow" and _cpu_flags() & BFLOAT16_FLAGS:
        return "mixed_bfloat16", "this CPU multiplies bfloat16 natively"
    return "float32", "this CPU has no fast 16-bit arithmetic"


BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def _cpu_flags():
    """What a Linux CPU says it can do; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


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
    with write_beside(work / "plan.json") as beside:
        beside.write_text(json.dumps(plan))
    seed = plan["seed"] + plan["fold"]
    model = build_model(system, plan["precision"], seed)
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
            _train_stage(model, stage, system, batches, watched, first, folder, verbose)
            with write_beside(weights) as beside:
                model.save_weights(beside)
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
    before = keras.config.dtype_policy()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    try:
        return build_unet(
            input_shape=(system.frame.size, system.frame.size, 1), **network
        )
    finally:
        keras.config.set_dtype_policy(before)


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


def _train_stage(model, stage, system, batches, watched, first, folder, verbose):
    """Train for one stage; the model ends with the weights to keep."""
    model = keras.Model(model.input, model.output)  # same layers, a clean start
    backup, history = folder / "work" / "backup", folder / "history.csv"
    best = folder / "work" / "best.weights.h5"
    _trim(history, backup, first)
    model.compile(
        optimizer=keras.optimizers.Adam(stage.learning_rate),
        loss=losses.get(stage.loss),
        metrics=[CompetitionScore(system.frame), MeanTileIoU(system.frame)],
        jit_compile=_jit_compile(),
    )
    watch = {"monitor": "val_score", "mode": "max"}
    if stage.schedule == "cosine":
        rule = [CosineRate(stage.learning_rate, first, stage.epochs, len(batches))]
    else:
        rule = [
            keras.callbacks.ReduceLROnPlateau(
                **watch, patience=stage.patience, factor=stage.factor
            ),
            keras.callbacks.EarlyStopping(**watch, patience=stage.stopping),
            keras.callbacks.ModelCheckpoint(
                best,
                **watch,
                save_best_only=True,
                save_weights_only=True,
                initial_value_threshold=_best_so_far(history, first),
            ),
        ]
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
            keras.callbacks.BackupAndRestore(backup),  # last: all else is done by then
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
    if not history.exists():
        return
    metadata = backup / "training_metadata.json"
    done = json.loads(metadata.read_text())["epoch"] if metadata.exists() else first
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


def _jit_compile():
    """XLA compiles for accelerators; TensorFlow's own CPU kernels are faster."""
    if keras.backend.backend() == "tensorflow" and not accelerator():
        return False
    return "auto"


def _keep(model, ids, probabilities, folder):
    """Write the network and its predictions for the fold's tiles."""
    with write_beside(folder / "model.keras") as beside:
        model.save(beside)
    with write_beside(folder / "validation.npz") as beside:
        packed = np.rint(probabilities * 255).astype(np.uint8)
        np.savez_compressed(beside, ids=ids, probabilities=packed)


class EpochOrder(keras.callbacks.Callback):
    """Tells the batches which epoch it is (Keras does not)."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        """Draw the order of the epoch that begins."""
        self.batches.start_epoch(epoch)


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
