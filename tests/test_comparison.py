"""Systems side by side: the same numbers as by the long way, nothing twice."""

from types import SimpleNamespace

import numpy as np
import pytest
from pretend import labelled, pretend

from helpers import config, inference, metrics
from helpers.inference import PostProcess
from helpers.panel.comparison import CHOICE, ORDERS, Choice, Comparison, Prediction
from helpers.training import runs
from helpers.utils.files import DataError

RULES = (
    PostProcess(),
    PostProcess(0.3),
    PostProcess(0.61, min_mask_size=400),
    PostProcess(0.5, min_component_size=60),
    PostProcess(0.4, min_mask_size=900, min_component_size=30),
)


@pytest.fixture(scope="module")
def tiles():
    return labelled(60)


@pytest.fixture(scope="module")
def there(tiles, tmp_path_factory):
    return pretend(tmp_path_factory.mktemp("runs"), tiles, folds=(0, 1))


@pytest.fixture(scope="module")
def comparison(there, tiles):
    return Comparison(there, tiles)


@pytest.mark.parametrize("rule", RULES)
def test_scores_are_those_of_the_masks(comparison, rule):
    for one in comparison.systems.values():
        masks = rule(one.probabilities)
        expected = metrics.precision_per_image(one.truth, masks)
        np.testing.assert_array_equal(one.scores(rule), expected)
        ious = metrics.iou(one.truth, masks)
        passed = [(ious > t).mean() for t in np.arange(10, 20) / 20]
        np.testing.assert_allclose(one.passed(rule), passed)
        said = masks.any(axis=(1, 2))
        table = one.confusion(rule)
        assert table.sum() == len(masks)
        assert table[0, 1] == (said & (one.salt == 0)).sum()
        assert table[1, 0] == (~said & (one.salt > 0)).sum()


def test_rules_take_bytes_as_they_take_floats():
    steps = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for threshold in (0.05, 0.35, 0.5, 0.95):
        rule = PostProcess(threshold)
        np.testing.assert_array_equal(rule(steps), rule(steps / 255))


def test_components_are_those_whose_sides_touch_within_a_tile():
    grey = np.zeros((2, 6, 6), np.float32)
    grey[0, 5, :3] = grey[1, 0, :3] = 1.0  # neighbours in the stack, not in a tile
    grey[0, :2, :2] = 1.0
    grey[0, 2, 2] = 1.0  # touches a corner only
    kept = PostProcess(min_component_size=4)(grey)
    assert kept.sum() == 4 and kept[0, :2, :2].all()
    assert (
        PostProcess(min_component_size=3)(grey).sum() == 10
        and PostProcess(min_component_size=1)(grey).sum() == 11
    )
    assert not PostProcess(min_component_size=4)(np.zeros((3, 6, 6))).any()
    assert PostProcess(min_mask_size=5, min_component_size=4)(grey).sum() == 0


def test_what_is_known_is_not_computed_again(comparison, monkeypatch):
    one = Prediction(comparison.tiles.masks, comparison.systems["soft"].probabilities)
    one.scores(PostProcess(0.4)), one.scores(PostProcess(0.4, min_component_size=50))
    for name in ("above", "components"):
        monkeypatch.setattr(inference, name, None)
    (
        one.scores(PostProcess(0.4)),
        one.passed(PostProcess(0.4)),
        one.confusion(PostProcess(0.4)),
    )
    (
        one.scores(PostProcess(0.4, min_component_size=80)),
        one.scores(PostProcess(0.4, 30, min_component_size=50)),
    )
    with pytest.raises(TypeError):
        one.scores(PostProcess(0.41))


def test_folds_of_a_system_speak_together(comparison, tiles):
    folds = np.arange(60) % 5
    assert sorted(comparison.tiles.ids) == sorted(tiles.ids[folds < 2])
    assert list(comparison.systems) == ["sharp", "soft", "rough", "wild"]


def test_only_tiles_that_all_have_left_out_are_compared(there, tiles):
    some = [run for run in there if run.name in ("sharp/fold-0", "soft/fold-0")]
    other = [run for run in there if run.name == "rough/fold-1"]
    assert len(Comparison(some, tiles).tiles) == 12
    with pytest.raises(DataError, match="choose the same folds"):
        Comparison(some + other, tiles)
    with pytest.raises(DataError, match="train a system first"):
        Comparison([], tiles)


def test_mix_is_the_weighted_mean(comparison, there):
    weights = {"sharp": 0.5, "soft": 0.0, "wild": 0.25}
    for tta in (False, True):
        mix = comparison.mix(weights, tta).probabilities / 255
        members = {r: weights.get(r.system, 0) for r in there if weights.get(r.system)}
        _, expected = runs.out_of_fold(members, comparison.tiles, tta)
        np.testing.assert_allclose(mix, expected, atol=1.01 / 255)
    alone = comparison.mix({"soft": 0.3})
    same = comparison.systems["soft"].probabilities
    np.testing.assert_array_equal(alone.probabilities, same)


