"""Augmentation: what changes, what stays, and how often."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from shapes import blobs, noise

from helpers import systems
from helpers.augmentation import Augmentation

OFF = Augmentation(flip=0.0)
GEOMETRY = {
    "flip": Augmentation(flip=0.5),
    "zoom": replace(OFF, zoom=0.3),
    "shift": replace(OFF, shift=0.2),
    "rotation": replace(OFF, rotation=30.0),
    "everything": Augmentation(0.5, zoom=0.2, shift=0.1, rotation=10.0),
}
TONES = {
    "brightness": replace(OFF, brightness=0.2),
    "contrast": replace(OFF, contrast=0.3),
    "gamma": replace(OFF, gamma=0.5),
}


def augmented(augmentation, images, masks, seed=0):
    return augmentation(images, masks, np.random.default_rng(seed))


def test_without_changes_tiles_are_only_scaled():
    images, masks = noise(4), blobs(4)
    image, salt = augmented(OFF, images, masks)
    np.testing.assert_allclose(image, images / 255.0, atol=1e-6)
    assert np.array_equal(salt, masks)
    assert image.dtype == salt.dtype == np.float32


def test_a_flip_is_exact_and_never_upside_down():
    images, masks = noise(4), blobs(4)
    image, salt = augmented(Augmentation(flip=1.0), images, masks)
    np.testing.assert_allclose(image, images[:, :, ::-1] / 255.0, atol=1e-6)
    assert np.array_equal(salt, masks[:, :, ::-1])


def test_a_flip_inside_a_warp_is_the_same_flip():
    images, masks = noise(4), blobs(4)
    _, salt = augmented(Augmentation(flip=1.0, shift=1e-9), images, masks)
    assert np.array_equal(salt, masks[:, :, ::-1])


@pytest.mark.parametrize("name", GEOMETRY)
def test_image_and_mask_move_together_and_masks_stay_binary(name):
    masks = blobs()
    images = masks.astype(np.uint8) * 255
    image, salt = augmented(GEOMETRY[name], images, masks)
    assert np.array_equal(image > 0.5, salt == 1)
    assert np.isin(salt, (0, 1)).all() and salt.dtype == np.float32
    moved = (salt != masks).any(axis=(1, 2))
    assert moved.sum() >= len(masks) / 4
    assert len(np.unique(salt[moved], axis=0)) == moved.sum()  # each tile its own way


def test_beyond_its_border_a_tile_is_mirrored_not_black():
    images, masks = np.full((8, 101, 101), 200, np.uint8), np.ones((8, 101, 101), bool)
    image, salt = augmented(GEOMETRY["everything"], images, masks)
    np.testing.assert_allclose(image, 200 / 255, atol=1e-5)
    assert salt.all()


def fresh():
    return np.random.default_rng(7)


def switched(augmentation, count, flipped=None):
    """What `_choose` returns, with these tiles flipped."""
    on = augmentation._choose(count, np.random.default_rng(1))
    return on if flipped is None else {**on, "flip": flipped}


def test_only_zoom_changes_areas_however_the_changes_are_combined():
    still = replace(GEOMETRY["everything"], zoom=0.0)
    flipped = np.arange(9) % 2 == 0
    rows = still._matrices(switched(still, 9, flipped), 101, np.random.default_rng(0))
    determinant = np.linalg.det(rows[:, [[0, 1], [3, 4]]])
    np.testing.assert_allclose(determinant, np.where(flipped, -1, 1), atol=1e-5)


def centered_bar():
    """64 tiles, each with a bar of 16 x 40 pixels at its center."""
    bars = np.zeros((64, 101, 101), bool)
    bars[:, 43:59, 31:71] = True
    return bars


def moved_bar(name):
    return augmented(GEOMETRY[name], centered_bar().astype(np.uint8), centered_bar())[1]


def moments(masks):
    """Area, center (row, col) and tilt (covariance of row and col) of each mask."""
    row, col = np.mgrid[: masks.shape[1], : masks.shape[2]]
    area = masks.sum(axis=(1, 2))
    y, x = ((masks * axis).sum(axis=(1, 2)) / area for axis in (row, col))
    return area, y, x, (masks * row * col).sum(axis=(1, 2)) / area - y * x


def test_zoom_changes_the_area_and_keeps_the_center():
    area, y, x, _ = moments(moved_bar("zoom"))
    ratio = area / 640
    assert 0.7**2 * 0.9 < ratio.min() < 0.65 and 1.5 < ratio.max() < 1.3**2 * 1.1
    assert np.abs(y - 50.5).max() < 1 and np.abs(x - 50.5).max() < 1


def test_shift_moves_the_center_both_ways_and_keeps_the_area():
    area, y, x, _ = moments(moved_bar("shift"))
    for center in (y - 50.5, x - 50.5):
        assert -21 < center.min() < -14 and 14 < center.max() < 21
    assert np.abs(area / 640 - 1).max() < 0.05
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.5


def test_rotation_tilts_both_ways_about_the_center_and_keeps_the_area():
    area, y, x, tilt = moments(moved_bar("rotation"))
    most = (40**2 - 16**2) / 12 * np.sin(np.deg2rad(60)) / 2  # at 30 degrees
    assert 0.8 * most < tilt.max() < 1.1 * most
    assert -1.1 * most < tilt.min() < -0.8 * most
    assert np.abs(area / 640 - 1).max() < 0.05
    assert np.abs(y - 50.5).max() < 1 and np.abs(x - 50.5).max() < 1


@pytest.mark.parametrize("name", TONES)
def test_tones_change_the_image_alone_within_the_range(name):
    wedge = np.tile(np.arange(256, dtype=np.uint8), (64, 256, 1))
    masks = blobs(64, 256)
    image, salt = augmented(TONES[name], wedge, masks)
    before, after = np.arange(256) / 255, image[:, 0]
    assert np.array_equal(salt, masks)
    assert image.min() >= 0 and image.max() <= 1
    assert (np.diff(after) >= 0).all()  # brighter stays brighter
    change = after - before
    assert change.min() < -0.03 and change.max() > 0.03
    if name == "brightness":
        assert np.abs(change).max() <= 0.2 + 1e-6
    if name == "contrast":
        assert np.abs(change[:, 127:129]).max() < 0.002  # the middle stays
    if name == "gamma":
        assert not change[:, [0, 255]].any()  # black and white stay
        assert after.max(axis=0)[128] <= (128 / 255) ** (1 / 1.5) + 1e-6
        assert after.min(axis=0)[128] >= (128 / 255) ** 1.5 - 1e-6


# --- crop, blur, elastic and grid distortion

CROP = replace(OFF, crop=50 / 101)
BLUR = replace(OFF, blur=0.03)
ELASTIC = replace(OFF, elastic=0.02)
GRID = replace(OFF, grid=0.3)
BRONZE = systems.get("bronze-inceptionresnet").augmentation
OLSEN = systems.get("olsen-seresnext50").augmentation
ALL = replace(OLSEN, rotation=45.0, contrast=0.2, probability=1.0, one_of=())
NEW = {"crop": CROP, "blur": BLUR, "elastic": ELASTIC, "grid": GRID}
ROWS = {**NEW, "bronze": BRONZE, "Olsen": OLSEN, "all": ALL}


def hills(count=16, size=101):
    """Smooth images, and masks that are exactly where they are bright."""
    noise = np.random.default_rng(6).random((count, size, size))
    smooth = gaussian_filter(noise, (0, 8, 8), mode="reflect")
    low, high = smooth.min(axis=(1, 2)), smooth.max(axis=(1, 2))
    smooth = (smooth - low[:, None, None]) / (high - low)[:, None, None]
    images = np.rint(255 * smooth).astype(np.uint8)
    return images, images > 127


@pytest.mark.parametrize("name", sorted({*ROWS} - {"blur"}))
def test_salt_stays_where_the_image_shows_it(name):
    tones = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "blur": 0.0}
    row = replace(ROWS[name], **tones, one_of=ROWS[name].one_of[:1])
    images, masks = hills()
    image, salt = augmented(row, images, masks)
    seen = image > 127.5 / 255
    overlap = (seen & (salt == 1)).sum(axis=(1, 2)) / (seen | (salt == 1)).sum((1, 2))
    assert overlap.mean() > 0.97 and overlap.min() > 0.9
    assert (salt != masks).any(axis=(1, 2)).sum() >= 8


@pytest.mark.parametrize("name", ROWS)
def test_every_row_changes_tiles_and_keeps_types_ranges_and_the_seed(name):
    images, masks = noise(16), blobs(16)
    image, salt = augmented(ROWS[name], images, masks)
    assert image.dtype == salt.dtype == np.float32
    assert image.shape == salt.shape == images.shape
    assert image.min() >= 0 and image.max() <= 1 and np.isin(salt, (0, 1)).all()
    assert (np.abs(image - images / 255) > 0.01).any(axis=(1, 2)).sum() >= 8
    again = augmented(ROWS[name], images, masks)
    assert np.array_equal(again[0], image) and np.array_equal(again[1], salt)
    assert not np.array_equal(augmented(ROWS[name], images, masks, seed=1)[0], image)


@pytest.mark.parametrize("name", ROWS)
def test_empty_masks_stay_empty_and_full_ones_full(name):
    masks = np.arange(16)[:, None, None] < np.full((101, 101), 8)
    _, salt = augmented(ROWS[name], noise(16), masks)
    assert np.array_equal(salt, masks)


def corners(matrices, size):
    """Where the tile's outer corners are taken from: x and y, (n, 4)."""
    x, y = np.meshgrid([-0.5, size - 0.5], [-0.5, size - 0.5])
    a0, a1, a2, b0, b1, b2 = matrices.T[:6, :, None]
    x, y = x.ravel(), y.ravel()
    return a0 * x + a1 * y + a2, b0 * x + b1 * y + b2


