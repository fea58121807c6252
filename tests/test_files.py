import pytest

from helpers.utils.files import atomic_write


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
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"
