"""Training: runs on disk, resuming, choosing without looking at the exam."""

import json
import shutil
import signal
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from shapes import labelled

from helpers import config, data, inference, metrics, systems, training
from helpers.training import callbacks, runs, stages

TINY = replace(
    systems.get("salt-net").within(config.Budget(4, size=32)),
    name="tiny",
    network=systems.Network(filters=4, depth=2, dropout=0.2),
    batch_size=8,
)


@pytest.fixture(scope="module")
def tiles():
    return labelled()


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
    begin = callbacks.SeedEpoch.on_epoch_begin

    def off(self, number, logs=None):
        begin(self, number, logs)
        if number == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.SeedEpoch, "on_epoch_begin", off)


@pytest.fixture
def stuck(monkeypatch):
    """A network that calls all of a tile salt, whatever it learns: one score."""

    class Stuck(callbacks.SeedEpoch):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            self.model.get_layer("logits").bias.assign([1000.0])

    monkeypatch.setattr(stages, "SeedEpoch", Stuck)


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
    low, high = run.config["confidence_interval"]
    assert low <= run.score <= high


def test_saved_model_predicts_what_the_run_keeps(finished, tiles):
    run, _ = finished
    ids, probabilities = run.validation()
    held_out = tiles.take(np.isin(tiles.ids, ids))
    again = run.predict(held_out.images)
    np.testing.assert_allclose(again, probabilities, atol=0.5 / 255 + 1e-4)


def test_finished_run_is_read_not_trained_again(finished, tiles, monkeypatch):
    _, settings = finished
    monkeypatch.setattr(stages, "train", None)  # calling it would fail
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
    assert_same(run, whole)


