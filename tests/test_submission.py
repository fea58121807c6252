import numpy as np
import pytest

from helpers.submission import check_submission, empty_constant, write_submission
from helpers.utils.files import DataError

IDS = ["8e13060816", "0004230816", "1e5"]


def masks():
    stack = np.zeros((3, 101, 101), np.uint8)
    stack[0, :3, 0] = stack[2, 100, 100] = 1
    return stack


GOOD = "id,rle_mask\n8e13060816,1 3\n0004230816,\n1e5,10201 1\n"


def test_a_submission_is_written_checked_and_reproducible(tmp_path):
    path = tmp_path / "new" / "s.csv"
    summary = write_submission(path, IDS, masks(), IDS[::-1])
    assert (summary.rows, summary.empty) == (3, 1)
    assert "3 tiles, 1 (33.3%) without salt" in str(summary)
    assert path.read_bytes().decode() == GOOD
    other = tmp_path / "other.csv"
    write_submission(other, np.array(IDS), masks() > 0)
    assert other.read_bytes().decode() == GOOD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "ids", "stack", "expected", "fault"),
    [
        ("s.txt", IDS, masks(), IDS, r"ends in \.csv"),
        ("s.csv.zip", IDS, masks(), IDS, r"ends in \.csv"),
        ("s.csv", IDS, masks()[:2], IDS, r"shape \(2, 101, 101\), not \(3,"),
        ("s.csv", IDS, masks()[:, :100], IDS, r"not \(3, 101, 101\)"),
        ("s.csv", IDS, masks() / 9, IDS, "threshold"),
        ("s.csv", IDS, 255 * masks(), IDS, "threshold"),
        ("s.csv", IDS, masks() * np.nan, IDS, "threshold"),
        ("s.csv", IDS[:2], masks()[:2], IDS, "1 tiles are missing, e.g. 1e5"),
        ("s.csv", IDS, masks(), IDS[:2], "1 ids are not test tiles, e.g. 1e5"),
        ("s.csv", ["a", "b", "a"], masks(), ["a", "b"], "a appears more than once"),
        ("s.csv", ["a", "b", "a"], masks(), None, "a appears more than once"),
    ],
)
def test_nothing_is_written_when_the_arguments_are_wrong(
    tmp_path, name, ids, stack, expected, fault
):
    with pytest.raises(ValueError, match=fault):
        write_submission(tmp_path / name, ids, stack, expected)
    assert not list(tmp_path.iterdir())


def check(tmp_path, text):
    path = tmp_path / "s.csv"
    path.write_bytes(text.encode())
    return check_submission(path, IDS)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.rstrip("\n"),
        GOOD.replace("1 3", '"1 3"'),
        "\ufeff" + GOOD,
        "id,rle_mask\n1e5,1 1\n0004230816,\n8e13060816,1 1 3 1\n",  # another order
    ],
)
def test_what_kaggle_takes_is_taken(tmp_path, text):
    assert check(tmp_path, text).rows == 3


FAULTS = {
    "empty file": ("", "header"),
    "no header": (GOOD.split("\n", 1)[1], "header"),
    "other header": (GOOD.replace("rle_mask", "mask"), "'mask'.*needs id and"),
    "turned header": (GOOD.replace("id,rle_mask", "rle_mask,id"), "'1 3' is no id"),
    "turned columns": ("rle_mask,id\n,1e5\n,8e13060816\n,0004230816\n", "not id,rle"),
    "extra column": (GOOD.replace("\n", ",\n").replace("k,", "k,z"), "header"),
    "extra field": (GOOD.replace("1 3", "1 3,4"), "row '8e13060816' has 3 fields"),
    "extra field later": (GOOD.replace("1 1", "1 1,4"), "row '1e5' has 3 fields"),
    "no field": (GOOD.replace("16,\n", "16\n"), "row '0004230816' has 1 fields"),
    "missing id": (GOOD.replace("0004230816,\n", ""), "missing, e.g. 0004230816"),
    "id as a number": (GOOD.replace("0004230816", "4230816"), "missing, e.g. 0004"),
    "unknown id": (GOOD + "abc,\n", "not test tiles, e.g. abc"),
    "repeated id": (GOOD + "1e5,\n", "1e5 appears more than once"),
    "open quote": (GOOD.replace("1 3", '"1 3'), "unreadable"),
}
MALFORMED = ["1", "1 2 3", "0 1", "1 0", "1 -1", "10201 2", "5 1 1 1", "1 3 2 1"]
MALFORMED += ["1.0 2", "nan", "a b"]


@pytest.mark.parametrize("case", FAULTS)
def test_what_kaggle_refuses_is_refused_with_file_and_fault(tmp_path, case):
    text, fault = FAULTS[case]
    with pytest.raises(DataError, match=rf"s\.csv: .*{fault}"):
        check(tmp_path, text)


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_rle_is_refused_with_its_tile(tmp_path, text):
    with pytest.raises(DataError, match=r"s\.csv: tile 8e13060816: "):
        check(tmp_path, GOOD.replace("1 3", text))


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "s.csv"
    with pytest.raises(DataError, match=r"s\.csv: unreadable"):
        check_submission(path, IDS)
    path.write_bytes(GOOD.encode() + b"\xff")
    with pytest.raises(DataError, match=r"s\.csv: unreadable .*write it again"):
        check_submission(path, IDS)


def test_constant_tiles_are_emptied_and_the_others_kept():
    stack = np.ones((3, 4, 4), bool)
    emptied = empty_constant(stack, [False, True, False])
    assert emptied.any(axis=(1, 2)).tolist() == [True, False, True]
    assert stack.all()  # a copy


@pytest.mark.parametrize("ids", [[], ["a,b"], ["a\nb"], [""], ["1²"]])
def test_no_ids_or_odd_ones_are_refused_before_writing(tmp_path, ids):
    masks = np.zeros((len(ids), 101, 101), bool)
    with pytest.raises(ValueError, match="not written"):
        write_submission(tmp_path / "s.csv", ids, masks)
    assert list(tmp_path.iterdir()) == []