def test_a_crop_is_a_square_of_any_allowed_side_anywhere_within_the_tile():
    rng = np.random.default_rng(0)
    rows = CROP._matrices(switched(CROP, 500), 101, rng)
    for place in corners(rows, 101):
        assert place.min() >= -0.5 - 1e-4 and place.max() <= 100.5 + 1e-4
        assert place.min() < 0 and place.max() > 100  # up to the border
        assert np.ptp(place.min(axis=1)) > 30
    sides = 101 * rows[:, 0]
    assert np.array_equal(rows[:, 0], rows[:, 4]) and not rows[:, [1, 3]].any()
    assert 50 <= sides.min() + 1e-3 < 52 and 99 < sides.max() <= 101
    assert abs(sides.mean() - 75.5) < 2


def test_a_crop_shows_no_mirrored_pixels():
    ramp = np.tile(np.arange(101, dtype=np.uint8), (64, 101, 1))
    image, _ = augmented(CROP, ramp, blobs(64))
    assert (np.diff(image, axis=2) >= -1e-6).all()
    assert (np.diff(image, axis=2)[:, :, 1:-1] > 0).all()


def test_bronze_crops_and_extends_and_turns_a_little():
    rows = BRONZE._matrices(switched(BRONZE, 500, np.zeros(500, bool)), 101, fresh())
    sides = 101 * np.hypot(rows[:, 0], rows[:, 3])
    angles = np.rad2deg(np.arctan2(rows[:, 3], rows[:, 0]))
    assert 75 < sides.min() < 85 and 130 < sides.max() < 145
    assert -2.5 <= angles.min() < -2.3 and 2.3 < angles.max() <= 2.5


