"""Systems side by side: the same numbers as from masks, and the kept choice."""

from types import SimpleNamespace

import numpy as np
import pytest
from pretend import labelled, pretend

from helpers import config, inference, metrics
from helpers.inference import PostProcess
from helpers.panel.comparison import CHOICE, ORDERS, Choice, Comparison, evaluate
from helpers.training import runs
from helpers.utils.files import DataError

POST_PROCESSES = (
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


@pytest.mark.parametrize("post_process", POST_PROCESSES)
def test_scores_are_those_of_the_masks(comparison, post_process):
    truth = comparison.tiles.masks
    for name, result in comparison.results(post_process).items():
        masks = post_process(comparison.systems[name])
        expected = metrics.precision_per_image(truth, masks)
        np.testing.assert_array_equal(result.scores, expected)
        ious = metrics.iou(truth, masks)
        passed = [(ious > t).mean() for t in np.arange(10, 20) / 20]
        np.testing.assert_allclose(result.passed, passed)
        salt, predicted = truth.any(axis=(1, 2)), masks.any(axis=(1, 2))
        expected = predicted[~salt].mean(), (~predicted[salt]).mean()
        np.testing.assert_array_equal(result.mistakes, expected)


def test_mistakes_without_empty_tiles_or_without_salt():
    salt, empty = np.ones((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    assert tuple(evaluate(salt, empty).mistakes) == (0, 1)
    assert tuple(evaluate(empty, salt).mistakes) == (1, 0)
    assert tuple(evaluate(empty, empty).mistakes) == (0, 0)


def test_bytes_are_processed_as_floats():
    steps = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for threshold in (0.05, 0.35, 0.5, 0.95):
        post_process = PostProcess(threshold)
        np.testing.assert_array_equal(post_process(steps), post_process(steps / 255))


def test_known_results_are_not_computed_again(comparison, monkeypatch):
    known = comparison.results(PostProcess(0.4, 30, min_component_size=50))
    monkeypatch.setattr(PostProcess, "__call__", None)
    assert comparison.results(PostProcess(0.4, 30, min_component_size=50)) is known


def test_folds_of_a_system_are_taken_together(comparison, tiles):
    folds = np.arange(60) % 5
    assert sorted(comparison.tiles.ids) == sorted(tiles.ids[folds < 2])
    assert list(comparison.systems) == ["sharp", "soft", "rough", "wild"]


def test_only_tiles_held_out_by_every_system_are_compared(there, tiles):
    some = [run for run in there if run.name in ("sharp/fold-0", "soft/fold-0")]
    other = [run for run in there if run.name == "rough/fold-1"]
    assert len(Comparison(some, tiles).tiles) == 12
    with pytest.raises(DataError, match="choose the same folds"):
        Comparison(some + other, tiles)
    with pytest.raises(DataError, match="no run to compare"):
        Comparison([], tiles)


def test_mix_is_the_weighted_mean(comparison, there):
    weights = {"sharp": 0.5, "wild": 0.25}
    for tta in (False, True):
        mix = comparison.mix(tuple(weights.items()), tta) / 255
        members = {r: weights[r.system] for r in there if r.system in weights}
        _, expected = runs.out_of_fold(members, comparison.tiles, tta)
        np.testing.assert_allclose(mix, expected, atol=1.01 / 255)
    alone = comparison.mix((("soft", 0.3),))
    np.testing.assert_array_equal(alone, comparison.systems["soft"])


def test_bytes_cost_less_than_a_thousandth_of_the_score():
    """Floats against the bytes that stand for them, on 300 tiles."""
    rng = np.random.default_rng(3)
    masks = labelled(300, seed=3).masks
    logits = 3 * (2.0 * masks - 1) + rng.normal(0, 3, (300, 101, 1))
    floats = 1 / (1 + np.exp(-logits - rng.normal(0, 0.5, masks.shape)))
    for threshold in inference.THRESHOLDS[::2]:
        post_process = PostProcess(threshold)
        exact = metrics.mean_precision(masks, post_process(floats))
        stored = post_process(inference.as_bytes(floats))
        assert abs(exact - metrics.mean_precision(masks, stored)) < 1e-3


def test_orders_put_first_what_they_promise(comparison):
    results = comparison.results(PostProcess()).values()
    every = np.stack(list(comparison.systems.values())).astype(int)
    keys = {
        "worst score": np.mean([result.scores for result in results], axis=0),
        "disagreement": -(every.max(axis=0) - every.min(axis=0)).mean(axis=(1, 2)),
        "coverage": -comparison.tiles.coverage,
    }
    assert tuple(keys) == ORDERS
    for by, key in keys.items():
        order = comparison.order(by, PostProcess())
        assert sorted(order) == list(range(24)) and (np.diff(key[order]) >= 0).all()


def test_choice_is_kept_and_read(tmp_path, tiles, capsys):
    runs_dir = tmp_path / "runs"
    made = pretend(runs_dir, tiles, ("sharp", "soft"), folds=(0, 1))
    settings = SimpleNamespace(
        output_dir=tmp_path,
        runs_dir=runs_dir,
        kind="synthetic",
        profile=config.PROFILES["smoke"],
    )
    assert Choice.load(settings) is None and capsys.readouterr().out == ""
    choice = Choice((("sharp", 1.0), ("soft", 0.5)), False, PostProcess(0.4, 50, 30))
    path = choice.save(settings)
    assert path.name == CHOICE and Choice.load(settings) == choice
    assert "delete it to undo" in capsys.readouterr().out
    unused = "choice.json: not used; kept for synthetic tiles, profile smoke\n"
    settings.kind = "competition"
    assert Choice.load(settings) is None and capsys.readouterr().out == unused
    settings.kind, settings.profile = "synthetic", config.PROFILES["quick"]
    assert Choice.load(settings) is None and capsys.readouterr().out == unused
    found = {run.name: weight for run, weight in choice.members(settings).items()}
    third, sixth = pytest.approx(1 / 3), pytest.approx(1 / 6)
    expected = dict(zip([r.name for r in made], [third] * 2 + [sixth] * 2, strict=True))
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"weights": [["a", -1]], "tta": true, "post_process": {}}',
        '{"tta": 1}',
        '{"data": "synthetic", "weights": [["a", 1]], "tta": true, "post_process": {}}',
        '{"weights": [["a", 1]], "tta": true, "rule": {}}',  # an older version's
    ],
)
def test_file_that_is_no_choice_is_named(tmp_path, text):
    (tmp_path / CHOICE).write_text(text)
    with pytest.raises(DataError, match=r"choice\.json: not a choice .*: delete it"):
        Choice.load(SimpleNamespace(output_dir=tmp_path))
