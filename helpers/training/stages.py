"""Stages: what one training goes through, each under a loss and a rule of its own."""

from functools import partial
from typing import Any

import keras
import numpy as np

from helpers import losses
from helpers.batches import TileBatches
from helpers.metrics import CompetitionScore, MeanTileIoU
from helpers.systems import Stage, System
from helpers.training.callbacks import (
    CosineRate,
    RenameLogs,
    Replay,
    SeedEpoch,
    StopAfterEpoch,
)
from helpers.training.checkpoints import BEST, Checkpoints, SaveState
from helpers.utils.hardware import jit_compile, precision

OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
}


class Stopped(KeyboardInterrupt):
    """A training was asked to stop, and did so after an epoch; it can go on later."""


def train(
    model: keras.Model,
    system: System,
    data: tuple[TileBatches, TileBatches],
    checkpoints: Checkpoints,
    told: list[keras.callbacks.Callback],
    policy: str,
    verbose: int,
) -> None:
    """Go through a system's stages, skipping what an interrupted training has done.

    Args:
        model: the network, not compiled; it ends with the weights to keep.
        system: a `systems.System`.
        data: `(batches, watched)`, two `batches.TileBatches`: of the tiles trained on,
            and of those whose score is watched.
        checkpoints: `checkpoints.Checkpoints`.
        told: callbacks that only tell how the training goes.
        policy: Keras dtype policy.
        verbose: of Keras' progress bar.

    Raises:
        FloatingPointError: if the loss is not a number any more.
        Stopped: if somebody has asked for it.
    """
    first = 0
    with StopAfterEpoch() as stop:
        for number, stage in enumerate(system.stages):
            if number >= checkpoints.state.stage:
                save = SaveState(checkpoints, model, stage, number, first)
                compiled = _compiled(model, stage, system, policy)
                _train_stage(compiled, stage, data, save, [*told, stop], verbose)
                if stage.schedule == "plateau":
                    model.load_weights(checkpoints.state.folder / BEST)
            if stop.asked:
                raise Stopped(f"after an epoch of {system.name}: the same call goes on")
            first += stage.epochs


def _compiled(
    model: keras.Model, stage: Stage, system: System, policy: str
) -> keras.Model:
    """A model that is new but for its layers, to be trained for one stage."""
    loss, weights = _losses(stage, output_names(model))
    metrics = [CompetitionScore(system.transform), MeanTileIoU(system.transform)]
    with precision(policy):
        compiled = keras.Model(model.input, model.output)
        compiled.compile(
            optimizer=OPTIMIZERS[stage.optimizer](
                stage.learning_rate,
                weight_decay=stage.weight_decay or None,
                global_clipnorm=stage.clip or None,
                use_ema=stage.average > 0,
                ema_momentum=stage.average,
            ),
            loss=loss,
            loss_weights=weights,
            metrics={"mask": metrics} if isinstance(loss, dict) else metrics,
            jit_compile=jit_compile(),
        )
    return compiled


def _train_stage(
    model: keras.Model,
    stage: Stage,
    data: tuple[TileBatches, TileBatches],
    save: SaveState,
    told: list[keras.callbacks.Callback],
    verbose: int,
) -> None:
    """Train for one stage, or for the rest of it."""
    batches, watched = data
    begin, end = save.begin, save.first + stage.epochs
    if begin >= end or save.has_stopped():  # interrupted between two stages
        save.restore(model)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        return
    history = model.fit(
        batches,
        validation_data=watched,
        initial_epoch=begin,
        epochs=end,
        shuffle=False,  # the batches have an order of their own
        verbose=verbose,
        callbacks=[
            SeedEpoch(batches),
            RenameLogs(),
            *_rules(stage, save, len(batches)),
            keras.callbacks.TerminateOnNaN(),
            save,  # after all that change something
            *told,
        ],
    )
    if not np.isfinite(history.history["loss"][-1]):
        raise FloatingPointError(
            "the loss is not a number any more; lower the learning rate "
            f"({stage.learning_rate}) or cut the gradients (clip), and train again"
        )


def _rules(stage: Stage, save: SaveState, steps: int) -> list[keras.callbacks.Callback]:
    """Callbacks that set the learning rate, average the weights, and stop."""
    if stage.schedule == "cosine":
        return [*save.average, CosineRate(stage, save.first, steps)]
    watch = {"monitor": "val_score", "mode": "max"}
    patient = [
        keras.callbacks.ReduceLROnPlateau(
            **watch, patience=stage.patience, factor=stage.factor, min_lr=stage.floor
        ),
        keras.callbacks.EarlyStopping(**watch, patience=stage.stopping),
    ]
    return [*save.average, *patient, Replay(patient, save.done)]


def _losses(
    stage: Stage, outputs: tuple[str, ...]
) -> tuple[Any, dict[str, float] | None]:
    """The losses of a stage and their weights, one an output of the network."""
    if not outputs:
        return losses.get(stage.loss), None
    loss = {name: losses.get(stage.loss) for name in outputs}
    weights = {
        name: 1.0 if name == "mask" else stage.deep_supervision for name in outputs
    }
    if "gate" in outputs:
        loss["gate"], weights["gate"] = losses.get("bce"), stage.gate
    return loss, weights


def output_names(model: keras.Model) -> tuple[str, ...]:
    """Names of a network's outputs if it has several, else `()`: tuple of str."""
    return tuple(model.output) if isinstance(model.output, dict) else ()
