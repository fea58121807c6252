"""Training: runs on disk, resuming, choosing without looking at the exam."""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest

from helpers import (
    callbacks,
    config,
    data,
    metrics,
    runs,
    synthetic,
    systems,
    training,
)

TINY = replace(
    systems.get("salt-net").within(config.Budget(4, size=32)),
    name="tiny",
    network=systems.Network(filters=4, depth=2, dropout=0.2),
    batch_size=8,
)


@pytest.fixture(scope="module")
def tiles():
    made = synthetic.make_tiles(40, seed=5)
    ids = np.array([f"{index:010x}" for index in range(40)])
    return data.Tiles(ids, made.images, made.masks, made.depths)


@pytest.fixture
def settings(tmp_path):
    return config.Settings("synthetic", tmp_path, config.PROFILES["smoke"])


@pytest.fixture(scope="module")
def finished(tiles, tmp_path_factory):
    """One run, trained once, that several tests look at."""
    folder = tmp_path_factory.mktemp("finished")
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    return training.fit(TINY, tiles, 0, settings, verbose=0), settings


def interrupt_at(monkeypatch, epoch):
    """As if the machine were switched off when this epoch begins."""
    begin = training.EpochOrder.on_epoch_begin

    def off(self, number, logs=None):
        begin(self, number, logs)
        if number == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.EpochOrder, "on_epoch_begin", off)


def test_run_holds_what_its_docstring_says(finished, tiles):
    run, settings = finished
    assert run.folder == settings.runs_dir / "tiny" / "fold-0"
    names = {"config.json", "history.csv", "model.keras", "validation.npz"}
    assert {file.name for file in run.folder.iterdir()} == names
    assert list(run.history()["epoch"]) == [0, 1, 2, 3]
    ids, probabilities = run.validation()
    assert set(ids) == set(tiles.ids[data.make_folds(tiles) == 0])
    assert probabilities.shape == (len(ids), 101, 101)


def test_score_of_the_run_is_that_of_its_validation_tiles(finished, tiles):
    run, _ = finished
    ids, probabilities = run.validation()
    held_out = tiles.take(np.isin(tiles.ids, ids))
    score = metrics.mean_precision(held_out.masks, probabilities > 0.5)
    assert run.score == pytest.approx(score, abs=0.02)  # 255 steps
    low, high = run.config["interval"]
    assert low <= run.score <= high


def test_saved_model_predicts_what_the_run_keeps(finished, tiles):
    run, _ = finished
    ids, probabilities = run.validation()
    held_out = tiles.take(np.isin(tiles.ids, ids))
    again = run.predict(held_out.images)
    np.testing.assert_allclose(again, probabilities, atol=0.5 / 255 + 1e-4)


def test_finished_run_is_read_not_trained_again(finished, tiles, monkeypatch):
    _, settings = finished
    monkeypatch.setattr(training, "_train", None)  # calling it would fail
    training.fit(TINY, tiles, 0, settings)


def test_loss_falls(tiles, settings):
    stage = systems.Stage("bce+dice", 8, 1e-2)
    run = training.fit(replace(TINY, stages=(stage,)), tiles, 1, settings, verbose=0)
    loss = run.history()["loss"]
    assert loss.iloc[-1] < 0.9 * loss.iloc[0]


@pytest.mark.parametrize("epoch", [1, 3])  # in the first stage, in the second
def test_interrupted_training_ends_as_if_it_had_not_been(
    epoch, finished, tiles, settings, monkeypatch
):
    whole, _ = finished
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, epoch)
        training.fit(TINY, tiles, 0, settings, verbose=0)
    assert runs.find_runs(settings.runs_dir) == []
    run = training.fit(TINY, tiles, 0, settings, verbose=0)
    columns = ["epoch", "loss", "learning_rate"]
    np.testing.assert_allclose(
        run.history()[columns], whole.history()[columns], rtol=1e-4
    )
    for ours, theirs in zip(
        run.model().get_weights(), whole.model().get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_damaged_backup_starts_the_stage_again(finished, tiles, settings, monkeypatch):
    whole, _ = finished
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 3)
        training.fit(TINY, tiles, 0, settings, verbose=0)
    backup = settings.runs_dir / "tiny" / "fold-0" / "work" / "backup"
    (backup / "training_metadata.json").write_text("{")
    run = training.fit(TINY, tiles, 0, settings, verbose=0)
    assert list(run.history()["epoch"]) == [0, 1, 2, 3]
    np.testing.assert_allclose(
        run.history()["loss"], whole.history()["loss"], rtol=1e-4
    )


def test_float16_trains_with_loss_scaling(tiles, settings, monkeypatch):
    """As on a GPU: without it small gradients become zero."""
    optimisers = []

    class Spy(training.EpochOrder):
        def on_train_begin(self, logs=None):
            optimisers.append(self.model.optimizer)

    monkeypatch.setattr(training, "EpochOrder", Spy)
    monkeypatch.setattr(
        training, "choose_precision", lambda system: ("mixed_float16", "as on a GPU")
    )
    run = training.fit(TINY, tiles, 0, settings, verbose=0)
    assert isinstance(optimisers[0], keras.optimizers.LossScaleOptimizer)
    last = run.history()["learning_rate"].iloc[1]  # of the first stage
    assert float(optimisers[0].learning_rate) == pytest.approx(last)