@pytest.mark.parametrize("part", ["elastic", "grid"])
@pytest.mark.parametrize(
    "row",
    [
        Augmentation(),
        GEOMETRY["everything"],
        CROP,
        Augmentation(0.5, zoom=0.9, shift=0.9, rotation=180.0),  # far outside
    ],
)
def test_no_displacement_leaves_the_affine_map_alone(row, part):
    images, masks = noise(12), blobs(12)
    affine = augmented(replace(row, shift=row.shift or 1e-9), images, masks)
    with_part = replace(row, shift=row.shift or 1e-9, **{part: 1e-9})
    image, salt = augmented(with_part, images, masks)
    np.testing.assert_allclose(image, affine[0], atol=3e-3)
    assert (salt != affine[1]).mean() < 1e-4


def test_elastic_displacements_are_as_large_as_asked_and_smooth():
    away = ELASTIC._displacements(switched(ELASTIC, 64), 101, fresh())
    assert away.shape == (64, 2, 101, 101) and away.dtype == np.float32
    assert away.std() == pytest.approx(0.02 * 101, rel=0.03)
    per_pixel = away.std(axis=(0, 1))
    assert per_pixel.min() > 1.4 and per_pixel.max() < 2.7
    assert np.diff(away, axis=3).std() < 0.15 * away.std()
    assert abs((away[:, 0] * away[:, 1]).mean()) < 0.1 * away.var()


