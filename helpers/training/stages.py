"""Stages: building a network, and training it with one loss after the other."""

import math
from typing import Any

import keras
from keras import optimizers

from helpers import losses
from helpers.batches import TileBatches
from helpers.metrics import CompetitionScore, MeanTileIoU
from helpers.systems import Stage, System
from helpers.training import callbacks
from helpers.training.checkpoints import Checkpoints
from helpers.training.muon import Muon
from helpers.unet import build_unet
from helpers.utils.hardware import jit_compile, precision

SCHEDULES = ("cosine", "plateau")
OPTIMIZERS = {"adam": optimizers.Adam, "rmsprop": optimizers.RMSprop, "muon": Muon}


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and did so after an epoch; it can be resumed."""


def build_model(system: System, policy: str = "float32", seed: int = 0) -> keras.Model:
    """The untrained network of a system, in a Keras dtype policy; see `build_unet`."""
    keras.utils.set_random_seed(seed)
    shape = (system.transform.size, system.transform.size, 1)
    with precision(policy):
        return build_unet(input_shape=shape, **system.network.options())


def check(system: System) -> None:
    """Refuse a row that contradicts itself.

    Raises:
        ValueError: if it does, or has no stage, or a number that is too small.
    """
    least = {"batch_size": 1, "folds": 2, "tiles": 1, "epochs": 1, "learning_rate": 0}
    for part in (system, *system.stages):
        for name, low in least.items():
            value = getattr(part, name, None)
            if value is not None and not low <= value < math.inf:
                fault = f"{name} must be a number of at least {low}, not {value}"
                raise ValueError(f"{system.name}: {fault}")
    for stage in system.stages:
        for name, known in (stage.schedule, SCHEDULES), (stage.optimizer, OPTIMIZERS):
            if name not in known:
                raise ValueError(f"{system.name}: {name!r} must be one of {[*known]}")
        if stage.gate and not system.network.gate:
            raise ValueError(f"{system.name}: Stage(gate=...) needs Network(gate=True)")


def train(
    model: keras.Model,
    system: System,
    data: list[TileBatches],
    checkpoints: Checkpoints,
    extra: list[keras.callbacks.Callback],
    verbose: int,
) -> None:
    """Train on `data` (training, validation) in all stages that are not finished yet.

    Raises:
        FloatingPointError: if the loss becomes NaN or infinite.
        Stopped: if SIGINT or SIGTERM asked for it.
    """
    checkpoints.load(model)
    logs = callbacks.EpochLogs(system.epochs if verbose == 1 else 0)
    with callbacks.StopAfterEpoch() as stop:
        for stage in system.stages[checkpoints.stage :]:
            plateau = _plateau(stage) if stage.schedule == "plateau" else []
            first, following, end = checkpoints.begin(system, plateau)
            rate = plateau or [callbacks.CosineRate(stage, first, len(data[0]))]
            seed = callbacks.SeedEpoch(data[0])
            _compile(model, stage, system).fit(
                data[0],
                validation_data=data[1],
                initial_epoch=following,
                epochs=end,
                shuffle=False,  # the batches shuffle themselves
                verbose=verbose,
                callbacks=[seed, logs, *rate, checkpoints, *extra, stop],
            )
            checkpoints.load(model)  # after a plateau stage: its best weights
            if stop.asked:
                raise Stopped(f"after an epoch of {system.name}: the same call resumes")


def _compile(model: keras.Model, stage: Stage, system: System) -> keras.Model:
    """A new model of the same layers, compiled for one stage."""
    gated, loss = system.network.gate, losses.get(stage.loss)
    metrics = [CompetitionScore(system.transform), MeanTileIoU(system.transform)]
    optimizer, decay = OPTIMIZERS[stage.optimizer], stage.weight_decay or None
    with precision(model.dtype_policy.name):
        compiled = keras.Model(model.input, model.output)
        compiled.compile(
            optimizer(stage.learning_rate, weight_decay=decay),
            loss={"mask": loss, "gate": losses.get("bce")} if gated else loss,
            loss_weights={"mask": 1.0, "gate": stage.gate} if gated else None,
            metrics={"mask": metrics} if gated else metrics,
            jit_compile=jit_compile(),
        )
    return compiled


def _plateau(stage: Stage) -> list[Any]:
    """Callbacks that lower the learning rate, and then stop, without better scores."""
    score: dict[str, Any] = {"monitor": "val_score", "mode": "max"}
    rate = {"factor": stage.factor, "patience": stage.patience, "min_lr": stage.floor}
    return [
        keras.callbacks.ReduceLROnPlateau(**score, **rate),
        keras.callbacks.EarlyStopping(**score, patience=stage.stopping),
    ]
