from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, logit

from helpers.batches import ResizeOrPad
from helpers.inference import (
    THRESHOLDS,
    PostProcess,
    as_bytes,
    bootstrap_ci,
    cross_fit,
    predict,
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