@pytest.mark.parametrize("file", ["state.weights.h5", "state.txt"])
def test_damaged_checkpoint_is_known_and_the_one_before_used(
    file, finished, tiles, settings, monkeypatch, capsys
):
    whole, _ = finished
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 3)
        training.fit(TINY, tiles, 0, settings, verbose=0)
    work = settings.runs_dir / "tiny" / "fold-0" / "work"
    assert {p.name for p in work.iterdir()} == {"plan.json", "epoch-0001", "epoch-0002"}
    content = bytearray((work / "epoch-0002" / file).read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    (work / "epoch-0002" / file).write_bytes(content)
    run = training.fit(TINY, tiles, 0, settings, verbose=0)
    assert "epoch-0002: damaged" in capsys.readouterr().out
    assert_same(run, whole)


def assert_same(run, whole):
    """Two trainings that ended alike, bit for bit."""
    ours, theirs = (r.history().drop(columns="seconds") for r in (run, whole))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    for one, other in zip(run.models(), whole.models(), strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_float16_trains_with_loss_scaling(tiles, settings, monkeypatch):
    """As on a GPU: without it small gradients become zero."""
    optimisers = []

    class Spy(callbacks.SeedEpoch):
        def on_train_begin(self, logs=None):
            optimisers.append(self.model.optimizer)

    monkeypatch.setattr(stages, "SeedEpoch", Spy)
    monkeypatch.setattr(
        training, "choose_precision", lambda: ("mixed_float16", "as on a GPU")
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
    monkeypatch.setattr(stages, "train", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.fit(TINY, tiles, 0, replace(settings, output_dir=copied(run)))


def copied(run):
    """The output folder of a copy of this run."""
    source = run.folder.parents[2]
    return shutil.copytree(source, source.with_name(source.name + "-copy"))


def test_plateau_stops_when_nothing_is_gained(tiles, settings, stuck):
    stage = systems.Stage("bce", 9, 0.0, schedule="plateau", patience=1, stopping=2)
    run = training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings, verbose=0)
    assert len(run.history()) == 3


def test_plateau_lowers_the_rate_and_keeps_the_best_weights(
    tiles, settings, monkeypatch
):
    """A network that falls apart after a good epoch is not the one that is kept."""

    class Sabotage(callbacks.SeedEpoch):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if epoch == 4:  # from now on everything is salt
                self.model.get_layer("logits").bias.assign([1000.0])

    monkeypatch.setattr(stages, "SeedEpoch", Sabotage)
    stage = systems.Stage("bce", 7, 0.1, schedule="plateau", patience=1, stopping=8)
    system = replace(TINY, stages=(stage,))
    run = training.fit(system, tiles, 0, settings, verbose=0)
    scores, rates = run.history()["val_score"], run.history()["learning_rate"]
    assert rates.iloc[-1] < rates.iloc[0]
    assert scores.max() > scores.iloc[-1]
    rest = tiles.take(data.make_folds(tiles, seed=settings.seed) != 0)
    _, watched = training._watched(system, rest, None, settings.seed)
    batch = training.TileBatches(watched.images, watched.masks, system.transform, 64)[0]
    score = metrics.CompetitionScore(system.transform)
    score.update_state(batch[1], run.model()(batch[0]))
    assert float(score.result()) == pytest.approx(scores.max())


def test_plateau_keeps_count_across_an_interruption(
    tiles, settings, stuck, monkeypatch
):
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
    pd.testing.assert_frame_equal(resumed[columns], whole[columns], check_exact=True)


def test_tiles_that_choose_the_epoch_are_not_those_reported(tiles):
    folds = data.make_folds(tiles)
    rest, held_out = tiles.take(folds != 0), tiles.take(folds == 0)
    stage = systems.Stage("bce", 9, schedule="plateau")
    system = replace(TINY, stages=(stage,))
    trained, watched = training._watched(system, rest, held_out, seed=0)
    parts = [set(trained.ids), set(watched.ids), set(held_out.ids)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(tiles)


@pytest.mark.parametrize(
    "stage",
    [
        systems.Stage("bce", 9, 0.0, "plateau", patience=1, stopping=2),
        systems.Stage("bce", 3, 1e-2, average=0.9),
    ],
    ids=["stopped", "averaged"],
)
def test_interrupted_between_the_last_epoch_and_the_end(
    stage, tiles, settings, stuck, monkeypatch
):
    """Nothing is trained again; what counts are the best, or the averaged weights."""
    system = replace(TINY, stages=(stage,))
    apart = replace(settings, output_dir=settings.output_dir / "apart")
    whole = training.fit(system, tiles, 0, apart, verbose=0)
    assert len(whole.history()) == 3  # all, or until it stopped

    def off(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_keep", off)
        training.fit(system, tiles, 0, settings, verbose=0)
    monkeypatch.setattr(keras.Model, "fit", None)  # calling it would fail
    assert_same(training.fit(system, tiles, 0, settings, verbose=0), whole)


def test_wrong_row_leaves_the_finished_run_where_it_is(finished, tiles):
    run, settings = finished
    network = replace(TINY.network, upsampling="nearest")
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
    network=systems.Network(
        filters=4, depth=2, dropout=0.2, gate=True, deep_supervision=True
    ),
    stages=(
        systems.Stage(
            "dice+0.2bce", 2, 1e-2, gate=0.1, deep_supervision=0.5, weight_decay=1e-4
        ),
        systems.Stage("lovasz-elu", 1, 1e-2, "plateau", gate=0.1, optimizer="rmsprop"),
    ),
    min_mask_size=10,
)


def test_several_outputs_and_losses_in_stages(tiles, settings):
    """The history has the score's plain name, and a loss for each output."""
    run = training.fit(GATED, tiles, 0, settings, verbose=0)
    history = run.history()
    assert {"score", "val_score", "iou", "mask_loss", "gate_loss"} <= set(history)
    total = history["mask_loss"] + 0.1 * history["gate_loss"]
    deep_supervision = 0.5 * history["deep_1_loss"]
    np.testing.assert_allclose(
        history["loss"][:2], (total + deep_supervision)[:2], rtol=0.02
    )
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
    assert_same(run, whole)


def test_dropout_inside_a_framed_network_is_seeded_too(tiles, settings, monkeypatch):
    """A size that cannot be halved puts a network into a network."""
    system = replace(
        TINY, transform=systems.ResizeOrPad(102, "pad"), stages=TINY.stages[:1]
    )
    seeds = []

    class Spy(callbacks.SeedEpoch):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            layers = callbacks.all_layers(self.model)
            drop = next(x for x in layers if isinstance(x, keras.layers.Dropout))
            seeds.append(np.array(drop.seed_generator.state)[1])

    monkeypatch.setattr(stages, "SeedEpoch", Spy)
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
        (systems.Stage("bce", 1, deep_supervision=0.1), "loss of 'deep_supervision'"),
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


def test_stop_after_the_epoch_loses_nothing(finished, tiles, settings, capsys):
    """Asked in the middle of epoch 1: it is finished and kept; later it goes on."""
    whole, _ = finished

    def ask(history):
        if len(history) == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(training.Stopped, match="the same call goes on"):
        training.fit(TINY, tiles, 0, settings, verbose=0, show=ask)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this epoch" in capsys.readouterr().out
    history = pd.read_csv(settings.runs_dir / "tiny" / "fold-0" / "history.csv")
    assert len(history) in (1, 2)  # as the signal came before or after the check
    capsys.readouterr()
    assert_same(training.fit(TINY, tiles, 0, settings, verbose=0), whole)
    assert f"going on after epoch {len(history)}\n" in capsys.readouterr().out


def test_second_request_stops_at_once():
    with callbacks.StopAfterEpoch() as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        signal.raise_signal(signal.SIGINT)


def test_snapshots_before_restarts_predict_together(tiles, settings):
    stage = systems.Stage("bce+dice", 4, 1e-2, restarts=1)
    run = training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings, verbose=0)
    names = {file.name for file in run.folder.glob("*.keras")}
    assert names == {"model.keras", "snapshot-0001.keras"}
    last, first = run.models()
    assert np.abs(last.get_weights()[0] - first.get_weights()[0]).max() > 0
    ids, kept = run.validation()
    images = tiles.take(np.isin(tiles.ids, ids)).images
    alone = [inference.predict(model, images, run.transform) for model in (last, first)]
    np.testing.assert_allclose(run.predict(images), np.mean(alone, axis=0), atol=1e-6)
    np.testing.assert_allclose(kept, np.mean(alone, axis=0), atol=0.5 / 255 + 1e-4)


def test_averaged_weights_are_the_ones_examined_and_kept(tiles, settings):
    """A mean with a share of 1 stays where the first step began it."""
    weights = []
    for epochs in (1, 2):
        stage = systems.Stage("bce+dice", epochs, 1e-2, warm_up=0, average=1.0)
        system = replace(TINY, name=f"mean-{epochs}", stages=(stage,))
        run = training.fit(system, tiles, 0, settings, verbose=0)
        weights.append([np.array(w) for w in run.model().trainable_weights])
    for one, two in zip(*weights, strict=True):  # Keras swaps them by adding: rounded
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert run.history()["loss"].nunique() == 2  # but it is trained all the same


def test_clipped_gradients_are_no_longer_than_that(tiles, settings):
    """With plain steps the weights move by the rate times the gradient."""
    stage = systems.Stage("bce", 1, 1.0, "plateau", optimizer="sgd", clip=1e-6)
    system = replace(TINY, stages=(stage,), batch_size=64)
    run = training.fit(system, tiles, 0, settings, verbose=0)
    fresh = training.build_model(system, run.config["precision"], settings.seed)
    pairs = zip(run.model().trainable_weights, fresh.trainable_weights, strict=True)
    moved = np.sqrt(sum(np.sum((np.array(a) - np.array(b)) ** 2) for a, b in pairs))
    assert 0 < moved <= 2e-6  # one step; Nesterov's momentum looks one ahead


@pytest.mark.parametrize("optimizer", stages.OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(optimizer, tiles, settings):
    rate = 0.05 if optimizer == "sgd" else 1e-2
    stage = systems.Stage("bce", 5, rate, optimizer=optimizer, weight_decay=1e-4)
    run = training.fit(replace(TINY, stages=(stage,)), tiles, 0, settings, verbose=0)
    loss = run.history()["loss"]
    assert loss.iloc[-1] < 0.9 * loss.iloc[0]


def test_run_is_copied_and_brought_back(finished, tiles, settings, monkeypatch, capsys):
    """The machine is taken away after epoch 2, its disk with it."""
    whole, _ = finished
    drive = settings.output_dir / "drive"
    drive.mkdir()
    here = replace(settings, output_dir=settings.output_dir / "here", copy_dir=drive)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 3)
        training.fit(TINY, tiles, 0, here, verbose=0)
    shutil.rmtree(here.output_dir)
    run = training.fit(TINY, tiles, 0, here, verbose=0)
    assert "brought back" in capsys.readouterr().out
    assert_same(run, whole)
    copied = drive / "runs" / "tiny" / "fold-0"
    assert {p.name for p in copied.iterdir()} == {p.name for p in run.folder.iterdir()}
    shutil.rmtree(here.output_dir)
    monkeypatch.setattr(stages, "train", None)  # calling it would fail
    assert_same(training.fit(TINY, tiles, 0, here, verbose=0), whole)


def test_vanished_disk_of_copies_is_a_warning(finished, tiles, settings, capsys):
    whole, _ = finished
    drive = settings.output_dir / "drive"
    drive.mkdir()

    def unmount(history):
        if len(history) == 2:
            shutil.rmtree(drive)

    lasting = replace(settings, copy_dir=drive)
    run = training.fit(TINY, tiles, 0, lasting, verbose=0, show=unmount)
    assert f"warning: no copy in {drive}" in capsys.readouterr().out
    assert not drive.exists()
    assert_same(run, whole)


def test_estimate_is_one_line_and_grows_with_the_work(
    finished, tiles, monkeypatch, capsys
):
    _, settings = finished
    assert training.estimate([TINY], tiles, settings) == 0.0
    assert capsys.readouterr().out == "nothing to train: the runs are there\n"
    monkeypatch.setattr(training, "seconds_per_tile", lambda *_: 0.5)
    one = replace(TINY, name="one")
    seconds = training.estimate([one], tiles, settings)
    epoch, (weights, _) = 0.5 * (3 * 32 + one.watched), training.size_up(one)
    moves = training.MOVE * -(-32 // one.batch_size) * weights
    assert seconds == training.START + (epoch + moves) * one.epochs
    monkeypatch.setattr(training, "accelerator", lambda: "gpu:0")
    fast = training.expected(one, tiles)
    assert fast == training.START + epoch * one.epochs < seconds
    monkeypatch.setattr(training, "accelerator", lambda: "")
    assert capsys.readouterr().out.startswith("one: about ")
    assert training.estimate([TINY, one, one], tiles, settings) == 2 * seconds
    assert capsys.readouterr().out.startswith("2 trainings: about ")
