import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from helpers.rle import as_mask, rle_decode, rle_encode

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def pixels(*places):
    mask = np.zeros((101, 101), bool)
    for place in places:
        mask[place] = True
    return mask


VECTORS = [
    (pixels(), ""),
    (pixels((0, 0)), "1 1"),
    (pixels((1, 0)), "2 1"),
    (pixels((0, 1)), "102 1"),
    (pixels(np.s_[:]), "1 10201"),
    (pixels((100, 100)), "10201 1"),
    (pixels(np.s_[:, 50]), "5051 101"),
    (pixels((100, 0), (0, 1)), "101 2"),
]


@pytest.mark.parametrize(("mask", "text"), VECTORS)
def test_known_masks_have_the_known_runs_both_ways(mask, text):
    assert rle_encode(mask) == text
    assert np.array_equal(rle_decode(text), mask)


@given(MASKS)
def test_any_mask_survives_the_round_trip(mask):
    decoded = rle_decode(rle_encode(mask), mask.shape)
    assert decoded.dtype == bool
    assert np.array_equal(decoded, mask)


@given(MASKS)
def test_the_runs_are_those_of_pycocotools(mask):
    numbers = [int(token) for token in rle_encode(mask).split()]
    counts, end = [], 1  # run lengths of 0 and 1 in turn, down the columns
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        counts += [start - end, length]
        end = start + length
    counts += [mask.size + 1 - end] * (end <= mask.size)
    runs = {"size": list(mask.shape), "counts": counts}
    expected = coco.encode(np.asfortranarray(mask, np.uint8))
    assert coco.frPyObjects(runs, *mask.shape) == expected


MALFORMED = {
    "1": "odd",
    "1 2 3": "odd",
    "0 1": "is below 1, unsorted",
    "-1 2": "integer",
    "1 0": "below 1",
    "1 -2": "integer",
    "10201 2": "leaves",
    "10202 1": "leaves",
    "10 2 5 1": "unsorted",
    "1 3 3 2": "overlaps",
    "5 1 5 1": "overlaps",
    "1.0 2": "integer",
    "a b": "integer",
    "1,2": "integer",
    "1 ²": "integer",
    "1 " + 19 * "9": "integer",
    5000 * "9" + " 1": "integer",
    "1 999999999999999999": "leaves",
}


@pytest.mark.parametrize(("text", "fault"), MALFORMED.items())
def test_malformed_runs_are_refused_in_words(text, fault):
    with pytest.raises(ValueError, match=fault) as caught:
        rle_decode(text)
    assert text[:30] in str(caught.value) and len(str(caught.value)) < 120


def test_neighbouring_runs_do_not_overlap():
    assert rle_decode("1 2 3 1", (2, 2)).sum() == 3


def test_other_spaces_than_those_of_ascii_are_refused():
    with pytest.raises(ValueError, match="integer"):
        rle_decode("1\u20031")


@pytest.mark.parametrize("value", [float("nan"), None, 5, b"1 1", [1] * 999])
def test_a_missing_value_is_refused_with_the_remedy(value):
    with pytest.raises(ValueError, match="keep_default_na") as caught:
        rle_decode(value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0, 1]], np.uint8),
        np.array([[0, 1]]),
        np.array([[0.0, 1.0]]),
        [[False, True]],
    ],
)
def test_every_way_to_write_a_mask_is_read(array):
    assert as_mask(array).dtype == bool
    assert rle_encode(array) == "2 1"


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0.2, 1.0]]),
        np.array([[-3.0, 4.0]]),
        np.array([[np.nan]]),
        np.array([[np.inf]]),
        np.array([["x"]]),
        np.array([[3, 201]], np.uint8),  # probabilities stored as bytes
        np.array([[0, 255]], np.uint8),
        np.array([[0, 65535]], np.uint16),
        np.array([[0, -1]]),
        np.array([[0, None]]),
        np.array([[0j]]),
    ],
    ids=str,
)
def test_probabilities_logits_and_gray_levels_are_no_masks(array):
    with pytest.raises(ValueError, match=r"threshold.*`mask > 0`"):
        rle_encode(array)


def test_a_stack_is_not_one_mask():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)"):
        rle_encode(np.zeros((1, 2, 2), bool))
