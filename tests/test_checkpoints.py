"""Checkpoints on disk: whole or not there, known when damaged, copied elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.training.checkpoints import Checkpoints, Copy, State, bring_back, keep_copy


def row(epoch):
    return {"epoch": epoch, "loss": 1 / (1 + epoch), "val_score": 0.1}


def add(checkpoints, epoch, content=b"weights"):
    state = State(0, (*checkpoints.state.history, row(epoch)))
    with checkpoints.add(state) as folder:
        (folder / "state.weights.h5").write_bytes(content)


@pytest.fixture
def three(tmp_path):
    """The checkpoints of a training of three epochs."""
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.state == State() and checkpoints.state.epoch == -1
    for epoch in range(3):
        add(checkpoints, epoch)
    return checkpoints


def test_the_last_two_are_kept_and_read_again(three):
    names = [path.name for path in sorted(three.folder.iterdir())]
    assert names == ["epoch-0001", "epoch-0002"]
    state = Checkpoints(three.run).state
    assert state == three.state and state.epoch == 2
    assert state.since(1) == [row(1), row(2)]
    table = (three.run / "history.csv").read_text().splitlines()
    assert table[0] == "epoch,loss,val_score" and len(table) == 4


def test_block_that_fails_leaves_the_state_before(three):
    before = three.state
    state = State(0, (*before.history, row(3)))
    with pytest.raises(ZeroDivisionError), three.add(state) as folder:
        (folder / "state.weights.h5").write_bytes(b"half")
        raise ZeroDivisionError
    assert three.state == before == Checkpoints(three.run).state


def test_what_a_kill_left_half_written_is_removed(three):
    left = three.folder / ".epoch-0003-a1b2c3d4"
    left.mkdir()
    (three.run / ".history.csv-a1b2c3d4").mkdir()
    Checkpoints(three.run)
    assert not left.exists() and not list(three.run.glob(".*"))


@pytest.mark.parametrize("fault", ["cut", "changed", "missing"])
@pytest.mark.parametrize("name", ["state.weights.h5", "state.txt"])
def test_damage_is_known_and_the_one_before_used(fault, name, three, capsys):
    file = three.folder / "epoch-0002" / name
    content = file.read_bytes()
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + b"?" * (fault == "changed"))
    again = Checkpoints(three.run)
    assert again.state.epoch == 1
    assert "epoch-0002: damaged" in capsys.readouterr().out
    assert len((three.run / "history.csv").read_text().splitlines()) == 3
    add(again, 2)  # there is nothing in the way
    assert Checkpoints(three.run).state.epoch == 2


def test_if_all_are_damaged_it_begins_anew(three):
    for file in three.folder.glob("*/state.txt"):
        file.write_text("")
    assert Checkpoints(three.run).state == State()


def test_copy_follows_and_comes_back(three, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    copy = Copy(disk, disk / "runs" / "a" / "fold-0")
    keep_copy(three.run, copy)
    three.copy = copy
    add(three, 3)
    work = copy.folder / "work"
    assert {path.name for path in work.iterdir()} == {"epoch-0002", "epoch-0003"}
    bring_back(copy, tmp_path / "other" / "fold-0")
    assert f"brought back from {disk}" in capsys.readouterr().out
    assert Checkpoints(tmp_path / "other" / "fold-0").state == three.state
    keep_copy(three.run, None)


def test_disk_that_cannot_be_written_is_a_warning(three, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.write_text("not a folder")
    keep_copy(three.run, Copy(disk, disk / "run"))
    disk.unlink()
    disk.mkdir()
    (disk / "run").write_text("in the way")
    keep_copy(three.run, Copy(disk, disk / "run"))
    out = capsys.readouterr().out
    assert out.count(f"warning: no copy in {disk}") == 2


def test_killed_training_ends_as_if_nothing_had_happened():
    """Three real kills at random moments; twenty by hand, see the script."""
    script = Path(__file__).with_name("kill_and_resume.py")
    command = [sys.executable, str(script), "--kills", "3", "--seed", "7"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert ended.stdout.count("kill ") == 3 and "no difference" in ended.stdout
