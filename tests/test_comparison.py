"""Systems side by side: the same numbers as from masks, and the kept choice."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from pretend import NOISE, labelled, pretend

from helpers import config, inference, metrics
from helpers.inference import PostProcess
from helpers.panel.comparison import CHOICE, Choice, Comparison
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
    results = comparison.results(post_process)
    for name, scores in results.items():
        masks = post_process(comparison.systems[name])
        np.testing.assert_array_equal(scores, metrics.precision_per_image(truth, masks))
    means = [scores.mean() for scores in results.values()]
    assert means == sorted(means, reverse=True) and set(results) == set(NOISE)


def test_headline_names_the_best_and_doubts_a_small_lead(comparison, there, tiles):
    results = comparison.results(PostProcess())
    best, second = list(results)[:2]
    text = comparison.headline(PostProcess())
    assert text.startswith(f"{best} scores {results[best].mean():.4f} on 24 tiles, ")
    low, high = inference.bootstrap_ci(results[best] - results[second])
    assert f" more than {second} (95 % interval {low:.3f} to {high:.3f}): " in text
    assert text.endswith("a clear lead" if low > 0 else "too close to call")
    far = [run for run in there if run.system in ("sharp", "wild")]
    assert Comparison(far, tiles).headline(PostProcess()).endswith("a clear lead")
    alone = Comparison(there[:1], tiles).headline(PostProcess())
    assert alone.endswith("on 12 tiles")


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
    alone = comparison.mix((("soft", 0.3),), True)  # as its row says
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


def test_order_puts_first_where_systems_differ(comparison):
    scores = np.stack([*comparison.results(PostProcess()).values()])
    order = comparison.order(PostProcess())
    assert sorted(order) == list(range(24))
    salt = order[: np.count_nonzero(comparison.tiles.coverage)]
    assert comparison.tiles.coverage[salt].all()  # the empty tiles come last
    assert (np.diff(np.ptp(scores, axis=0)[salt]) <= 0).all()


def test_where_systems_differ_one_of_them_is_right(comparison):
    first = comparison.order(PostProcess())[0]
    scores = [result[first] for result in comparison.results(PostProcess()).values()]
    assert max(scores) > 0.5 > min(scores)


def test_one_system_shows_first_what_it_finds(there, tiles):
    alone = Comparison(there[-1:], tiles)
    first = alone.order(PostProcess())[0]
    (scores,) = alone.results(PostProcess()).values()
    assert scores[first] == scores[alone.tiles.coverage > 0].max()


def test_runs_may_be_deleted_once_they_are_read(tiles, tmp_path):
    made = pretend(tmp_path, tiles, ("sharp", "soft"))
    comparison = Comparison(made, tiles)
    shutil.rmtree(tmp_path)
    for tta in (False, True):
        assert comparison.mix((("sharp", 1.0), ("soft", 0.5)), tta).any()
    assert comparison.headline(PostProcess(0.7))


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
        '{"weights": [["a", NaN]], "tta": true, "post_process": {}}',
        '{"weights": [["a", 1], ["b", 0]], "tta": true, "post_process": {}}',
        "\udcff",
    ],
)
def test_file_that_is_no_choice_is_named(tmp_path, text):
    (tmp_path / CHOICE).write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=r"choice\.json: not a choice .*: delete it"):
        Choice.load(SimpleNamespace(output_dir=tmp_path))


def test_choice_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / CHOICE).mkdir()
    with pytest.raises(DataError, match=r"choice\.json: not a choice .*: delete it"):
        Choice.load(SimpleNamespace(output_dir=tmp_path))


@pytest.mark.parametrize("weights", [(), (("a", 0.0),), (("a", float("nan")),)])
def test_choice_needs_a_weight(weights):
    with pytest.raises(ValueError, match="at least one system a weight"):
        Choice(weights, True, PostProcess())