def test_a_grid_is_moved_line_by_line_within_the_tile():
    away = GRID._displacements(switched(GRID, 64), 100, fresh())
    x, y = away[:, 0], away[:, 1]
    assert not np.ptp(x, axis=1).any() and not np.ptp(y, axis=2).any()
    for lines in (x[:, 0], y[:, :, 0]):
        place = lines + np.arange(100)
        steps = np.diff(place, axis=1)
        assert place.min() >= -0.5 and place.max() <= 99.5
        assert 0.7 / 1.3 < steps.min() < 0.8 and 1.2 < steps.max() < 1.3 / 0.7
        inside = steps.reshape(64, -1)[:, np.arange(99) % 20 < 19]  # no line between
        assert np.ptp(inside.reshape(64, 5, 19), axis=2).max() < 1e-4


def test_a_moved_grid_keeps_columns_straight_and_moves_them():
    stripes = np.tile(noise(16)[:, :1], (1, 101, 1))
    image, _ = augmented(GRID, stripes, blobs(16))
    assert np.ptp(image, axis=1).max() < 2e-3
    assert (np.abs(image - stripes / 255) > 0.1).any(axis=(1, 2)).all()


def test_only_tiles_that_drew_a_distortion_are_displaced():
    row = replace(ALL, one_of=(("elastic", "grid", "crop"),))
    on = switched(row, 60)
    away = row._displacements(on, 32, fresh())
    assert np.array_equal(away.any(axis=(1, 2, 3)), on["elastic"] | on["grid"])
    assert 10 < on["crop"].sum() < 30
    sides = np.linalg.det(row._matrices(on, 32, fresh())[:, [[0, 1], [3, 4]]])
    assert np.abs(sides[on["crop"]]).mean() < 0.8 * np.abs(sides[~on["crop"]]).mean()


def test_a_distorted_tile_keeps_its_own_displacement_and_its_own_map():
    row = replace(OFF, elastic=0.03, contrast=0.1, one_of=(("elastic", "contrast"),))
    salt = augmented(row, noise(16), blobs(16))[1]
    distorted = row._choose(16, np.random.default_rng(0))["elastic"]
    assert np.array_equal((salt != blobs(16)).any(axis=(1, 2)), distorted)
    parts = {"elastic": 1e-9, "brightness": 0.1, "contrast": 0.1}
    row = replace(GEOMETRY["everything"], **parts, one_of=(("elastic", "contrast"),))
    affine = replace(row, elastic=0.0, one_of=(("brightness", "contrast"),))
    salt, expected = (augmented(r, noise(16), blobs(16))[1] for r in (row, affine))
    assert (salt != expected).mean() < 1e-4


def test_blur_spreads_intensity_and_leaves_masks_alone():
    points = np.zeros((200, 101, 101), np.uint8)
    points[:, 50, 50] = 255
    image, salt = augmented(BLUR, points, blobs(200))
    assert np.array_equal(salt, blobs(200))
    area, y, x, _ = moments(image)
    np.testing.assert_allclose([area, y, x], [[1] * 200, [50] * 200, [50] * 200], 1e-4)
    width = np.sqrt((image * (np.arange(101) - 50) ** 2).sum(axis=(1, 2)))
    assert width.min() < 0.5 and 2.9 < width.max() <= 3.03  # 0.03 x 101 pixels
    sharpest = np.argmax(width)
    oracle = gaussian_filter(points[sharpest] / 255, width[sharpest])
    np.testing.assert_allclose(image[sharpest], oracle, atol=1e-4)


