import os

import pytest

from helpers.utils.files import DataError, atomic_write, sweep


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


def test_what_a_killed_process_left_behind_is_swept_away(tmp_path):
    writer = atomic_write(tmp_path / "result.txt")
    writer.__enter__().write_text("half")
    (tmp_path / "other-file").touch()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other-file"]
    with pytest.raises(DataError, match="cannot be written"):
        writer.__exit__(None, None, None)
