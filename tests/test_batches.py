"""Resizing, padding and batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import blobs, noise

from helpers.augmentation import Augmentation
from helpers.batches import ResizeOrPad, TileBatches
from helpers.metrics import mean_precision

OFF = Augmentation(flip=0.0)
EVERYTHING = Augmentation(0.5, zoom=0.2, shift=0.1, rotation=10.0)


# --- native tiles to the size of the network, and back


def test_padding_mirrors_13_pixels_before_and_14_after():
    image = noise()
    resized = ResizeOrPad(128, "pad").forward(image)
    assert resized.shape == (3, 128, 128) and resized.dtype == np.uint8
    assert np.array_equal(resized[:, 13:114, 13:114], image)
    assert np.array_equal(resized[:, 12], resized[:, 14])  # the edge is not repeated
    assert np.array_equal(resized[:, :, 127], resized[:, :, 99])


@given(st.integers(101, 301))
def test_padding_to_any_size_is_undone_exactly(size):
    transform = ResizeOrPad(size, "pad")
    image = noise(1)
    resized = transform.forward(image)
    assert resized.shape == (1, size, size)
    assert np.array_equal(transform.inverse(resized), image)
    assert transform.forward(image > 99).dtype == bool


@pytest.mark.parametrize("size", [64, 128, 202])
def test_resizing_a_smooth_tile_is_undone_almost_exactly(size):
    transform = ResizeOrPad(size, "resize")
    row, col = np.mgrid[:101, :101]
    ramp = np.stack([row + col, 2 * col]).astype(np.uint8)
    back = transform.inverse(transform.forward(ramp))
    assert back.shape == ramp.shape and back.dtype == np.float32
    assert np.abs(back - ramp)[:, 2:-2, 2:-2].max() <= 1.5
    assert abs((back - ramp).mean()) < 0.02  # no drift to one side


@pytest.mark.parametrize("mode", ["pad", "resize"])
def test_a_perfect_prediction_stays_nearly_perfect(mode):
    transform, masks = ResizeOrPad(128, mode), blobs()
    resized = transform.forward(masks)
    assert resized.dtype == bool and resized.shape[1:] == (128, 128)
    back = transform.inverse(resized.astype(float)) > 0.5
    assert mean_precision(masks, back) >= (1.0 if mode == "pad" else 0.99)


def test_no_tiles_are_no_problem():
    for mode in ("pad", "resize"):
        transform = ResizeOrPad(128, mode)
        resized = transform.forward(np.zeros((0, 101, 101), np.uint8))
        assert transform.inverse(resized).shape == (0, 101, 101)


@pytest.mark.parametrize(
    ("size", "mode", "fault"),
    [(100, "pad", "resize"), (302, "pad", "resize"), (128, "crop", "'pad' or 'resi")],
)
def test_impossible_sizes_and_modes_are_refused(size, mode, fault):
    with pytest.raises(ValueError, match=fault):
        ResizeOrPad(size, mode)


# --- batches


def batches(**options):
    tiles = np.repeat(np.arange(10, dtype=np.uint8), 101 * 101).reshape(10, 101, 101)
    options = {"augmentation": EVERYTHING, "seed": 1, **options}
    return TileBatches(25 * tiles, blobs(10), ResizeOrPad(128), batch_size=4, **options)


def test_plain_batches_keep_tiles_and_order():
    plain = batches(augmentation=None)
    parts = [plain[index] for index in range(len(plain))]
    assert [part[0].shape for part in parts] == [(n, 128, 128, 1) for n in (4, 4, 2)]
    images, masks = (np.concatenate(side)[..., 0] for side in zip(*parts, strict=True))
    np.testing.assert_allclose(images[:, 0, 0], 25 * np.arange(10) / 255, atol=1e-6)
    assert np.array_equal(masks[:, 13:114, 13:114], blobs(10))
    assert images.dtype == masks.dtype == np.float32


def test_batches_follow_from_seed_epoch_and_index_alone():
    np.random.seed(0)  # noqa: NPY002
    first = batches()[1]
    np.random.seed(9)  # noqa: NPY002
    again = batches()
    again.start_epoch(3)
    for index in (2, 0):
        again[index]
    again.start_epoch(0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again[1], strict=True))
    assert not np.array_equal(first[1], batches(seed=2)[1][1])
    again.start_epoch(1)
    assert not np.array_equal(first[1], again[1][1])


def test_an_epoch_shows_every_tile_once_in_an_order_of_its_own():
    batched = batches(augmentation=OFF)
    orders = []
    for epoch in range(3):
        batched.start_epoch(epoch)
        intensities = np.concatenate([batched[i][0][:, 0, 0, 0] for i in range(3)])
        orders.append(tuple(np.rint(intensities * 255 / 25).astype(int).tolist()))
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(10)) for order in orders)


def test_equal_tiles_are_changed_differently_in_every_batch_and_epoch():
    tiles = np.repeat(blobs(1), 8, axis=0)
    batched = TileBatches(
        255 * tiles.astype(np.uint8), tiles, ResizeOrPad(128), 4, EVERYTHING
    )
    masks = [batched[0][1], batched[1][1]]
    batched.start_epoch(1)
    masks += [batched[0][1], batched[1][1]]
    assert len(np.unique(np.reshape(masks, (16, -1)), axis=0)) == 16


def test_there_is_no_batch_after_the_last():
    with pytest.raises(IndexError, match="batch 3 of 3"):
        batches()[3]


def test_several_outputs_get_the_mask_and_the_gate_whether_there_is_salt():
    masks = blobs(4)
    masks[1] = False
    batched = TileBatches(noise(4), masks, ResizeOrPad(128), 4, gate=True)
    images, targets = batched[0]
    assert images.shape == (4, 128, 128, 1) and set(targets) == {"gate", "mask"}
    np.testing.assert_array_equal(targets["gate"], [[1], [0], [1], [1]])
    plain = TileBatches(noise(4), masks, ResizeOrPad(128), 4)
    np.testing.assert_array_equal(targets["mask"], plain[0][1])


def test_batches_are_divisible_among_devices():
    images = np.arange(10, dtype=np.uint8).repeat(101 * 101).reshape(10, 101, 101)
    batched = TileBatches(images, images > 4, ResizeOrPad(), 5, OFF, devices=3)
    assert [len(batched[index][0]) for index in range(len(batched))] == [3, 3, 3]
    assert len(set(batched.order)) == 9  # the tile left over changes every epoch
    few = TileBatches(images, images > 4, ResizeOrPad(), 1, OFF, devices=4)
    assert [len(few[index][0]) for index in range(len(few))] == [4, 4]