def test_blur_changes_neither_constant_tiles_nor_what_other_changes_drew():
    masks = np.zeros((8, 101, 101), bool)
    image, _ = augmented(BLUR, np.full((8, 101, 101), 51, np.uint8), masks)
    np.testing.assert_allclose(image, 0.2, atol=1e-5)
    row = GEOMETRY["everything"]
    salt = augmented(row, noise(16), blobs(16))[1]
    blurred = augmented(replace(row, blur=0.02), noise(16), blobs(16))[1]
    assert np.array_equal(salt, blurred)


def test_changes_that_are_off_draw_no_random_numbers():
    for row, numbers in [(Augmentation(), 4), (GEOMETRY["everything"], 8)]:
        rng, other = fresh(), fresh()
        row(noise(), blobs(3), rng)
        other.random(3 * numbers)
        assert rng.random() == other.random()


# --- which tiles get which changes


def test_a_fraction_of_the_tiles_stays_as_it_is():
    row = replace(ALL, flip=1.0, probability=0.75)
    images, masks = noise(400, 32), blobs(400, 32)
    image, salt = augmented(row, images, masks)
    same = np.abs(image - images / 255).max(axis=(1, 2)) < 1e-5
    assert 70 < same.sum() < 130
    assert np.array_equal(salt[same], masks[same])


def test_each_tile_draws_one_member_of_a_group():
    row = replace(OLSEN, probability=1.0, contrast=0.2)
    on = switched(row, 3000)
    assert np.array_equal(on["zoom"], on["shift"])
    assert np.array_equal(on["zoom"], on["rotation"])
    groups = [("zoom", "crop", "elastic"), ("grid", "brightness", "gamma", "blur")]
    for names in groups:
        drawn = np.array([on[name] for name in names])
        assert (drawn.sum(axis=0) == 1).all()
        np.testing.assert_allclose(drawn.mean(axis=1), 1 / len(names), atol=0.04)
    together = (on["crop"] & on["grid"]).mean()  # the groups are independent
    assert abs(together - 1 / 12) < 0.03
    assert on["contrast"].all() and not switched(OLSEN, 9)["contrast"].any()
    assert abs(on["flip"].mean() - 0.5) < 0.04
    fewer = switched(OLSEN, 3000)
    assert abs((fewer["zoom"] | fewer["crop"] | fewer["elastic"]).mean() - 0.8) < 0.03
    assert abs(fewer["flip"].mean() - 0.4) < 0.04


def test_what_a_tile_did_not_draw_does_not_act():
    row = replace(OFF, brightness=0.3, shift=0.2, one_of=(("brightness", "shift"),))
    masks = blobs(1).repeat(64, axis=0)
    image, salt = augmented(row, np.full(masks.shape, 128, np.uint8), masks)
    moved = (salt != masks).any(axis=(1, 2))
    brighter = np.abs(image - 128 / 255).max(axis=(1, 2)) > 1e-4
    assert np.array_equal(moved, ~brighter) and 16 < moved.sum() < 48


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"flip": 1.1}, "flip must be between 0 and 1"),
        ({"zoom": -0.1}, "zoom must be between"),
        ({"zoom": 1.0}, "zoom must be between 0 and 0.9"),
        ({"crop": 50}, "crop must be between 0 and 1"),
        ({"grid": 1.0}, "grid must be between"),
        ({"blur": -1e-9}, "blur must be between"),
        ({"elastic": float("nan")}, "elastic must be between"),
        ({"rotation": float("inf")}, "rotation must be between 0 and 180"),
        ({"probability": 1.5}, "probability must be between 0 and 1"),
        ({"one_of": (("zoom", "blurr"),)}, "'blurr' is unknown"),
        ({"one_of": (("zoom", "probability"),)}, "'probability' is unknown"),
        ({"one_of": (("zoom+", "shift"),)}, "'' is unknown"),
        ({"one_of": ("zoom", "shift")}, "two members"),
        ({"one_of": (("zoom",),)}, "two members"),
        ({"one_of": ((),)}, "two members"),
        ({"one_of": (("zoom", "gamma"),)}, "'gamma' is unknown, off"),
        ({"one_of": (("zoom", "shift"), ("zoom", "flip"))}, "'zoom' is .* named twice"),
    ],
)
def test_impossible_augmentations_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        Augmentation(**{"zoom": 0.1, "shift": 0.1, **options})
