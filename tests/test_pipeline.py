from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.metrics import mean_precision
from helpers.pipeline import Augmentation, Frame, TileBatches

OFF = Augmentation(flip=0.0)
GEOMETRY = {
    "flip": Augmentation(flip=0.5),
    "zoom": replace(OFF, zoom=0.3),
    "shift": replace(OFF, shift=0.2),
    "rotation": replace(OFF, rotation=30.0),
    "shear": replace(OFF, shear=0.3),
    "everything": Augmentation(0.5, zoom=0.2, shift=0.1, rotation=10.0, shear=0.1),
}
TONES = {
    "brightness": replace(OFF, brightness=0.2),
    "contrast": replace(OFF, contrast=0.3),
    "gamma": replace(OFF, gamma=0.5),
}


def blobs(count=16, size=101):
    """One lopsided ellipse a tile."""
    rng = np.random.default_rng(4)
    row, col = np.mgrid[:size, :size] / size - 0.5
    dy, dx = rng.uniform(-0.15, 0.15, (2, count, 1, 1))
    return 4 * (row - dy) ** 2 + (col - dx) ** 2 + row * col < 0.05


def noise(count=3, size=101):
    return np.random.default_rng(5).integers(0, 256, (count, size, size), np.uint8)


def augmented(augmentation, images, masks, seed=0):
    return augmentation(images, masks, np.random.default_rng(seed))


# --- frames


def test_padding_mirrors_13_pixels_before_and_14_after():
    image = noise()
    framed = Frame(128, "pad").to_network(image)
    assert framed.shape == (3, 128, 128) and framed.dtype == np.uint8
    assert np.array_equal(framed[:, 13:114, 13:114], image)
    assert np.array_equal(framed[:, 12], framed[:, 14])  # the edge is not repeated
    assert np.array_equal(framed[:, :, 127], framed[:, :, 99])


@given(st.integers(101, 301))
def test_padding_to_any_size_is_undone_exactly(size):
    frame = Frame(size, "pad")
    image = noise(1)
    framed = frame.to_network(image)
    assert framed.shape == (1, size, size)
    assert np.array_equal(frame.to_native(framed), image)
    assert frame.to_network(image > 99).dtype == bool


@pytest.mark.parametrize("size", [64, 128, 202])
def test_resizing_a_smooth_tile_is_undone_almost_exactly(size):
    frame = Frame(size, "resize")
    row, col = np.mgrid[:101, :101]
    ramp = np.stack([row + col, 2 * col]).astype(np.uint8)
    back = frame.to_native(frame.to_network(ramp))
    assert back.shape == ramp.shape and back.dtype == np.float32
    assert np.abs(back - ramp)[:, 2:-2, 2:-2].max() <= 1.5
    assert abs((back - ramp).mean()) < 0.02  # no drift to one side


@pytest.mark.parametrize("mode", ["pad", "resize"])
def test_a_perfect_prediction_stays_nearly_perfect(mode):
    frame, masks = Frame(128, mode), blobs()
    framed = frame.to_network(masks)
    assert framed.dtype == bool and framed.shape[1:] == (128, 128)
    back = frame.to_native(framed.astype(float)) > 0.5
    assert mean_precision(masks, back) >= (1.0 if mode == "pad" else 0.99)


def test_no_tiles_are_no_problem():
    for mode in ("pad", "resize"):
        frame = Frame(128, mode)
        framed = frame.to_network(np.zeros((0, 101, 101), np.uint8))
        assert frame.to_native(framed).shape == (0, 101, 101)


@pytest.mark.parametrize(
    ("size", "mode", "fault"),
    [(100, "pad", "resize"), (302, "pad", "resize"), (128, "crop", "'pad' or 'resi")],
)
def test_impossible_frames_are_refused(size, mode, fault):
    with pytest.raises(ValueError, match=fault):
        Frame(size, mode)


# --- augmentation


def test_without_changes_tiles_are_only_scaled():
    images, masks = noise(4), blobs(4)
    grey, salt = augmented(OFF, images, masks)
    np.testing.assert_allclose(grey, images / 255.0, atol=1e-6)
    assert np.array_equal(salt, masks)
    assert grey.dtype == salt.dtype == np.float32


def test_a_flip_is_exact_and_never_upside_down():
    images, masks = noise(4), blobs(4)
    grey, salt = augmented(Augmentation(flip=1.0), images, masks)
    np.testing.assert_allclose(grey, images[:, :, ::-1] / 255.0, atol=1e-6)
    assert np.array_equal(salt, masks[:, :, ::-1])


def test_a_flip_inside_a_warp_is_the_same_flip():
    images, masks = noise(4), blobs(4)
    _, salt = augmented(Augmentation(flip=1.0, shift=1e-9), images, masks)
    assert np.array_equal(salt, masks[:, :, ::-1])


@pytest.mark.parametrize("name", GEOMETRY)
def test_image_and_mask_move_together_and_masks_stay_binary(name):
    masks = blobs()
    images = masks.astype(np.uint8) * 255
    grey, salt = augmented(GEOMETRY[name], images, masks)
    assert np.array_equal(grey > 0.5, salt == 1)
    assert np.isin(salt, (0, 1)).all() and salt.dtype == np.float32
    moved = (salt != masks).any(axis=(1, 2))
    assert moved.sum() >= len(masks) / 4
    assert len(np.unique(salt[moved], axis=0)) == moved.sum()  # each tile its own way


