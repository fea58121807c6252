"""Tasks on Dask's workers give what they give in one process, whoever is killed."""

import os
import signal
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from survey import write_survey
from tiny import TINY, assert_same, smoke

from helpers import __main__ as main
from helpers import training
from helpers.training import callbacks
from helpers.utils import segy, workers
from helpers.utils.files import DataError

slow = pytest.mark.slow


def test_without_a_scheduler_tasks_are_done_here_in_order_when_asked_for():
    done = []
    results = workers.run_tasks(done.append, [3, 1, 2])
    assert done == []
    assert [next(results), done] == [None, [3]]
    assert [*results] == [None, None] and done == [3, 1, 2]


def test_without_dask_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DataError, match=r'pip install "dask\[distributed\]"'):
        [*workers.run_tasks(abs, [1], "local")]


def test_train_takes_several_folds(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SALT_PROFILE", "smoke")
    monkeypatch.setenv("SALT_DATA_DIR", "synthetic")
    monkeypatch.setenv("SALT_OUTPUT_DIR", str(tmp_path / "out"))
    monkeypatch.setattr(workers, "load_tiles", lambda settings: None)
    monkeypatch.setattr(training, "estimate", lambda *args: 0.0)
    monkeypatch.setattr(training, "fit", told)
    assert main.main(["train", "salt-net", "--fold", "0", "3"]) == 0
    out = capsys.readouterr().out
    assert "salt-net/0: score 0.5" in out and "salt-net/3: score 0.5" in out
    with pytest.raises(SystemExit):
        main.main(["train", "salt-net", "--fold", "0", "5"])
    assert "must be 0 to 4, not 5" in capsys.readouterr().err


def told(system, tiles, fold, *_):
    """In place of training."""
    return SimpleNamespace(name=f"{system.name}/{fold}", score=0.5, folder="there")


def die_once(marker):
    """As if the machine that this worker runs on were switched off."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def mark_or_die(marker, mark, *args):
    if args[-1] == 3:
        die_once(marker)
    return mark(*args)


def fit_or_die(marker, settings, verbose, task):
    """The worker of fold 1 dies in its third epoch."""
    begin = callbacks.SeedEpoch.on_epoch_begin

    def dies(self, epoch, logs=None):
        begin(self, epoch, logs)
        if task[1] == 1 and epoch == 2:
            die_once(marker)

    callbacks.SeedEpoch.on_epoch_begin = dies
    try:
        return workers.fit(settings, verbose, task)
    finally:
        callbacks.SeedEpoch.on_epoch_begin = begin


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = smoke(tmp_path_factory.mktemp("run"))
    return training.fit(TINY, workers.load_tiles(settings), 0, settings, verbose=0)


@slow
def test_a_killed_worker_changes_nothing_in_a_survey(run, tmp_path, monkeypatch):
    files = tmp_path / "in.sgy", tmp_path / "truth.sgy"
    write_survey(*files, inlines=8)
    mark = partial(segy.mark_survey, files[0], run=str(run.folder))
    mark(tmp_path / "one.sgy")
    marker = tmp_path / "died"
    monkeypatch.setattr(segy, "_mark", partial(mark_or_die, marker, segy._mark))
    mark(tmp_path / "two.sgy", scheduler="local:2")
    assert marker.exists()
    assert (tmp_path / "two.sgy").read_bytes() == (tmp_path / "one.sgy").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@slow
def test_a_killed_worker_changes_nothing_in_training(tmp_path):
    """Two workers: with other numbers of threads, sums are rounded otherwise."""
    whole, killed = (smoke(tmp_path / name) for name in ("whole", "killed"))
    workers.load_tiles(whole), workers.load_tiles(killed)  # writes synthetic tiles
    tasks, die = [(TINY, 0), (TINY, 1)], partial(fit_or_die, tmp_path / "died")
    one = workers.run_tasks(partial(workers.fit, whole, 0), tasks, "local:2")
    two = workers.run_tasks(partial(die, killed, 0), tasks, "local:2")
    pairs = zip(*(sorted(x, key=lambda r: r.name) for x in (one, two)), strict=True)
    for intact, resumed in pairs:
        assert intact.name == resumed.name and intact.folder != resumed.folder
        assert_same(resumed, intact)
    assert (tmp_path / "died").exists()


@slow
def test_the_error_of_a_task_is_told(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        [*workers.run_tasks(fail, ["nowhere"], "local:1")]


def fail(text):
    raise DataError(text)
