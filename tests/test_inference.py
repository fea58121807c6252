from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import expit, logit

from helpers.batches import ResizeOrPad
from helpers.inference import (
    THRESHOLDS,
    PostProcess,
    as_bytes,
    bootstrap_ci,
    cross_fit,
    predict,
    predict_section,
    score_grid,
)
from helpers.metrics import mean_precision, precision_per_image


def leaning(batch):
    """Logits of a "network" that sees more salt on the right."""
    assert batch.dtype == np.float32 and batch.ndim == 4
    assert batch.min() >= 0 and batch.max() <= 1
    return 4 * batch - 2 + np.linspace(-2, 2, batch.shape[2])[None, None, :, None]


LEANING = SimpleNamespace(predict_on_batch=leaning)


def tiles(count=5):
    return np.random.default_rng(3).integers(0, 256, (count, 101, 101), np.uint8)


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(
    "transform", [ResizeOrPad(128, "pad"), ResizeOrPad(128, "resize")]
)
def test_predictions_are_those_made_by_hand(transform, tta):
    resized = transform.forward(tiles())[..., None] / np.float32(255)
    expected = expit(leaning(resized))
    if tta:
        flipped = expit(leaning(resized[:, :, ::-1]))[:, :, ::-1]
        expected = (expected + flipped) / 2
    predicted = predict(LEANING, tiles(), transform, tta=tta, batch_size=2)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(
        predicted, transform.inverse(expected[..., 0]), atol=1e-6
    )


def test_with_tta_a_flipped_tile_gets_the_flipped_prediction():
    flipped = tiles()[:, :, ::-1]
    for tta in (True, False):
        a = predict(LEANING, tiles(), ResizeOrPad(127), tta)
        b = predict(LEANING, flipped, ResizeOrPad(127), tta)[:, :, ::-1]
        assert np.allclose(a, b, atol=1e-6) == tta


def test_progress_counts_batches_and_no_tiles_are_no_problem():
    seen = []

    def progress(loop):
        seen.extend(loop)
        return loop

    predicted = predict(LEANING, tiles(), ResizeOrPad(), True, 2, progress)
    assert seen == [0, 2, 4]
    np.testing.assert_array_equal(predicted, predict(LEANING, tiles()))  # the defaults
    assert predict(LEANING, tiles(0)).shape == (0, 101, 101)


def test_of_several_outputs_the_mask_is_predicted():
    several = SimpleNamespace(
        predict_on_batch=lambda x: {"gate": x[:, 0, 0], "mask": leaning(x)}
    )
    np.testing.assert_array_equal(predict(several, tiles()), predict(LEANING, tiles()))


def test_masks_are_thresholded_and_small_ones_emptied():
    probabilities = np.zeros((3, 4, 4))
    probabilities[0, 0, :3] = probabilities[1, 0, :2] = 0.7
    probabilities[2] = 0.6
    assert PostProcess()(probabilities).sum(axis=(1, 2)).tolist() == [3, 2, 16]
    assert PostProcess(0.6, 3)(probabilities).sum(axis=(1, 2)).tolist() == [3, 0, 0]


def test_small_components_are_removed_before_small_masks():
    probabilities = np.zeros((2, 6, 6), np.float32)
    probabilities[0, :2, :2] = 1.0
    probabilities[0, 2, 2] = 1.0  # touches a corner only
    probabilities[0, 5, :3] = probabilities[1, 0, :3] = 1.0  # touch in the stack only
    areas = [
        PostProcess(min_component_size=size)(probabilities).sum()
        for size in (0, 1, 2, 3, 4, 5)
    ]
    assert areas == [11, 11, 10, 10, 4, 0]
    assert not PostProcess(0.5, 5, min_component_size=4)(probabilities).any()
    assert PostProcess(0.5, 5, min_component_size=1)(probabilities)[0].sum() == 8
    assert PostProcess(min_component_size=4)(probabilities[:0]).shape == (0, 6, 6)


def test_probabilities_stored_as_bytes_give_the_same_masks():
    steps = np.arange(256).reshape(1, 16, 16) / 255
    assert as_bytes(steps).dtype == np.uint8
    for threshold in THRESHOLDS:
        masks = PostProcess(threshold)(as_bytes(steps))
        assert np.array_equal(masks, steps > threshold + 1e-9)


