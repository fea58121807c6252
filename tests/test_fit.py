"""`training.fit`: what a run holds, how it is resumed, when it is another one."""

import importlib
import json
import os
import re
import resource
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from tiny import TINY, assert_same, at_epoch_begin, interrupt_at, smoke

from helpers import data, losses, metrics, systems, training
from helpers.training import callbacks, checkpoints, runs, stages, timing
from helpers.utils import files
from helpers.utils.files import DataError

eager, settings, tiles = tiny.eager, tiny.settings, tiny.tiles  # fixtures
fitting = importlib.import_module("helpers.training.fit")  # the name is the function's
pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def finished(eager, tiles, tmp_path_factory):
    """One run, trained once, that many tests look at."""
    settings = smoke(tmp_path_factory.mktemp("finished"))
    return training.fit(TINY, tiles, 0, settings, verbose=0), settings


def copied(run, folder):
    """Settings whose output folder is a copy of that of this run."""
    shutil.copytree(run.folder.parents[2], folder, dirs_exist_ok=True)
    return smoke(folder)


def no_training(monkeypatch):
    monkeypatch.setattr(stages, "train", lambda *_: 1 / 0)


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
    images = tiles.take(np.isin(tiles.ids, ids)).images
    np.testing.assert_allclose(
        run.predict(images), probabilities, atol=0.5 / 255 + 1e-4
    )


def test_finished_run_is_read_not_trained_again(finished, tiles, monkeypatch, capsys):
    run, settings = finished
    no_training(monkeypatch)
    assert training.fit(TINY, tiles, 0, settings) == run
    assert "read from its run" in capsys.readouterr().out


@pytest.mark.parametrize("epoch", [1, 3])  # in the first stage, in the second
def test_interrupted_run_ends_as_if_it_had_not_been(
    epoch, finished, tiles, settings, monkeypatch, capsys
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, epoch)
        training.fit(TINY, tiles, 0, settings, verbose=0)
    assert runs.find_runs(settings.runs_dir) == []
    assert_same(training.fit(TINY, tiles, 0, settings, verbose=0), finished[0])
    assert f"resuming after epoch {epoch}" in capsys.readouterr().out


def test_while_it_trains_its_progress_can_be_read(tiles, settings):
    """As `python -m helpers` and the panel do, from another process."""
    folder, seen = settings.runs_dir / "tiny" / "fold-0", []

    def look(history):
        plan = json.loads((folder / "work" / "plan.json").read_text())
        epochs = sum(stage["epochs"] for stage in plan["system"]["stages"])
        seen.append((len(pd.read_csv(folder / "history.csv")), len(history), epochs))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(TINY, tiles, 0, settings, verbose=0, show=look)
    assert seen == [(1, 1, 4), (2, 2, 4)]


def test_unreadable_checkpoint_is_reported_and_the_one_before_used(
    finished, tiles, settings, monkeypatch, capsys
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 3)
        training.fit(TINY, tiles, 0, settings, verbose=0)
    work = settings.runs_dir / "tiny" / "fold-0" / "work"
    assert {p.name for p in work.iterdir()} == {"plan.json", "epoch-0001", "epoch-0002"}
    weights = work / "epoch-0002" / "state.npz"
    weights.write_bytes(weights.read_bytes()[:-100])
    run = training.fit(TINY, tiles, 0, settings, verbose=0)
    assert "epoch-0002: cannot be read" in capsys.readouterr().out
    assert_same(run, finished[0])


def test_run_goes_on_in_the_number_format_in_which_it_was_begun(
    tiles, settings, monkeypatch
):
    """Begun on a GPU, resumed on a CPU that would have chosen another format."""
    short = replace(TINY, stages=(systems.Stage("bce", 2),))
    monkeypatch.setattr(timing, "choose_precision", lambda *_: "mixed_float16")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 1)
        training.fit(short, tiles, 0, settings, verbose=0)
    monkeypatch.setattr(timing, "choose_precision", lambda *_: "float32")
    run = training.fit(short, tiles, 0, settings, verbose=0)
    assert run.config["precision"] == "mixed_float16" and len(run.history()) == 2
    policies = {layer.dtype_policy.name for layer in run.model().layers}
    assert "mixed_float16" in policies


