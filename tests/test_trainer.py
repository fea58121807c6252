"""Training from the panel: a process of its own, watched, stopped, found again."""

import os
import subprocess
import sys
import time

import pytest
from pretend import labelled, pretend

from helpers import config, systems
from helpers.panel import tabs, trainer
from helpers.training.runs import Run
from helpers.utils.files import DataError


@pytest.fixture
def settings(tmp_path):
    return config.Settings("synthetic", tmp_path, config.PROFILES["smoke"])


@pytest.fixture
def panel(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "EVERY", 0.05)
    tiles = labelled(60)
    panel = tabs.compare(pretend(tmp_path / "pretended", tiles), tiles, settings)
    panel.tabs.selected_index = 3
    return panel


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def small(panel):
    """The quickest choice of the menus."""
    tab = panel.parts[3]
    tab.encoder.value, tab.size.value = "scratch", 64
    tab.epochs.value, tab.tiles.value = 2, 8
    return tab


def test_menus_make_a_row_and_say_what_it_costs(panel):
    tab = small(panel)
    assert "my-scratch-bce-64px-2x8" in tab.told.value and "about" in tab.told.value
    plain = tab.told.value
    tab.parts.value = ("residual", "scse", "gate", "deep_supervision", "hypercolumn")
    tab.loss.value = "bce+dice"
    assert tab.told.value != plain and "half a minute to start" in plain
    row = tab.system
    assert set(row.name.split("-")) >= {
        "scse",
        "gate",
        "deep_supervision",
        "hypercolumn",
    }
    assert row.network.scse and row.network.hypercolumn == (4, 8)
    assert row.stages[0].gate == row.stages[0].deep == 0.1
    assert row.epochs == 2 and row.tiles == 8 and row.transform.size == 64


def test_scratch_encoder_has_nothing_to_borrow(panel):
    tab = small(panel)
    tab.weights.value = "imagenet"
    assert tab.start.disabled and "no weights to borrow" in tab.told.value
    tab.encoder.value = "vgg16"
    assert not tab.start.disabled and "imagenet-64px-2x8" in tab.told.value


def test_combination_that_cannot_be_built_cannot_be_started(panel, monkeypatch):
    tab = small(panel)

    def refuse(system):
        raise ValueError("numbers that fit no stage")

    monkeypatch.setattr(trainer.training, "size_up", refuse)
    tab.parts.value = ("scse",)
    assert tab.start.disabled and "fit no stage" in tab.told.value
    monkeypatch.undo()
    tab.parts.value = ()
    assert not tab.start.disabled


def test_training_started_here_joins_the_comparison(panel, settings):
    """The tiles of the panel are not the process's: its run is compared on ids."""
    tab = small(panel)
    added = []
    panel.add = added.append
    tab.start.click()
    assert tab.start.disabled and not tab.stop.disabled
    wait(lambda: tab.job is None)
    assert [run.name for run in added] == ["my-scratch-bce-64px-2x8/fold-0"]
    assert "score" in tab.state.value
    assert not list(settings.output_dir.glob("rows/*.pid"))
    assert bytes(tab.picture.value).startswith(b"\x89PNG")
    assert tab.stop.disabled and not tab.start.disabled
    run = Run(settings.runs_dir / "my-scratch-bce-64px-2x8" / "fold-0")
    assert list(run.history()["epoch"]) == [0, 1]
    assert systems.read(run.folder / "config.json") == tab.system


def test_training_is_stopped_after_an_epoch_and_found_by_a_new_panel(panel, settings):
    tab = small(panel)
    tab.epochs.value = 400
    tab.start.click()
    job = tab.job
    wait(lambda: job.history() is not None)
    (again,) = trainer.Job.alive(settings)  # as a new kernel would find it
    assert again.name == job.name and again.is_alive()
    tab.stop.click()
    wait(lambda: tab.job is None)
    assert 1 <= len(job.history()) < 400 and not job.is_finished()
    assert "train it again to go on" in tab.state.value
    assert "the same call goes on" in job.last_words()
    assert trainer.Job.alive(settings) == []


def test_process_that_fails_says_why(panel, monkeypatch):
    tab = small(panel)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    tab.start.click()
    wait(lambda: tab.job is None)
    assert "has ended before its time" in tab.state.value


def test_number_of_another_process_is_not_taken_for_a_training(panel, settings):
    row = small(panel).system
    path = settings.output_dir / "rows" / f"{row.name}.json"
    systems.write(row, path)
    call = [sys.executable, "-c", "import time; time.sleep(60)"]
    for number, more in enumerate(([], [str(path)])):
        with subprocess.Popen([*call, *more]) as other:
            try:
                path.with_suffix(".pid").write_text(str(other.pid))
                job = trainer.Job(path, settings)
                assert job.is_alive() == bool(number)
                assert len(trainer.Job.alive(settings)) == number
                if number:  # it is ours, but its run is complete
                    job.folder.mkdir(parents=True)
                    (job.folder / "config.json").touch()
                    assert not job.is_alive() and not trainer.Job.alive(settings)
                job.stop()
                if number:
                    other.wait(30)
                else:
                    time.sleep(0.3)
                    assert other.poll() is None
            finally:
                other.kill()
    for text in ("", "-1", str(os.getpid())):
        path.with_suffix(".pid").write_text(text)
        job.stop()  # nobody
    path.write_text("[]")  # a row that cannot be read is not at work either
    assert trainer.Job.alive(settings) == []


def test_parts_are_explained(panel):
    (told,) = [child.value for child in panel.parts[3].box.children
               if "Ctrl-click" in getattr(child, "value", "")]  # fmt: skip
    assert all(f"<b>{name}</b>: " in told for name in trainer.PARTS)


def test_row_is_written_and_read(tmp_path, panel):
    row = small(panel).system
    systems.write(row, tmp_path / "row.json")
    assert systems.read(tmp_path / "row.json") == row
    for text in ("", "[]", '{"system": {}}', '{"name": "x", "stages": 1}'):
        (tmp_path / "row.json").write_text(text)
        with pytest.raises(DataError, match=r"row\.json: no row of a system"):
            systems.read(tmp_path / "row.json")
    with pytest.raises(DataError, match=r"none\.json: no row"):
        systems.read(tmp_path / "none.json")