def test_changed_depths_or_losses_are_another_training(finished, tiles, monkeypatch):
    """Depths decide the folds; a loss may be redefined under its name."""
    assert training._fingerprint(tiles) != training._fingerprint(
        replace(tiles, depths=tiles.depths + 1)
    )
    run, settings = finished
    monkeypatch.setitem(training.losses.LOSSES, "bce+dice", training.losses.DiceLoss)
    monkeypatch.setattr(training, "_train", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.fit(TINY, tiles, 0, replace(settings, output_dir=copied(run)))


def copied(run):
    """The output folder of a copy of this run."""
    source = run.folder.parents[2]
    return shutil.copytree(source, source.with_name(source.name + "-copy"))


def test_plateau_stops_when_nothing_is_gained(tiles, settings):
    """A learning rate of zero never gains: it stops after `stopping` epochs."""
    stage = systems.Stage("bce", 9, 0.0, schedule="plateau", patience=1, stopping=2)
    run = training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings, verbose=0)
    assert len(run.history()) == 3


def test_plateau_lowers_the_rate_and_keeps_the_best_weights(
    tiles, settings, monkeypatch
):
    """A network that falls apart after a good epoch is not the one that is kept."""

    class Sabotage(training.EpochOrder):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if epoch == 4:  # from now on everything is salt
                self.model.get_layer("logits").bias.assign([1000.0])

    monkeypatch.setattr(training, "EpochOrder", Sabotage)
    stage = systems.Stage("bce", 7, 0.1, schedule="plateau", patience=1, stopping=8)
    system = replace(TINY, stages=(stage,))
    run = training.fit(system, tiles, 0, settings, verbose=0)
    scores, rates = run.history()["val_score"], run.history()["learning_rate"]
    assert rates.iloc[-1] < rates.iloc[0]
    assert scores.max() > scores.iloc[-1]
    rest = tiles.take(data.make_folds(tiles, seed=settings.seed) != 0)
    _, watched = training._watched(system, rest, None, settings.seed)
    batch = training.TileBatches(watched.images, watched.masks, system.frame, 64)[0]
    score = metrics.CompetitionScore(system.frame)
    score.update_state(batch[1], run.model()(batch[0]))
    assert float(score.result()) == pytest.approx(scores.max())


def test_plateau_keeps_count_across_an_interruption(tiles, settings, monkeypatch):
    """The score does not move: two cuts of the rate, then the end, in nine epochs."""
    stage = systems.Stage("bce", 30, 1e-9, schedule="plateau", patience=3, stopping=8)
    system = replace(TINY, stages=(stage,))
    whole = training.fit(system, tiles, 0, settings, verbose=0).history()
    assert len(whole) == 9 and whole["learning_rate"].nunique() == 3
    again = replace(settings, output_dir=settings.output_dir / "again")
    for epoch in (2, 5):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(patch, epoch)
            training.fit(system, tiles, 0, again, verbose=0)
    resumed = training.fit(system, tiles, 0, again, verbose=0).history()
    columns = ["epoch", "learning_rate"]
    np.testing.assert_allclose(resumed[columns], whole[columns], rtol=1e-5)