def test_changed_depths_or_losses_are_another_run(finished, tiles, monkeypatch):
    """Depths decide the folds; a loss may be redefined under its name."""
    _, settings = finished
    assert runs.look_up(TINY, tiles, 0, settings)[2] == "finished"
    deeper = replace(tiles, depths=tiles.depths + 1)
    assert runs.look_up(TINY, deeper, 0, settings)[2] == "made with other settings"
    monkeypatch.setitem(losses.LOSSES, "bce+dice", losses.DiceLoss)
    assert runs.look_up(TINY, tiles, 0, settings)[2] == "made with other settings"


def test_another_run_is_moved_aside(finished, tiles, tmp_path, monkeypatch, capsys):
    run, _ = finished
    settings = copied(run, tmp_path)
    no_training(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        training.fit(replace(TINY, batch_size=16), tiles, 0, settings, verbose=0)
    assert "made with other settings, moved to" in capsys.readouterr().out
    (aside,) = settings.runs_dir.glob("tiny/*-fold-0")
    assert json.loads((aside / "config.json").read_text()) == run.config
    plan = settings.runs_dir / "tiny" / "fold-0" / "work" / "plan.json"
    assert json.loads(plan.read_text())["system"]["batch_size"] == 16


def test_run_that_was_moved_aside_is_found_again(finished, tiles, tmp_path, capsys):
    """Settings A, which are finished, then B, which is only begun, A, and B again."""
    run, _ = finished
    settings = copied(run, tmp_path)
    home, other = settings.runs_dir / "tiny" / "fold-0", replace(TINY, batch_size=16)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 1)
        training.fit(other, tiles, 0, settings, verbose=0)
    assert runs.look_up(TINY, tiles, 0, settings)[2] == "finished"
    capsys.readouterr()
    again = training.fit(TINY, tiles, 0, settings, verbose=0)
    assert again.folder == home and again.config == run.config
    assert "made with other settings, moved to " in (said := capsys.readouterr().out)
    assert "fold-0: moved back from " in said
    assert runs.look_up(other, tiles, 0, settings)[2] == "begun"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        no_training(patch)
        training.fit(other, tiles, 0, settings, verbose=0)
    assert "resuming after epoch 1 in" in capsys.readouterr().out
    plan = json.loads((home / "work" / "plan.json").read_text())
    assert plan["system"]["batch_size"] == 16
    assert len([*home.parent.iterdir()]) == 2  # and no lock


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", b""), ("validation.npz", b"PK"), ("work/plan.json", b'{"ver')],
)
def test_damaged_run_is_moved_aside(
    name, content, finished, tiles, tmp_path, monkeypatch, capsys
):
    settings = copied(finished[0], tmp_path)
    home = settings.runs_dir / "tiny" / "fold-0"
    if "work" in name:
        (home / "config.json").unlink()
        (home / "work").mkdir()
    (home / name).write_bytes(content)
    no_training(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        training.fit(TINY, tiles, 0, settings, verbose=0)
    assert re.search(rf"unusable \(.*{name}: .*\), moved to", capsys.readouterr().out)


def test_second_process_is_told_who_trains_the_run(tiles, settings):
    path = settings.runs_dir / "tiny" / "fold-0.lock"
    message = rf"fold-0: being trained by process {os.getpid()} on .* since .*: wait"
    with files.lock(path), pytest.raises(DataError, match=message):
        training.fit(TINY, tiles, 0, settings)
    assert not [*settings.runs_dir.glob("*/*")]


@pytest.mark.parametrize("fault", ["no room", "failing writes"])
def test_full_disk_at_a_checkpoint_is_an_error_that_leaves_what_was_finished(
    fault, tiles, settings, monkeypatch
):
    """A limit on the size of files fails in the middle of a write, as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(model, epoch):
        if epoch and fault == "no room":
            room = SimpleNamespace(free=10_000)
            monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
        elif epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    at_epoch_begin(monkeypatch, fill)
    why = "needs .* MB, 0.0 MB are free" if fault == "no room" else "File too large"
    try:
        message = (
            rf"epoch-0001: cannot be written \(.*{why}.*\): mount or free the disk"
        )
        with pytest.raises(DataError, match=message):
            training.fit(TINY, tiles, 0, settings, verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run = settings.runs_dir / "tiny" / "fold-0"
    names = {path.name for path in (run / "work").iterdir()}
    assert names == {"plan.json", "epoch-0000"}
    assert [*run.parent.iterdir()] == [run]
    assert len(checkpoints.Checkpoints(run).history) == 1


def test_room_is_checked_before_the_training(tiles, settings, monkeypatch):
    no_training(monkeypatch)
    monkeypatch.setattr(timing, "choose_precision", lambda *_: "float32")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(
        DataError, match=r"plan.json: cannot be written \(needs 0\.\d MB"
    ):
        training.fit(TINY, tiles, 0, settings, verbose=0)


@pytest.mark.parametrize("name", ["config.json", "work/plan.json"])
def test_run_of_another_version_is_moved_aside(
    name, tiles, settings, monkeypatch, capsys
):
    file = settings.runs_dir / "tiny" / "fold-0" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 5, "system": {"flips": true}}')
    no_training(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        training.fit(TINY, tiles, 0, settings, verbose=0)
    words = "made by another version of helpers|made with other settings"
    assert re.search(rf"({words}).*, moved to", capsys.readouterr().out)


def test_wrong_row_leaves_the_finished_run_where_it_is(finished, tiles):
    run, settings = finished
    network = replace(TINY.network, upsampling="nearest")
    with pytest.raises(ValueError, match="upsampling"):
        training.fit(replace(TINY, network=network), tiles, 0, settings)
    assert (run.folder / "config.json").exists()


def test_tiles_that_choose_the_epoch_are_not_those_reported(tiles):
    folds = data.make_folds(tiles)
    rest, held_out = tiles.take(folds != 0), tiles.take(folds == 0)
    system = replace(TINY, stages=(systems.Stage("bce", 9, schedule="plateau"),))
    parts = [*fitting._split(system, rest, held_out, seed=0), held_out]
    ids = [set(part.ids) for part in parts]
    assert sum(map(len, ids)) == len(set.union(*ids)) == len(tiles)
    trained, validation = fitting._split(TINY, rest, held_out, seed=0)
    assert set(trained.ids) == set(rest.ids)
    assert set(validation.ids) == set(held_out.ids)


def test_small_masks_are_not_trained_on(tiles):
    masks = np.zeros((3, 101, 101), bool)
    masks[1, 0, :9] = masks[2, 0, :10] = True
    three = replace(tiles.take(slice(3)), masks=masks)
    system = replace(TINY, min_mask_size=10)
    trained, _ = fitting._split(system, three, three, seed=0)
    assert set(trained.ids) == set(three.ids[[0, 2]])
    with pytest.raises(ValueError, match="no tiles to train on"):
        fitting._split(system, three.take([1]), three, seed=0)


def test_fold_that_does_not_exist_is_refused(tiles, settings):
    with pytest.raises(ValueError, match="fold 5 does not exist: 0 to 4"):
        training.fit(TINY, tiles, 5, settings)
    assert not settings.runs_dir.exists()


def test_stop_after_the_epoch_loses_nothing(finished, tiles, settings, capsys):
    """Asked in the middle of epoch 1: it is finished and kept; later it goes on."""

    def ask(history):
        if len(history) == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(training.Stopped, match="the same call resumes"):
        training.fit(TINY, tiles, 0, settings, verbose=0, show=ask)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this epoch" in capsys.readouterr().out
    history = pd.read_csv(settings.runs_dir / "tiny" / "fold-0" / "history.csv")
    assert len(history) in (1, 2)  # as the signal came before or after the check
    assert_same(training.fit(TINY, tiles, 0, settings, verbose=0), finished[0])
    assert f"resuming after epoch {len(history)} in" in capsys.readouterr().out


def test_second_request_stops_at_once():
    with callbacks.StopAfterEpoch() as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        signal.raise_signal(signal.SIGINT)