def test_what_comes_in_from_outside_is_mirrored_not_black():
    images, masks = np.full((8, 101, 101), 200, np.uint8), np.ones((8, 101, 101), bool)
    grey, salt = augmented(GEOMETRY["everything"], images, masks)
    np.testing.assert_allclose(grey, 200 / 255, atol=1e-5)
    assert salt.all()


def test_only_zoom_changes_areas_however_the_changes_are_combined():
    still = replace(GEOMETRY["everything"], zoom=0.0)
    flipped = np.arange(9) % 2 == 0
    rows = still.matrices(flipped, 101, np.random.default_rng(0))
    determinant = np.linalg.det(rows[:, [[0, 1], [3, 4]]])
    np.testing.assert_allclose(determinant, np.where(flipped, -1, 1), atol=1e-5)


def centred_bar():
    """64 tiles, each with a bar of 16 x 40 pixels at its centre."""
    bars = np.zeros((64, 101, 101), bool)
    bars[:, 43:59, 31:71] = True
    return bars


def moved_bar(name):
    return augmented(GEOMETRY[name], centred_bar().astype(np.uint8), centred_bar())[1]


def moments(masks):
    """Area, centre (row, col) and tilt (covariance of row and col) of each mask."""
    row, col = np.mgrid[: masks.shape[1], : masks.shape[2]]
    area = masks.sum(axis=(1, 2))
    y, x = ((masks * axis).sum(axis=(1, 2)) / area for axis in (row, col))
    return area, y, x, (masks * row * col).sum(axis=(1, 2)) / area - y * x


def test_zoom_changes_the_area_and_keeps_the_centre():
    area, y, x, _ = moments(moved_bar("zoom"))
    ratio = area / 640
    assert 0.7**2 * 0.9 < ratio.min() < 0.65 and 1.5 < ratio.max() < 1.3**2 * 1.1
    assert np.abs(y - 50.5).max() < 1 and np.abs(x - 50.5).max() < 1


def test_shift_moves_the_centre_both_ways_and_keeps_the_area():
    area, y, x, _ = moments(moved_bar("shift"))
    for centre in (y - 50.5, x - 50.5):
        assert -21 < centre.min() < -14 and 14 < centre.max() < 21
    assert np.abs(area / 640 - 1).max() < 0.05
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.5


def test_rotation_tilts_both_ways_about_the_centre_and_keeps_the_area():
    area, y, x, tilt = moments(moved_bar("rotation"))
    most = (40**2 - 16**2) / 12 * np.sin(np.deg2rad(60)) / 2  # at 30 degrees
    assert 0.8 * most < tilt.max() < 1.1 * most
    assert -1.1 * most < tilt.min() < -0.8 * most
    assert np.abs(area / 640 - 1).max() < 0.05
    assert np.abs(y - 50.5).max() < 1 and np.abs(x - 50.5).max() < 1


def test_shear_slides_rows_and_keeps_their_lengths():
    salt = moved_bar("shear")
    assert np.abs(salt.sum(axis=2) - centred_bar().sum(axis=2)).max() <= 1
    assert np.ptp(moments(salt)[3]) > 0.3 * 16**2 / 12


@pytest.mark.parametrize("name", TONES)
def test_tones_change_the_image_alone_within_the_grey_range(name):
    grey_wedge = np.tile(np.arange(256, dtype=np.uint8), (64, 256, 1))
    masks = blobs(64, 256)
    grey, salt = augmented(TONES[name], grey_wedge, masks)
    before, after = np.arange(256) / 255, grey[:, 0]
    assert np.array_equal(salt, masks)
    assert grey.min() >= 0 and grey.max() <= 1
    assert (np.diff(after) >= 0).all()  # brighter stays brighter
    change = after - before
    assert change.min() < -0.03 and change.max() > 0.03
    if name == "brightness":
        assert np.abs(change).max() <= 0.2 + 1e-6
    if name == "contrast":
        assert np.abs(change[:, 127:129]).max() < 0.002  # mid-grey stays
    if name == "gamma":
        assert not change[:, [0, 255]].any()  # black and white stay
        assert after.max(axis=0)[128] <= (128 / 255) ** (1 / 1.5) + 1e-6
        assert after.min(axis=0)[128] >= (128 / 255) ** 1.5 - 1e-6


# --- batches


def batches(**options):
    tiles = np.repeat(np.arange(10, dtype=np.uint8), 101 * 101).reshape(10, 101, 101)
    options = {"augmentation": GEOMETRY["everything"], "seed": 1, **options}
    return TileBatches(25 * tiles, blobs(10), Frame(128), batch_size=4, **options)


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
    dealt = batches(augmentation=OFF)
    orders = []
    for epoch in range(3):
        dealt.start_epoch(epoch)
        greys = np.concatenate([dealt[i][0][:, 0, 0, 0] for i in range(3)])
        orders.append(tuple(np.rint(greys * 255 / 25).astype(int).tolist()))
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(10)) for order in orders)


def test_equal_tiles_are_changed_differently_in_every_batch_and_epoch():
    tiles = np.repeat(blobs(1), 8, axis=0)
    dealt = TileBatches(
        255 * tiles.astype(np.uint8), tiles, Frame(128), 4, GEOMETRY["everything"]
    )
    masks = [dealt[0][1], dealt[1][1]]
    dealt.start_epoch(1)
    masks += [dealt[0][1], dealt[1][1]]
    assert len(np.unique(np.reshape(masks, (16, -1)), axis=0)) == 16


def test_there_is_no_batch_after_the_last():
    with pytest.raises(IndexError, match="batch 3 of 3"):
        batches()[3]