def test_tiles_that_choose_the_epoch_are_not_those_reported(tiles):
    folds = data.make_folds(tiles)
    rest, held_out = tiles.take(folds != 0), tiles.take(folds == 0)
    stage = systems.Stage("bce", 9, schedule="plateau")
    system = replace(TINY, stages=(stage,))
    trained, watched = training._watched(system, rest, held_out, seed=0)
    parts = [set(trained.ids), set(watched.ids), set(held_out.ids)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(tiles)


def test_plateau_that_had_stopped_is_not_trained_on(tiles, settings, monkeypatch):
    """Switched off between its last epoch and the end of the stage."""
    stage = systems.Stage("bce", 9, 0.0, schedule="plateau", patience=1, stopping=2)
    system = replace(TINY, stages=(stage,))

    def off(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.Model, "save_weights", saved_but("stage-", off))
        training.fit(system, tiles, 0, settings, verbose=0)
    run = training.fit(system, tiles, 0, settings, verbose=0)
    assert list(run.history()["epoch"]) == [0, 1, 2]


def saved_but(name, instead):
    """`Model.save_weights`, but for files of this name."""
    save = keras.Model.save_weights

    def saving(self, filepath, *args, **kwargs):
        act = instead if name in str(filepath) else save
        return act(self, filepath, *args, **kwargs)

    return saving


def test_wrong_row_leaves_the_finished_run_where_it_is(finished, tiles):
    run, settings = finished
    network = replace(TINY.network, up="nearest")
    with pytest.raises(ValueError, match="up is"):
        training.fit(replace(TINY, network=network), tiles, 0, settings)
    assert (run.folder / "config.json").exists()


def test_another_plan_moves_the_old_run_aside(tiles, settings, capsys):
    first = training.fit(TINY, tiles, 0, settings, verbose=0)
    other = replace(TINY, batch_size=16)
    second = training.fit(other, tiles, 0, settings, verbose=0)
    assert "moved to" in capsys.readouterr().out
    assert second.config["system"]["batch_size"] == 16
    kept = next(second.folder.parent.glob("*-fold-0")) / "config.json"
    assert json.loads(kept.read_text())["system"]["batch_size"] == 8
    assert runs.find_runs(settings.runs_dir) == [first]  # the folder of both


def test_runs_alike_differ_in_the_fold_alone(finished, tiles):
    run, settings = finished
    other = training.fit(TINY, tiles, 2, settings, verbose=0)
    training.fit(replace(TINY, name="else"), tiles, 0, settings, verbose=0)
    assert runs.find_runs(settings.runs_dir, like=run) == [run, other]


GATED = replace(
    TINY,
    name="gated",
    network=systems.Network(filters=4, depth=2, dropout=0.2, gate=True, deep=True),
    stages=(
        systems.Stage("dice+0.2bce", 2, 1e-2, gate=0.1, deep=0.5, weight_decay=1e-4),
        systems.Stage("lovasz-elu", 1, 1e-2, "plateau", gate=0.1, optimizer="rmsprop"),
    ),
    smallest=10,
)


def test_several_outputs_and_losses_in_stages(tiles, settings):
    """The history has the score's plain name, and a loss for each output."""
    run = training.fit(GATED, tiles, 0, settings, verbose=0)
    history = run.history()
    assert {"score", "val_score", "iou", "mask_loss", "gate_loss"} <= set(history)
    total = history["mask_loss"] + 0.1 * history["gate_loss"]
    deep = 0.5 * history["deep_1_loss"]
    np.testing.assert_allclose(history["loss"][:2], (total + deep)[:2], rtol=0.02)
    np.testing.assert_allclose(history["loss"][2:], total[2:], rtol=0.02)
    ids, probabilities = run.validation()
    again = run.predict(tiles.take(np.isin(tiles.ids, ids)).images)
    np.testing.assert_allclose(again, probabilities, atol=0.5 / 255 + 1e-4)


@pytest.mark.parametrize("epoch", [1, 2])
def test_interrupted_training_of_several_outputs(epoch, tiles, settings, monkeypatch):
    apart = replace(settings, output_dir=settings.output_dir / "apart")
    whole = training.fit(GATED, tiles, 0, apart, verbose=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, epoch)
        training.fit(GATED, tiles, 0, settings, verbose=0)
    run = training.fit(GATED, tiles, 0, settings, verbose=0)
    ours, theirs = (r.history().drop(columns="seconds") for r in (run, whole))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_dropout_inside_a_framed_network_is_seeded_too(tiles, settings, monkeypatch):
    """A size that cannot be halved puts a network into a network."""
    system = replace(TINY, frame=systems.Frame(102, "pad"), stages=TINY.stages[:1])
    seeds = []

    class Spy(training.EpochOrder):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            layers = callbacks._all_layers(self.model)
            drop = next(x for x in layers if isinstance(x, keras.layers.Dropout))
            seeds.append(np.array(drop.seed_generator.state)[1])

    monkeypatch.setattr(training, "EpochOrder", Spy)
    training.fit(system, tiles, 0, settings, verbose=0)
    assert seeds == [0, 1]


def test_specks_are_not_trained_on(tiles):
    masks = np.zeros((3, 101, 101), bool)
    masks[1, 0, :9] = masks[2, 0, :10] = True
    three = replace(tiles.take(slice(3)), masks=masks)
    assert list(training._without_specks(three, 10).ids) == list(three.ids[[0, 2]])
    with pytest.raises(ValueError, match="no tiles to train on"):
        training._without_specks(three.take([1]), 10)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (systems.Stage("bce", 1, gate=0.1), "does not have: set Network"),
        (systems.Stage("bce", 1, deep=0.1), "loss of 'deep'"),
        (systems.Stage("bce", 1, optimizer="sgdd"), "unknown optimizer 'sgdd'"),
        (systems.Stage("bced", 1), "unknown loss 'bced'"),
        (systems.Stage("bce", 1, schedule="plataeu"), "'plateau': 'plataeu'"),
    ],
)
def test_row_that_contradicts_itself_is_refused(stage, message, tiles, settings):
    with pytest.raises(ValueError, match=message):
        training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings)
    assert not settings.runs_dir.exists()


def test_fold_that_does_not_exist_is_refused(tiles, settings):
    with pytest.raises(ValueError, match="fold 5 does not exist: 0 to 4"):
        training.fit(TINY, tiles, 5, settings)


def test_loss_that_is_not_a_number_is_an_error(tiles, settings):
    stage = systems.Stage("bce", 2, float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings, verbose=0)
