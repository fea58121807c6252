"""Training from the panel in another process: followed, stopped, resumed."""

import sys
import time
from types import SimpleNamespace

import pytest
from pretend import labelled, pretend

from helpers import config, systems
from helpers.panel import trainer
from helpers.training import plans
from helpers.training.runs import Run
from helpers.utils.files import DataError

STAND_IN = """#!{python}
import shutil, sys, time
from pathlib import Path

row = Path(sys.argv[4])
options = dict(zip(sys.argv[5::2], sys.argv[6::2]))
assert options["--data-dir"] == "synthetic" and options["--profile"] == "smoke"
folder = Path(options["--output-dir"], "runs", row.stem, "fold-0")
folder.mkdir(parents=True)
shutil.copy(Path({run!r}, "history.csv"), row.with_suffix(".csv"))
row.with_suffix(".csv").replace(folder / "history.csv")
print("epoch 6 of 6", flush=True)
{then}
"""
FINISH = """
while not (folder / "go").exists():
    time.sleep(0.05)
shutil.copy(Path({run!r}, "config.json"), folder)
print("finished")
"""
HANG = "time.sleep(60)"
KILLED = r"""
import os, signal
bar = "Epoch 1/3\n\x1b[1m1/4\x1b[0m \x1b[32m━━━\x1b[0m 9s\x08\x08\r 2/4"
print(bar, end="", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
HALF_WRITTEN = """
whole = (folder / "history.csv").read_text()
for text in ("", "ep", "epoch,loss\\n0,", "epoch,loss\\n0,0.1,2,3,4", whole):
    (folder / "history.csv").write_text(text)
    time.sleep(0.2)
