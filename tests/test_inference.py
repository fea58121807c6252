from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, logit

from helpers.batches import ResizeOrPad
from helpers.inference import (
    PostProcess,
    bootstrap_ci,
    cross_fit,
    ensemble,
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
    framed = transform.forward(tiles())[..., None] / np.float32(255)
    expected = expit(leaning(framed))
    if tta:
        turned = expit(leaning(framed[:, :, ::-1]))[:, :, ::-1]
        expected = (expected + turned) / 2
    predicted = predict(LEANING, tiles(), transform, tta=tta, batch_size=2)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(
        predicted, transform.inverse(expected[..., 0]), atol=1e-6
    )


def test_with_flips_a_flipped_tile_gets_the_flipped_prediction():
    turned = tiles()[:, :, ::-1]
    for tta in (True, False):
        a = predict(LEANING, tiles(), ResizeOrPad(127), tta)
        b = predict(LEANING, turned, ResizeOrPad(127), tta)[:, :, ::-1]
        assert np.allclose(a, b, atol=1e-6) == tta


def test_progress_counts_batches_and_no_tiles_are_no_problem():
    seen = []

    def progress(loop):
        seen.extend(loop)
        return loop

    assert predict(LEANING, tiles(), ResizeOrPad(), True, 2, progress).all()
    assert seen == [0, 2, 4]
    assert predict(LEANING, tiles(0), ResizeOrPad()).shape == (0, 101, 101)


def test_an_ensemble_is_a_weighted_mean():
    low, high = np.full((2, 3, 3), 0.2), np.full((2, 3, 3), 0.8)
    assert np.allclose(ensemble([low, high]), 0.5)
    assert np.allclose(ensemble([low, high], [3, 1]), 0.35)
    with pytest.raises(ValueError, match="equal shape"):
        ensemble([low, high[:1]])
    with pytest.raises(ValueError, match="one or more"):
        ensemble([])


def test_a_rule_cuts_and_empties_small_masks():
    probabilities = np.zeros((3, 4, 4))
    probabilities[0, 0, :3] = probabilities[1, 0, :2] = 0.7
    probabilities[2] = 0.6
    assert PostProcess()(probabilities).sum(axis=(1, 2)).tolist() == [3, 2, 16]
    assert PostProcess(0.6, 3)(probabilities).sum(axis=(1, 2)).tolist() == [3, 0, 0]


def guesses(count=40, seed=0, skill=1.0):
    """Masks of which a third are empty, and noisy probabilities for them."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 20, 20), bool)
    for mask in masks[count // 3 :]:
        mask[: rng.integers(2, 20), : rng.integers(2, 20)] = True
    return masks, expit(skill * (2.0 * masks - 1) + rng.normal(size=masks.shape))


def test_every_rule_scores_as_if_applied_by_itself():
    masks, probabilities = guesses()
    rules, scores = score_grid(masks, probabilities, (0.3, 0.7), (0, 40, 400))
    assert len(rules) == 6 and scores.shape == (6, 40)
    for rule, score in zip(rules, scores, strict=True):
        assert np.array_equal(score, precision_per_image(masks, rule(probabilities)))


def best_rule(masks, probabilities):
    rules, scores = score_grid(masks, probabilities)
    return rules[int(scores.mean(axis=1).argmax())]


def test_best_rule_is_the_best_of_all():
    masks, probabilities = guesses(skill=2.0)
    probabilities = expit(logit(probabilities) + 0.8)  # too much salt everywhere
    rule = best_rule(masks, probabilities)
    best = mean_precision(masks, rule(probabilities))
    assert best == score_grid(masks, probabilities)[1].mean(axis=1).max()
    assert best > mean_precision(masks, probabilities > 0.5)
    assert rule.threshold > 0.5


def test_cross_fitting_scores_each_half_under_the_rule_of_the_other():
    masks, probabilities = guesses()
    order = np.random.default_rng(7).permutation(40)
    rule, honest = cross_fit(masks, probabilities, seed=7)
    for mine, other in ((order[:20], order[20:]), (order[20:], order[:20])):
        chosen = best_rule(masks[other], probabilities[other])
        expected = precision_per_image(masks[mine], chosen(probabilities[mine]))
        assert np.array_equal(honest[mine], expected)
    assert rule == best_rule(masks, probabilities)


def test_on_noise_the_honest_score_is_below_the_flattering_one():
    gaps = []
    for seed in range(12):
        masks, probabilities = guesses(20, seed, skill=0.7)
        rule, honest = cross_fit(masks, probabilities, seed)
        flattering = mean_precision(masks, rule(probabilities))
        gaps.append(flattering - honest.mean())
    assert np.mean(gaps) > 0.005


def test_the_interval_holds_the_mean_and_narrows_with_more_tiles():
    scores = np.tile([0.0, 0.5, 1.0, 1.0], 25)
    low, high = bootstrap_ci(scores)
    error = scores.std() / len(scores) ** 0.5
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.015)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.015)
    assert bootstrap_ci(scores) == (low, high)
    narrow = bootstrap_ci(scores, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_ci(np.ones(9)) == (1.0, 1.0)
