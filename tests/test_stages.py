"""Stages: losses, schedules and optimizers, and rows that cannot be trained."""

import importlib
from dataclasses import replace

import keras
import numpy as np
import pytest
import tiny
from tiny import TINY, assert_same, at_epoch_begin, call_all_salt, interrupt_at

from helpers import data, metrics, systems, training
from helpers.batches import TileBatches
from helpers.systems import Stage
from helpers.training import callbacks, stages

eager, settings, tiles = tiny.eager, tiny.settings, tiny.tiles  # fixtures
fitting = importlib.import_module("helpers.training.fit")
pytestmark = pytest.mark.usefixtures("eager")


def test_plateau_stops_counts_across_interruptions_and_keeps_the_weights(
    tiles, settings, monkeypatch
):
    """The score stands still: the rate is cut after epoch 2, epoch 4 is the last."""
    stage = Stage("bce", 30, 1e-9, schedule="plateau", patience=2, stopping=4)
    system = replace(TINY, stages=(stage,))
    at_epoch_begin(monkeypatch, call_all_salt)
    whole = training.fit(system, tiles, 0, settings, verbose=0)
    history = whole.history()
    assert len(history) == 5 and history["learning_rate"].nunique() == 2
    again = replace(settings, output_dir=settings.output_dir / "again")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 2)
        training.fit(system, tiles, 0, again, verbose=0)

    def off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.Model, "save", off)  # between the last epoch and the end
        training.fit(system, tiles, 0, again, verbose=0)
    monkeypatch.setattr(keras.Model, "fit", None)  # calling it would fail
    assert_same(training.fit(system, tiles, 0, again, verbose=0), whole)


def test_plateau_keeps_the_best_weights(tiles, settings, monkeypatch):
    """A network that falls apart after a good epoch is not the one that is kept."""
    tiles = replace(tiles, masks=np.zeros_like(tiles.masks))

    def spoil(model, epoch):
        if epoch == 0:
            model.get_layer("logits").bias.assign([-1000.0])
        if epoch == 3:
            call_all_salt(model, epoch)

    at_epoch_begin(monkeypatch, spoil)
    stage = Stage("bce", 4, 0.1, schedule="plateau", patience=1, stopping=8)
    system = replace(TINY, stages=(stage,))
    run = training.fit(system, tiles, 0, settings, verbose=0)
    scores, rates = run.history()["val_score"], run.history()["learning_rate"]
    assert rates.iloc[-1] < rates.iloc[0]
    assert list(scores) == [1, 1, 1, 0]
    rest = tiles.take(data.make_folds(tiles, seed=settings.seed) != 0)
    _, validation = fitting._split(system, rest, rest, settings.seed)
    batch = TileBatches(validation.images, validation.masks, system.transform, 64)[0]
    score = metrics.CompetitionScore(system.transform)
    score.update_state(batch[1], run.model()(batch[0]))
    assert float(score.result()) == pytest.approx(scores.max())


GATED = replace(
    TINY,
    name="gated",
    network=systems.Network(filters=4, depth=2, dropout=0.2, gate=True),
    stages=(
        Stage("dice+0.2bce", 2, 1e-2, gate=0.1, weight_decay=1e-4),
        Stage("lovasz-elu", 1, 1e-2, "plateau", gate=0.1, optimizer="rmsprop"),
    ),
    min_mask_size=10,
)


def test_several_outputs_and_losses_in_stages(tiles, settings, monkeypatch):
    """The history has the score's plain name, and a loss for each output."""
    apart = replace(settings, output_dir=settings.output_dir / "apart")
    run = training.fit(GATED, tiles, 0, apart, verbose=0)
    history = run.history()
    assert {"score", "val_score", "iou", "mask_loss", "gate_loss"} <= set(history)
    total = history["mask_loss"] + 0.1 * history["gate_loss"]
    np.testing.assert_allclose(history["loss"], total, rtol=0.02)
    ids, probabilities = run.validation()
    again = run.predict(tiles.take(np.isin(tiles.ids, ids)).images)
    np.testing.assert_allclose(again, probabilities, atol=0.5 / 255 + 1e-4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 2)  # where the second stage begins
        training.fit(GATED, tiles, 0, settings, verbose=0)
    assert_same(training.fit(GATED, tiles, 0, settings, verbose=0), run)


def test_half_precision_scales_the_loss_and_keeps_the_schedule():
    """Without scaling small gradients would become zero in float16."""
    model = training.build_model(TINY, "mixed_float16")
    stage = TINY.stages[0]
    compiled = stages._compile(model, stage, TINY)
    assert isinstance(compiled.optimizer, keras.optimizers.LossScaleOptimizer)
    rate = callbacks.CosineRate(stage, first=0, steps=5)
    rate.set_model(compiled)
    rate.on_epoch_begin(1)
    rate.on_train_batch_begin(3)
    inner = compiled.optimizer.inner_optimizer
    assert float(inner.learning_rate) == pytest.approx(rate.rate(1, 3))


@pytest.mark.parametrize("optimizer", stages.OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(optimizer, tiles):
    stage = Stage("bce", 1, 1e-2, optimizer=optimizer, weight_decay=1e-4)
    system = replace(TINY, network=systems.Network(filters=4, depth=2))
    batch = TileBatches(tiles.images, tiles.masks, system.transform, len(tiles))[0]
    compiled = stages._compile(training.build_model(system), stage, system)
    assert compiled.optimizer.weight_decay == 1e-4
    first, *_, last = (compiled.train_on_batch(*batch)[0] for _ in range(15))
    assert last < 0.9 * first


def test_every_dropout_layer_has_a_seed_of_its_own_in_every_epoch():
    model = training.build_model(TINY)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    images = np.zeros((2, 101, 101), np.uint8)
    seed = callbacks.SeedEpoch(TileBatches(images, images > 0, TINY.transform, 2))
    seed.set_model(stages._compile(model, TINY.stages[0], TINY))
    seed.on_epoch_begin(7)
    drops = [x for x in model.layers if isinstance(x, keras.layers.Dropout)]
    states = [tuple(np.array(layer.seed_generator.state)) for layer in drops]
    assert len(set(states)) == len(drops) > 1
    assert {epoch for _, epoch in states} == {7}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("bce", 1, gate=0.1), r"Stage\(gate=...\) needs Network\(gate=True\)"),
        (Stage("bce", 1, optimizer="sgd"), "'sgd' must be one of .*'rmsprop'"),
        (Stage("bced", 1), "unknown loss 'bced'"),
        (Stage("bce", 1, schedule="plataeu"), "'plataeu' must be one of .*'plateau'"),
    ],
)
def test_row_that_contradicts_itself_is_refused(stage, message, tiles, settings):
    with pytest.raises(ValueError, match=message):
        training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings)
    assert not settings.runs_dir.exists()


def test_loss_that_is_not_a_number_is_an_error(tiles, settings):
    stage = Stage("bce", 2, 1e38)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings, verbose=0)