def guesses(count=40, seed=0, skill=1.0):
    """Masks of which a third are empty, and noisy probabilities for them."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 20, 20), bool)
    for mask in masks[count // 3 :]:
        mask[: rng.integers(2, 20), : rng.integers(2, 20)] = True
    return masks, expit(skill * (2.0 * masks - 1) + rng.normal(size=masks.shape))


def test_the_grid_scores_each_post_processing_as_if_applied_by_itself():
    masks, probabilities = guesses()
    grid, scores = score_grid(masks, probabilities, (0, 40, 400))
    assert len(set(grid)) == 27 and scores.shape == (27, 40)
    for post_process, score in zip(grid, scores, strict=True):
        expected = precision_per_image(masks, post_process(probabilities))
        assert np.array_equal(score, expected)


def best_of(masks, probabilities):
    grid, scores = score_grid(masks, probabilities)
    return grid[int(scores.mean(axis=1).argmax())]


def test_the_best_of_the_grid_beats_the_default():
    masks, probabilities = guesses(skill=2.0)
    probabilities = expit(logit(probabilities) + 0.8)  # too much salt everywhere
    post_process, _ = cross_fit(masks, probabilities)
    best = mean_precision(masks, post_process(probabilities))
    assert best == score_grid(masks, probabilities)[1].mean(axis=1).max()
    assert best > mean_precision(masks, probabilities > 0.5)
    assert post_process.threshold > 0.5


def test_cross_fitting_scores_each_half_with_the_choice_of_the_other():
    masks, probabilities = guesses()
    order = np.random.default_rng(7).permutation(40)
    post_process, unbiased = cross_fit(masks, probabilities, seed=7)
    for mine, other in ((order[:20], order[20:]), (order[20:], order[:20])):
        chosen = best_of(masks[other], probabilities[other])
        expected = precision_per_image(masks[mine], chosen(probabilities[mine]))
        assert np.array_equal(unbiased[mine], expected)
    assert post_process == best_of(masks, probabilities)
    with pytest.raises(ValueError, match="two or more"):
        cross_fit(masks[:1], probabilities[:1])


def test_on_noise_the_unbiased_score_is_below_the_biased_one():
    gaps = []
    for seed in range(12):
        masks, probabilities = guesses(20, seed, skill=0.7)
        post_process, unbiased = cross_fit(masks, probabilities, seed)
        biased = mean_precision(masks, post_process(probabilities))
        gaps.append(biased - unbiased.mean())
    assert np.mean(gaps) > 0.005


def test_the_interval_holds_the_mean_and_narrows_with_more_tiles():
    scores = np.tile([0.0, 0.5, 1.0, 1.0], 25)
    low, high = bootstrap_ci(scores)
    error = scores.std() / len(scores) ** 0.5
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.015)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.015)
    assert bootstrap_ci(scores) == (low, high)
    narrow = bootstrap_ci(np.tile(scores, 4))
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_ci(np.ones(9)) == (1.0, 1.0)


@pytest.mark.parametrize(
    "images",
    [
        tiles() / 255,
        (tiles() / 255).astype(np.float32),
        tiles().astype(np.int64),
        tiles() > 9,
        tiles()[..., None],
        tiles()[0],
        tiles()[:, :64, :64],
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)
def test_only_tiles_as_they_were_read_are_predicted(images):
    fault = r"images must be uint8 \(n, 101, 101\), not divided by 255; these are "
    with pytest.raises(ValueError, match=f"{fault}{images.dtype} "):
        predict(LEANING, images)
    with pytest.raises(ValueError, match=r"uint8 \(5, 101, 101\) by -1"):
        predict(LEANING, tiles(), batch_size=-1)


def test_a_model_of_another_size_is_refused():
    half = SimpleNamespace(predict_on_batch=lambda x: leaning(x)[:, ::2, ::2], name="h")
    fault = r"h: gives \(128, 64, 64, 1\) for inputs \(128, 128, 128, 1\)"
    with pytest.raises(ValueError, match=fault):
        predict(half, tiles())


@pytest.mark.parametrize("tta", [False, True])
def test_a_network_that_says_nan_is_named(tta):
    def sick(batch):
        logits = leaning(batch)
        logits[1, 5, 5] = np.nan
        return {"mask": logits}

    model = SimpleNamespace(predict_on_batch=sick, name="salt-net")
    with pytest.raises(FloatingPointError, match=r"salt-net: predicts NaN: train"):
        predict(model, tiles(), tta=tta)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.2, 255])
def test_what_is_no_probability_is_refused_everywhere(value):
    masks, probabilities = guesses()
    probabilities[3, 4, 5] = value
    for use in (PostProcess(), as_bytes):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\], not"):
            use(probabilities)
    for use in (score_grid, cross_fit):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\], not"):
            use(masks, probabilities)
    with pytest.raises(ValueError, match=r"\(20, 20\)"):
        PostProcess()(probabilities[0])


def test_probabilities_may_be_off_by_rounding():
    assert PostProcess(0.9)(np.full((1, 4, 4), 1 + 1e-6, np.float32)).all()
    assert as_bytes(np.full((1, 4, 4), 1 + 1e-6)).max() == 255


@pytest.mark.parametrize(
    "values", [(np.nan,), (-0.1,), (1.1,), (0.5, -1), (0.5, 0, -1)]
)
def test_post_processing_without_sense_is_refused(values):
    with pytest.raises(ValueError, match=r"PostProcess\(.*lies in \[0, 1\]"):
        PostProcess(*values)


@pytest.mark.parametrize("scores", [[], [0.5, np.nan], [np.inf], 0.5, [[0.5]]])
def test_an_interval_needs_numbers(scores):
    with pytest.raises(ValueError, match="needs scores"):
        bootstrap_ci(scores)


IDENTITY = SimpleNamespace(predict_on_batch=lambda x: logit(x.clip(1e-6, 1 - 1e-6)))


@pytest.mark.parametrize(
    "shape", [(300, 200), (128, 128), (50, 40), (300, 1), (5, 999)]
)
def test_a_network_that_returns_its_input_returns_the_section(shape):
    section = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    section[0], section[-1] = 0, 255  # no trace is constant
    predicted = predict_section(IDENTITY, section)
    assert predicted.dtype == np.float32 and predicted.shape == shape
    np.testing.assert_allclose(predicted, section / 255, atol=1e-5)


def blurring(batch):
    """A "network" that sees its neighborhood, and zeros beyond the window's border."""
    levels = gaussian_filter(batch, (0, 9, 9, 0), mode="constant")
    return logit(levels.clip(1e-6, 1 - 1e-6))


