"""Figures of the panel: they say what they should, readably, also for one system."""

import io
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from pretend import labelled, pretend

from helpers import plotting
from helpers.inference import PostProcess
from helpers.panel import charts
from helpers.panel.comparison import Comparison

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def style():
    """As in every notebook: the style for all figures must not spoil these."""
    with matplotlib.rc_context():
        plotting.use_style()
        yield


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    tiles = labelled(60)
    return tiles, pretend(tmp_path_factory.mktemp("runs"), tiles)


@pytest.fixture(scope="module", params=[1, 4], ids=["one", "four"])
def comparison(request, there):
    tiles, made = there
    return Comparison(made[: request.param], tiles)


def texts(figure):
    shown = [text for text in figure.findobj(Text) if text.get_visible()]
    return [text for text in shown if text.get_text().strip()]


def written(axis):
    (text,) = axis.texts
    return text.get_text()


def read(picture):
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_comparison_says_what_to_look_for_in_nine_points_and_more(comparison):
    figure = charts.compare(comparison, PostProcess(0.4))
    charts.png(figure)
    assert len(figure.axes) == 6
    assert all(axis.get_title() for axis in figure.axes)
    assert min(text.get_fontsize() for text in texts(figure)) >= 9
    assert len(figure.legends) == 1
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axis.get_window_extent()) for axis in figure.axes)


def test_systems_differ_by_more_than_color(comparison):
    figure = charts.compare(comparison, PostProcess())
    count = len(comparison.systems)
    for axis in figure.axes[:2]:  # learning curves
        named = [x for x in axis.get_lines() if x.get_label() in comparison.systems]
        assert len({line.get_marker() for line in named}) == count
    markers = {line.get_marker() for line in figure.axes[3].get_lines()}
    hatches = {bar.get_hatch() for bar in figure.axes[4].patches}
    assert len(markers) == len(hatches) == count


def test_curves_are_averaged_over_folds(there, tmp_path):
    tiles, _ = there
    made = pretend(tmp_path, tiles, ("sharp",), folds=(0, 1))
    table = made[1].history()
    table["val_loss"] += 1
    table.iloc[:4].to_csv(made[1].folder / "history.csv", index=False)  # it was shorter
    figure = charts.compare(Comparison(made, tiles), PostProcess())
    (line,) = [x for x in figure.axes[0].get_lines() if x.get_label() == "sharp"]
    expected = made[0].history()["val_loss"] + np.array([0.5] * 4 + [0] * 2)
    np.testing.assert_allclose(line.get_ydata(), expected)
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))


def test_score_of_each_coverage_class(comparison):
    figure = charts.compare(comparison, PostProcess(0.4))
    coverage = comparison.tiles.coverage
    results = comparison.results(PostProcess(0.4)).values()
    for line, result in zip(figure.axes[2].get_lines(), results, strict=True):
        for x, mean in zip(*line.get_data(), strict=True):
            inside = (coverage > x / 100 - 0.1) & (coverage <= x / 100)
            assert mean == pytest.approx(result.scores[inside].mean())
        assert set(line.get_xdata()) == set(10 * np.ceil(10 * coverage))


def test_table_has_score_and_costs(there):
    tiles, made = there
    comparison = Comparison(made, tiles)
    figure = charts.compare(comparison, PostProcess(0.4))
    lines = written(figure.axes[5]).splitlines()
    score = comparison.results(PostProcess(0.4))["soft"].scores.mean()
    assert lines[2].split() == ["soft", f"{score:.4f}", "2.00", "M", "20.0", "ms"]


def test_tile_follows_position_and_post_processing(comparison):
    def draw(*what):
        return read(charts.png(charts.show_tile(comparison, *what)))

    first = draw(0, PostProcess())
    assert (first == draw(0, PostProcess())).all()
    assert (first != draw(1, PostProcess())).any()
    assert (first != draw(0, PostProcess(0.95))).any()
    figure = charts.show_tile(comparison, 0, PostProcess())
    assert min(text.get_fontsize() for text in texts(figure)) >= 9
    assert tuple(comparison.tiles.ids[:1]) == (texts(figure)[0].get_text()[:10],)


def test_tile_without_salt_and_empty_prediction_is_drawn(comparison):
    empty = int(np.argmin(comparison.tiles.coverage))
    figure = charts.show_tile(comparison, empty, PostProcess(min_mask_size=10_201))
    written = [text.get_text() for text in texts(figure)]
    assert "truth: 0 px of salt" in written
    assert written.count("score 1.0, 0 px") == len(comparison.systems)


def test_salt_is_counted_in_pixels(comparison):
    thickest = int(np.argmax(comparison.tiles.coverage))
    pixels = np.count_nonzero(comparison.tiles.masks[thickest])
    figure = charts.show_tile(comparison, thickest, PostProcess())
    assert f"truth: {pixels} px of salt" in [text.get_text() for text in texts(figure)]


def test_texts_of_a_tile_stay_inside_the_picture(comparison):
    figure = charts.show_tile(comparison, 0, PostProcess())
    charts.png(figure)
    boxes = [text.get_window_extent() for text in texts(figure)]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_names_are_cut_where_they_stay_different():
    def short(*names):
        return list(charts.short(names).values())

    assert short("salt-net", "a" * charts.CUT) == ["salt-net", "a" * 22]
    names = ["my-scratch-residual-bce-64px-3x32", "my-scratch-residual-bce-64px-4x32"]
    assert short(*names) == ["my-scratch-…-64px-3x32", "my-scratch-…-64px-4x32"]
    for other in (
        "my-scratch-scse-bce-64px-3x32",
        "my-scratch-residual-dice-64px-3x32",
    ):
        cut = short(names[0], other)
        assert len(set(cut)) == 2 and max(map(len, cut)) <= charts.CUT


def test_long_names_stay_inside_the_pictures(there):
    tiles, made = there
    comparison = Comparison(made, tiles)
    long = "my-scratch-residual-center_block-dilations-bce-64px-{}x32"
    for kept in ("systems", "runs"):
        values = getattr(comparison, kept).values()
        names = [long.format(number) for number in range(len(values))]
        setattr(comparison, kept, dict(zip(names, values, strict=True)))
    figure = charts.compare(comparison, PostProcess())
    charts.png(figure)
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= 0 and box.x1 <= whole.x1
    box = figure.axes[5].texts[0].get_window_extent()
    assert figure.axes[4].get_window_extent().x1 < box.x0 < box.x1 <= whole.x1
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    tile = charts.show_tile(comparison, 0, PostProcess())
    titles = {axis.get_title() for axis in tile.axes[1:5]}
    rows = written(figure.axes[5])
    assert labels == titles and len(titles) == 4
    assert all(title in rows for title in titles)


def test_bars_have_numbers(comparison):
    figure = charts.compare(comparison, PostProcess())
    charts.png(figure)
    shown = figure.axes[4].texts
    assert len(shown) == 2 * len(comparison.systems)
    boxes = [text.get_window_extent() for text in shown]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_everything_is_one_picture(comparison):
    picture = read(charts.everything(comparison))
    assert picture.shape[1] == 1120 and picture.shape[0] >= 528 + 392
    assert len(np.unique(picture[..., 0])) > 100
