import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

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


def test_killed_writer_is_cleaned_up_after_by_the_next(tmp_path):
    program = (
        "import os, pathlib\nfrom helpers.utils.files import atomic_write\n"
        f"with atomic_write({str(tmp_path / 'set')!r}) as draft:\n"
        "    draft.mkdir()\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert len([*tmp_path.iterdir()]) == 1
    (tmp_path / ".hidden").touch()
    with atomic_write(tmp_path / "other") as beside:
        beside.touch()
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "other"}


def test_what_another_is_writing_stays(tmp_path):
    with atomic_write(tmp_path / "first") as first:
        first.touch()
        with atomic_write(tmp_path / "second") as second:
            second.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


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


def test_lock_of_a_process_that_was_killed_is_free(tmp_path):
    path = tmp_path / "fold-0.lock"
    program = (
        "import pathlib, time\nfrom helpers.utils.files import lock\n"
        f"with lock(pathlib.Path({str(path)!r})):\n    print(flush=True)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        message = f"fold-0: being trained by process {other.pid} on .*: wait for it"
        with pytest.raises(DataError, match=message), lock(path):
            pass
        other.kill()
    assert path.exists()
    with lock(path):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_disk_without_locks_can_be_written_to(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock(tmp_path / "fold-0.lock"), atomic_write(tmp_path / "first") as first:
        first.touch()
        with atomic_write(tmp_path / "second") as second:
            second.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "net").touch()
    path = tmp_path / "net" / "fold-0.lock"
    message = r"fold-0\.lock: cannot be written"
    with pytest.raises(DataError, match=message), lock(path):
        pass