@pytest.mark.parametrize("shift", [64, 37])
def test_there_are_no_seams(shift):
    rng, blur = np.random.default_rng(0), SimpleNamespace(predict_on_batch=blurring)
    section = gaussian_filter(rng.standard_normal((400, 600)), 3)
    whole = predict_section(blur, section)
    shifted = predict_section(blur, section[:, shift:])
    difference = np.abs(shifted - whole[:, shift:])
    assert difference.mean() < 0.01
    assert difference[:, 64:].mean() < 0.006 < whole[100:-100, 100:-100].std()


def test_amplitudes_become_gray_levels_once_for_the_section():
    """Not in every window: what is quiet beside something loud remains quiet."""
    rng = np.random.default_rng(0)
    section = 1e4 * rng.standard_normal((400, 300))
    section[200:] /= 50
    predicted = predict_section(IDENTITY, section)
    assert predicted[250:].std() < 0.1 * predicted[:150].std()
    np.testing.assert_allclose(
        predict_section(IDENTITY, section / 7 + 3), predicted, atol=1e-5
    )
    section[17, 23] = 1e9  # a spike does not hide the rest
    assert predict_section(IDENTITY, section)[:150].std() > 0.9 * predicted[:150].std()


def test_where_nothing_was_recorded_there_is_no_salt():
    section = np.random.default_rng(0).standard_normal((150, 140)).astype(np.float32)
    section[3, 4], section[5, 6], section[:, 9], section[:, 11] = (
        np.nan,
        np.inf,
        0,
        np.nan,
    )
    always = SimpleNamespace(predict_on_batch=lambda batch: np.full_like(batch, 5))
    dead = predict_section(always, section) == 0
    assert dead[3, 4] and dead[5, 6] and dead[:, (9, 11)].all()
    assert dead.sum() == 2 + 2 * 150
    for nothing in (np.nan, 7):
        assert not predict_section(always, np.full((150, 140), nothing)).any()


@pytest.mark.parametrize(("scale", "size"), [(2, (200, 160)), ((0.5, 3), (50, 240))])
def test_a_section_is_resampled_to_the_scale_of_tiles(scale, size):
    def windows(batch):
        seen.append(batch)
        return np.zeros_like(batch)

    seen, section = [], np.random.default_rng(0).random((100, 80))
    model = SimpleNamespace(predict_on_batch=windows)
    predicted = predict_section(model, section, ResizeOrPad(256), scale)
    assert predicted.shape == (100, 80)
    window, (height, width) = seen[0][0, ..., 0], size
    assert window.shape == (256, 256)  # beyond the section it is mirrored
    np.testing.assert_array_equal(window[height], window[height - 2])
    np.testing.assert_array_equal(window[:, width], window[:, width - 2])
    assert (window[height - 1] != window[height - 3]).any()


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((3, 4, 5), 1),
        ((0, 5), 1),
        ((7,), 1),
        ((5, 5), 0),
        ((5, 5), (1, -1)),
        ((5, 5), np.nan),
    ],
)
def test_what_is_no_section_is_refused(shape, scale):
    with pytest.raises(ValueError, match=r"needs \(samples, traces\) and a positive"):
        predict_section(IDENTITY, np.ones(shape), scale=scale)
