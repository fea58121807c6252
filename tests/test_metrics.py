import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.batches import ResizeOrPad
from helpers.metrics import (
    CompetitionScore,
    MeanTileIoU,
    iou,
    mean_precision,
    precision_per_image,
)

FULL = 101 * 101
VECTORS = [
    (50, 100, 0.0),
    (51, 100, 0.1),
    (55, 100, 0.1),
    (60, 100, 0.2),
    (669, 1000, 0.4),
    (75, 100, 0.5),
    (80, 100, 0.6),
    (95, 100, 0.9),
    (96, 100, 1.0),
    (FULL, FULL, 1.0),
]
PAIRS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(*[arrays(bool, (n, 4, 6), fill=st.just(False))] * 2)
)


def first(count):
    """One tile (1, 101, 101) of which the first `count` pixels are salt."""
    return (np.arange(FULL) < count).reshape(1, 101, 101)


@pytest.mark.parametrize(("intersection", "union", "score"), VECTORS)
def test_score_at_and_beside_the_exact_thresholds(intersection, union, score):
    pair = first(union), first(intersection)
    assert precision_per_image(*pair) == [score]
    assert precision_per_image(*pair[::-1]) == [score]
    assert iou(*pair) == [intersection / union]


@pytest.mark.parametrize("salt", [1, FULL])
def test_one_empty_side_scores_nothing_and_two_score_all(salt):
    assert precision_per_image(first(salt), first(0)) == [0.0]
    assert precision_per_image(first(0), first(salt)) == [0.0]
    assert precision_per_image(first(0), first(0)) == [1.0]
    assert iou(first(0), first(0)) == [1.0]
    assert iou(first(salt), first(0)) == [0.0]


@given(PAIRS)
def test_score_is_symmetric_and_a_multiple_of_a_tenth(pair):
    scores = precision_per_image(*pair)
    assert np.array_equal(scores, precision_per_image(*pair[::-1]))
    assert np.allclose(10 * scores, np.rint(10 * scores))
    assert ((scores >= 0) & (scores <= iou(*pair))).all()
    assert mean_precision(*pair) == pytest.approx(scores.mean())


def test_only_stacks_of_one_shape_are_scored():
    with pytest.raises(ValueError, match=r"\(n, height, width\)"):
        precision_per_image(np.zeros((2, 4, 4), bool), np.zeros((1, 4, 4), bool))
    with pytest.raises(ValueError, match=r"\(n, height, width\)"):
        precision_per_image(np.zeros((4, 4), bool), np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="threshold"):
        mean_precision(first(1), np.full((1, 101, 101), 0.3))
    with pytest.raises(ValueError, match="no tiles"):
        mean_precision(np.zeros((0, 4, 4), bool), np.zeros((0, 4, 4), bool))


def some_tiles(count, size, seed=1):
    """Masks, and logits whose masks overlap them more or less; both kinds of empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), bool)
    masks[1:, 20:70, 30:80] = True
    noise = rng.uniform(0, 1, masks.shape) < np.linspace(0, 0.4, count)[:, None, None]
    logits = np.where(masks ^ noise, 2.0, -1.7).astype(np.float32)
    logits[-1] = -1.0  # nothing predicted
    return masks, logits


@pytest.mark.parametrize("mode", ["pad", "resize"])
def test_keras_metrics_equal_numpy_over_an_epoch_with_a_short_last_batch(mode):
    transform = ResizeOrPad(128, mode)
    masks, logits = some_tiles(7, 128)
    model = keras.Sequential([keras.Input((128, 128, 1)), keras.layers.Identity()])
    model.compile(
        loss="mse", metrics=[CompetitionScore(transform), MeanTileIoU(transform)]
    )
    x, y = logits[..., None], masks[..., None].astype(np.float32)
    logs = model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    probabilities = 1 / (1 + np.exp(-logits))
    truth = transform.inverse(masks) > 0.5
    guess = transform.inverse(probabilities) > 0.5
    assert logs["score"] == pytest.approx(mean_precision(truth, guess), abs=1e-6)
    assert logs["iou"] == pytest.approx(iou(truth, guess).mean(), abs=1e-4)
    assert 0 < logs["score"] < 1


@pytest.mark.parametrize(("intersection", "union", "score"), VECTORS)
def test_the_keras_score_makes_the_same_exact_comparisons(intersection, union, score):
    metric = CompetitionScore()
    logits = np.where(first(intersection), 0.1, -0.1)[..., None]
    metric.update_state(first(union)[..., None], logits)
    assert float(metric.result()) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("transform", [None, ResizeOrPad(), ResizeOrPad(64, "resize")])
@pytest.mark.parametrize("metric", [CompetitionScore, MeanTileIoU])
def test_a_tile_with_nan_is_wrong_even_if_it_is_empty(metric, transform):
    side = transform.size if transform else 101
    truth, logits = np.zeros((4, side, side, 1)), np.full((4, side, side, 1), -9.0)
    logits[1, 50, 50], logits[2] = np.nan, np.nan
    truth[3], logits[3] = 1.0, np.inf
    made = metric(transform)
    made.update_state(truth, logits)
    assert float(made.result()) == 0.5
    with pytest.raises(ValueError, match="threshold"):
        iou(truth[..., 0], logits[..., 0])


def test_a_reset_metric_forgets():
    metric = MeanTileIoU()
    metric.update_state(first(9)[..., None], -np.ones((1, 101, 101, 1)))
    metric.reset_state()
    metric.update_state(first(0)[..., None], -np.ones((1, 101, 101, 1)))
    assert float(metric.result()) == 1.0


def test_model_compiled_with_the_metrics_loads_with_them(tmp_path):
    model = keras.Sequential([keras.Input((128, 128, 1)), keras.layers.Conv2D(1, 1)])
    metrics = [CompetitionScore(ResizeOrPad()), MeanTileIoU(ResizeOrPad(64, "resize"))]
    model.compile(loss="mse", metrics=metrics)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    batch = np.zeros((1, 128, 128, 1))
    assert again.evaluate(batch, batch, verbose=0, return_dict=True)["score"] == 1.0
    for metric in metrics:
        assert (
            type(metric).from_config(metric.get_config()).transform == metric.transform
        )