time.sleep(60)
"""
FAIL = """print("error: <b> is no encoder")
sys.exit(1)"""


@pytest.fixture
def settings(tmp_path):
    return config.Settings("synthetic", tmp_path, config.PROFILES["smoke"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    (run,) = pretend(tmp_path_factory.mktemp("runs"), labelled(10), ("sharp",))
    return run


@pytest.fixture
def tab(settings, monkeypatch):
    """The tab, and in `tab.added` the runs that it has finished."""
    quick = SimpleNamespace(sleep=lambda _: time.sleep(0.05))
    monkeypatch.setattr(trainer, "time", quick)
    added = []
    tab = trainer.Trainer(settings, added.append)
    tab.added = added
    yield tab
    if tab.process:
        tab.process.kill()


@pytest.fixture
def stand_in(tmp_path, monkeypatch, run):
    """Replace the training process with a quick script that ends with `then`."""

    def replace(then):
        script = tmp_path / "stand_in"
        folder = str(run.folder)
        then = then.format(run=folder)
        text = STAND_IN.format(python=sys.executable, run=folder, then=then)
        script.write_text(text)
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return replace


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_menus_make_a_row(tab):
    assert tab.system.name == "my-scratch-none-bce-3ep"
    menus = tab.menus
    menus["loss"].value, menus["encoder"].value = "bce+dice", "vgg16"
    menus["weights"].value, menus["epochs"].value = "imagenet", 4
    row = tab.system
    assert row.name == "my-vgg16-imagenet-bce+dice-4ep"
    assert row.network == systems.Network("vgg16", "imagenet")
    assert row.epochs == 4 and row.stages[0].loss == "bce+dice"
    assert row.tiles == 32 and row.transform.size == 64  # the profile's
    assert row.augmentation == systems.get(systems.DEFAULT).augmentation


def test_finished_training_is_added(tab, stand_in, settings):
    stand_in(FINISH)
    folder = settings.runs_dir / tab.system.name / "fold-0"
    tab.train.click()
    wait(lambda: tab.image.value)
    assert "epoch 6 of 6" in tab.state.value
    assert tab.process and bytes(tab.image.value).startswith(b"\x89PNG")
    (folder / "go").touch()
    wait(lambda: not tab.process)
    assert tab.added == [Run(folder)]
    assert tab.added[0].score > 0.5 and "finished" in tab.state.value
    assert not tab.note.value


def test_one_system_is_trained_at_a_time(tab, stand_in):
    stand_in(HANG)
    tab.train.click()
    first = tab.process
    tab.menus["epochs"].value = 2
    tab.train.click()
    assert "a system is being trained: wait for it, or stop it" in tab.note.value
    assert tab.process is first


def test_training_can_be_stopped(tab, stand_in):
    tab.stop.click()
    assert "nothing is being trained" in tab.note.value
    stand_in(HANG)
    tab.train.click()
    wait(lambda: tab.image.value)
    tab.stop.click()
    wait(lambda: not tab.process)
    assert "ended, -15; train it again to go on" in tab.state.value and not tab.added
    assert not tab.note.value


def test_progress_bars_of_a_killed_training_are_not_shown(tab, stand_in):
    stand_in(KILLED)
    tab.train.click()
    wait(lambda: not tab.process)
    assert tab.state.value.isprintable() and "1/4" not in tab.state.value
    assert "ended, -9; train it again to go on" in tab.state.value


def test_history_that_is_half_written_is_drawn_when_it_is_whole(tab, stand_in):
    stand_in(HALF_WRITTEN)
    tab.train.click()
    wait(lambda: tab.image.value)
    tab.stop.click()
    wait(lambda: not tab.process)
    assert not tab.note.value


@pytest.mark.parametrize("name", ["rows", "rows/{}.log"])
def test_folder_that_cannot_be_written_is_a_sentence(tab, settings, name):
    path = settings.output_dir / name.format(tab.system.name)
    if name == "rows":
        path.write_text("")
    else:
        path.mkdir(parents=True)
    tab.train.click()
    assert not tab.process and str(path) in tab.note.value


@pytest.mark.parametrize(
    ("then", "said"),
    [(FAIL, "error: &lt;b&gt; is no encoder"), ("sys.exit(3)", "epoch 6 of 6")],
)
def test_process_that_fails_says_why(tab, stand_in, then, said):
    stand_in(then)
    tab.train.click()
    wait(lambda: not tab.process)
    assert said in tab.state.value and not tab.added


def test_log_that_is_gone_is_a_sentence(tab, stand_in, settings):
    stand_in("row.with_suffix('.log').unlink()")
    tab.train.click()
    wait(lambda: not tab.process)
    assert ".log" in tab.note.value and not tab.added


def test_run_that_cannot_join_is_a_sentence(tab, stand_in, settings):
    def refuse(run):
        raise DataError(f"{run.folder}: <b>damaged</b>")

    stand_in("")
    tab.add = refuse
    tab.train.click()
    wait(lambda: tab.note.value)
    assert "fold-0: &lt;b&gt;damaged&lt;/b&gt;" in tab.note.value


@pytest.mark.slow
def test_real_training_is_stopped_and_goes_on(tab, settings):
    tab.menus["epochs"].value = 400
    run = Run(settings.runs_dir / tab.system.name / "fold-0")

    def epochs():
        try:
            return len(run.history())
        except DataError:
            return 0

    done = 0
    for _ in range(2):
        tab.train.click()
        wait(lambda: epochs() > done or not tab.process)  # noqa: B023
        assert tab.process, tab.state.value
        tab.stop.click()
        wait(lambda: not tab.process)
        assert done < epochs() < 400 and not tab.added
        assert "resumes" in tab.state.value
        done = epochs()
    assert list(run.history()["epoch"]) == list(range(done))


@pytest.mark.slow
def test_real_training_is_added(tab, settings):
    tab.menus["epochs"].value = 2
    system = tab.system
    tab.train.click()
    wait(lambda: not tab.process)
    (run,) = tab.added
    assert run.name == f"{system.name}/fold-0" and run.name in tab.state.value
    assert list(run.history()["epoch"]) == [0, 1]
    assert plans.read_system(run.folder / "config.json") == system
