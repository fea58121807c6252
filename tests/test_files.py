import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.utils import files
from helpers.utils.files import DataError, atomic_write, lock

ROOT = Path(__file__).parents[1]


def test_a_file_appears_whole_with_its_folder_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "result.csv"
    with atomic_write(path) as beside:
        beside.write_text("whole")
        assert beside.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_content_stands_until_the_new_is_complete(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with atomic_write(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_fault_in_the_block_leaves_the_old_content_and_nothing_else(tmp_path, fault):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(fault), atomic_write(path) as beside:
        beside.write_text("half")
        raise fault
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError), atomic_write(path) as beside:
        beside.mkdir()
        (beside / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_write(path) as beside:
        beside.mkdir()
        (beside / "whole").touch()
    assert [item.name for item in path.iterdir()] == ["whole"]


def test_a_block_that_writes_nothing_is_an_error_and_changes_nothing(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(DataError, match="cannot be written"), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "runs" / "result.txt"
    message = rf"^{path}: cannot be written \(.*\): mount .*SALT_OUTPUT_DIR"
    with pytest.raises(DataError, match=message), atomic_write(path):
        pass


def test_nothing_is_written_below_an_unmounted_disk_until_it_is_back(
    tmp_path, monkeypatch
):
    disks, real = {tmp_path / "drive"}, os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: path in disks or real(path))

    def write(text, path=tmp_path / "drive" / "runs" / "result.txt"):
        with atomic_write(path) as beside:
            beside.write_text(text)
        return path.read_text()

    assert write("first") == "first"
    disks.clear()
    for name in ("result.txt", "another/result.txt"):
        with pytest.raises(DataError, match=r"drive is no longer mounted\): mount"):
            write("second", tmp_path / "drive" / "runs" / name)
    assert write("elsewhere", tmp_path / "result.txt") == "elsewhere"
    disks.add(tmp_path / "drive")
    assert write("second") == "second"


@pytest.fixture
def owners():
    """Ids of processes: this one, one that ended, and one of another machine."""
    here, pid, start = files._owner().split("-")
    ended = subprocess.run(["true"], check=True) and f"{here}-{2**22 + 1}-7"
    return {
        "alive": f"{here}-{pid}-{start}",
        "ended": ended,
        "its number is used again": f"{here}-{pid}-{int(start) - 1}",
        "elsewhere": "00000000-1-7",
    }


def age(path, seconds):
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize(
    ("who", "days", "stays"),
    [
        ("alive", 2, True),
        ("ended", 0, False),
        ("its number is used again", 0, False),
        ("elsewhere", 0.9, True),
        ("elsewhere", 1.1, False),
    ],
)
def test_what_a_killed_process_left_behind_goes_with_the_next_write(
    who, days, stays, owners, tmp_path
):
    left = tmp_path / f".synthetic-60-{owners[who]}-a1b2c3d4"
    (left / "train").mkdir(parents=True)
    age(left, days * 86400)
    mine = [tmp_path / name for name in (".git", ".hidden-a1b2c3d4", "other-file")]
    for path in mine:
        path.touch()
    with atomic_write(tmp_path / "result.txt") as beside:
        beside.touch()
    kept = {*mine, tmp_path / "result.txt"} | ({left} if stays else set())
    assert {*tmp_path.iterdir()} == kept


def test_names_in_the_hidden_folder_are_those_that_are_swept(tmp_path):
    with atomic_write(tmp_path / "result.txt") as beside:
        beside.touch()
        name = beside.parent.name
    assert name.startswith(f".result.txt-{files._owner()}-")


def test_killed_writer_is_cleaned_up_after_by_the_next(tmp_path):
    program = (
        "import os, pathlib\nfrom helpers.utils.files import atomic_write\n"
        f"with atomic_write({str(tmp_path / 'set')!r}) as draft:\n"
        "    draft.mkdir()\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert len([*tmp_path.iterdir()]) == 1
    with atomic_write(tmp_path / "other") as beside:
        beside.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_without_room_nothing_is_begun_and_the_need_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    path = tmp_path / "new" / "run"
    message = (
        r"run: cannot be written \(needs 7\.0 MB, 5\.0 MB are free\): mount or free"
    )
    with pytest.raises(DataError, match=message), atomic_write(path, 7_000_000):
        pass
    assert not path.parent.exists()
    with atomic_write(path, 4_000_000) as beside:
        beside.touch()


def test_lock_names_who_has_it_and_goes_in_the_end(tmp_path):
    path = tmp_path / "net" / "fold-0.lock"
    with pytest.raises(ZeroDivisionError), lock(path):
        message = (
            rf"fold-0: being trained by process {os.getpid()} on .* since .*: wait"
        )
        with pytest.raises(DataError, match=message), lock(path):
            pass
        raise ZeroDivisionError
    assert not path.exists()
    with lock(path):
        assert path.exists()


@pytest.mark.parametrize(
    ("text", "minutes", "free"),
    [
        ("{alive} process 1 on here", 99, False),
        ("{ended} process 1 on here", 0, True),
        ("{its number is used again} process 1 on here", 0, True),
        ("{elsewhere} process 1 on there", 4, False),  # it is touched every 30 seconds
        ("{elsewhere} process 1 on there", 6, True),
        ("", 0, False),  # it is being written
        ("", 6, True),
        ("\xff-{}-{}", 0, False),
    ],
)
def test_stale_lock_is_recognized(text, minutes, free, owners, tmp_path):
    path = tmp_path / "fold-0.lock"
    path.write_bytes(
        re.sub(r"{(\w.*?)}", lambda x: owners[x[1]], text).encode("latin1")
    )
    age(path, 60 * minutes)
    with contextlib.ExitStack() as stack:
        if not free:
            stack.enter_context(pytest.raises(DataError, match="fold-0: being trained"))
        with lock(path):
            assert path.read_text().startswith(owners["alive"])
    assert path.exists() != free


def test_of_two_that_take_over_at_the_same_moment_one_wins(
    owners, tmp_path, monkeypatch
):
    path = tmp_path / "fold-0.lock"
    path.write_text(f"{owners['ended']} process 1 on here")
    other = f"{owners['alive']} process 2 on here"
    monkeypatch.setattr(time, "sleep", lambda _: path.write_text(other))
    with pytest.raises(DataError, match="being trained by process 2"), lock(path):
        pass
    assert path.read_text() == other


def test_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "net").touch()
    path = tmp_path / "net" / "fold-0.lock"
    message = r"fold-0\.lock: cannot be written"
    with pytest.raises(DataError, match=message), lock(path):
        pass