def test_bytes_cost_less_than_a_thousandth_of_the_score():
    """Floats against the bytes that stand for them, on 300 tiles, every threshold."""
    rng = np.random.default_rng(3)
    masks = labelled(300, seed=3).masks
    logits = 3 * (2.0 * masks - 1) + rng.normal(0, 3, (300, 101, 1))
    floats = 1 / (1 + np.exp(-logits - rng.normal(0, 0.5, masks.shape)))
    for threshold in inference.THRESHOLDS:
        rule = PostProcess(threshold)
        exact = metrics.mean_precision(masks, rule(floats))
        stored = metrics.mean_precision(masks, rule(inference.as_bytes(floats)))
        assert abs(exact - stored) < 1e-3


def test_calibration_finds_what_was_put_in():
    rng = np.random.default_rng(0)
    said = rng.integers(0, 256, (20, 101, 101)).astype(np.uint8)
    honest = Prediction(rng.random(said.shape) < said / 255, said)
    probabilities, shares = honest.calibration()
    np.testing.assert_allclose(probabilities, shares, atol=0.02)
    shy = Prediction(rng.random(said.shape) < np.sqrt(said / 255), said)
    probabilities, shares = shy.calibration()
    assert (shares[:-1] > probabilities[:-1] + 0.04).all()
    sure = Prediction(said > 127, np.where(said > 127, 255, 0).astype(np.uint8))
    probabilities, shares = sure.calibration()
    assert np.isnan(shares[1:-1]).all() and shares[0] == 0 and shares[-1] == 1


def test_orders_put_first_what_they_promise(comparison):
    for by in ORDERS:
        assert sorted(comparison.order(by, PostProcess())) == list(range(24))
    tiles = comparison.tiles
    scores = np.mean(
        [s.scores(PostProcess()) for s in comparison.systems.values()], axis=0
    )
    assert (np.diff(scores[comparison.order("worst score", PostProcess())]) >= 0).all()
    assert (
        np.diff(tiles.coverage[comparison.order("coverage", PostProcess())]) <= 0
    ).all()
    assert (np.diff(tiles.depths[comparison.order("depth", PostProcess())]) >= 0).all()
    assert list(tiles.ids[comparison.order("id", PostProcess())]) == sorted(tiles.ids)
    apart = comparison.disagreement()
    assert (np.diff(apart[comparison.order("disagreement", PostProcess())]) <= 0).all()
    said = np.stack([s.probabilities for s in comparison.systems.values()]).astype(int)
    expected = (said.max(axis=0) - said.min(axis=0)).mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(apart, expected)


def test_groups_of_tiles(comparison):
    scores = comparison.tiles.coverage  # any number a tile
    names, means = comparison.by_coverage(scores)
    assert len(names) == len(means) == 11 and means[0] == 0
    assert 0 < means[1] <= 0.1 or np.isnan(means[1])
    names, means = comparison.by_depth(comparison.tiles.depths.astype(float))
    low, high = names[0].split("-")
    assert int(low) <= means[0] <= int(high) and (np.diff(means) > 0).all()


def test_choice_is_kept_and_read(tmp_path, tiles, capsys):
    runs_dir = tmp_path / "runs"
    made = pretend(runs_dir, tiles, ("sharp", "soft"), folds=(0, 1))
    settings = SimpleNamespace(
        output_dir=tmp_path,
        runs_dir=runs_dir,
        kind="synthetic",
        profile=config.PROFILES["smoke"],
    )
    assert Choice.load(settings) is None
    choice = Choice((("sharp", 1.0), ("soft", 0.5)), False, PostProcess(0.4, 50, 30))
    path = choice.save(settings)
    assert path.name == CHOICE and Choice.load(settings) == choice
    assert "delete it to undo" in capsys.readouterr().out
    settings.kind = "competition"
    assert Choice.load(settings) is None
    assert "kept for synthetic tiles, not used" in capsys.readouterr().out
    settings.kind, settings.profile = "synthetic", config.PROFILES["quick"]
    assert Choice.load(settings) is None
    told = "choice.json: kept under profile smoke, not used under quick\n"
    assert capsys.readouterr().out == told
    assert Choice.read(settings) == (None, told.strip())
    assert capsys.readouterr().out == ""
    found = {run.name: weight for run, weight in choice.members(settings).items()}
    third, sixth = pytest.approx(1 / 3), pytest.approx(1 / 6)
    expected = dict(zip([r.name for r in made], [third] * 2 + [sixth] * 2, strict=True))
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"weights": [["a", -1]], "tta": true, "rule": {}}',
        '{"tta": 1}',
        '{"data": "synthetic", "weights": [["a", 1]], "tta": true, "rule": {}}',
    ],
)
def test_file_that_is_no_choice_is_named(tmp_path, text):
    (tmp_path / CHOICE).write_text(text)
    with pytest.raises(DataError, match=r"choice\.json: not a choice .*: delete it"):
        Choice.load(SimpleNamespace(output_dir=tmp_path))
