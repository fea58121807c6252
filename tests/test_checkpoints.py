"""Checkpoints on disk: whole or not there, and the one before if one is unreadable."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import TINY

from helpers.systems import Stage
from helpers.training.checkpoints import Checkpoints

SYSTEM = replace(TINY, stages=(Stage("bce", 9), Stage("bce", 9)))


def row(epoch):
    return {"epoch": epoch, "loss": 1 / (1 + epoch), "val_score": 0.1}


def add(checkpoints, epoch, stop=False):
    """As Keras does after an epoch."""
    optimizer = SimpleNamespace(variables=[np.ones(3)])
    network = {"weights": [np.arange(100.0)], "optimizer": optimizer}
    checkpoints._model = SimpleNamespace(stop_training=stop, **network)
    checkpoints.begin(SYSTEM, [])
    checkpoints.on_epoch_end(epoch, row(epoch))


@pytest.fixture
def three(tmp_path):
    """The checkpoints of a run of three epochs."""
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.newest is None and checkpoints.history == []
    for epoch in range(3):
        add(checkpoints, epoch)
    return checkpoints


def test_the_last_two_are_kept_and_read_again(three):
    names = [path.name for path in sorted(three.folder.iterdir())]
    assert names == ["epoch-0001", "epoch-0002"]
    again = Checkpoints(three.run)
    assert again.history == three.history == [row(0), row(1), row(2)]
    assert again.newest == three.newest == three.folder / "epoch-0002"
    table = (three.run / "history.csv").read_text().splitlines()
    assert table[0] == "epoch,loss,val_score" and len(table) == 4


def test_stage_is_kept(three):
    add(three, 3, stop=True)
    assert three.stage == Checkpoints(three.run).stage == 1


def test_write_that_fails_leaves_the_state_before(three, monkeypatch):
    def fail(path, *arrays):
        path.write_bytes(b"half")
        raise ZeroDivisionError

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(ZeroDivisionError):
        add(three, 3)
    assert three.history == Checkpoints(three.run).history == [row(0), row(1), row(2)]


@pytest.mark.parametrize("fault", ["cut", "emptied", "missing", "another bit"])
@pytest.mark.parametrize("name", ["state.npz", "state.json"])
def test_unreadable_checkpoint_is_reported_and_the_one_before_used(
    fault, name, three, capsys
):
    file = three.folder / "epoch-0002" / name
    content = file.read_bytes()
    if fault == "missing":
        file.unlink()
    elif fault == "another bit":
        file.write_bytes(content[:200] + bytes([content[200] ^ 128]) + content[201:])
    else:
        file.write_bytes(content[:-20] if fault == "cut" else b"")
    again = Checkpoints(three.run)
    assert again.history == [row(0), row(1)]
    assert "epoch-0002: cannot be read" in capsys.readouterr().out
    assert len((three.run / "history.csv").read_text().splitlines()) == 3
    add(again, 2)  # there is nothing in the way
    assert len(Checkpoints(three.run).history) == 3


def test_if_none_can_be_read_it_begins_anew(three):
    for file in three.folder.glob("*/state.json"):
        file.write_text("")
    assert Checkpoints(three.run).newest is None


def killed(*options):
    script = Path(__file__).with_name("kill_and_resume.py")
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def test_killed_run_ends_as_if_nothing_had_happened():
    """A real kill in a plateau, whose count of epochs must survive it."""
    words = killed("--quick")
    assert words.count("kill 1: in epoch") == 1 and "no difference" in words
    assert "resuming after epoch" in words


@pytest.mark.slow
def test_run_killed_again_and_again_ends_as_if_nothing_had_happened():
    """At random moments; twenty by hand, see the script."""
    words = killed("--kills", "4", "--seed", "7")
    assert words.count("kill ") == 4 and "no difference" in words
