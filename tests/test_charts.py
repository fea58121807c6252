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
from helpers.inference import PostProcess, bootstrap_ci
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
    """All that is drawn: not the ticks beyond the ends of an axis."""
    beyond = [
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if abs(tick.get_loc() - np.mean(axis.get_view_interval()))
        > np.ptp(axis.get_view_interval()) / 2
    ]
    shown = [text for text in figure.findobj(Text) if text.get_text().strip()]
    return [text for text in shown if text.get_visible() and text not in beyond]


def read(picture):
    return np.asarray(Image.open(io.BytesIO(picture)))


def assert_readable(figure):
    """Large enough, nothing cut off, and no text over another."""
    charts.png(figure)
    boxes = [text.get_window_extent() for text in texts(figure)]
    assert min(text.get_fontsize() for text in texts(figure)) >= 9
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def renamed(there, name):
    """The same comparison, with other names of the systems."""
    tiles, made = there
    comparison = Comparison(made, tiles)
    names = [name.format(number) for number in range(len(made))]
    values = comparison.systems.values()
    comparison.systems = dict(zip(names, values, strict=True))
    return comparison


def test_scores_are_two_readable_charts(comparison):
    figure = charts.show_scores(comparison, PostProcess(0.4))
    assert len(figure.axes) == 2 and all(axis.get_title() for axis in figure.axes)
    assert_readable(figure)


def test_systems_differ_by_more_than_color(comparison):
    score, salt = charts.show_scores(comparison, PostProcess()).axes
    marked = [line.get_marker() for line in score.get_lines()][1::2]
    assert marked == [line.get_marker() for line in salt.get_lines()]
    assert len(set(marked)) == len(comparison.systems)
    assert [text.get_text() for text in score.get_yticklabels()] == [
        *comparison.systems
    ]


def test_scores_have_their_interval(comparison):
    score, _ = charts.show_scores(comparison, PostProcess(0.4)).axes
    results = comparison.results(PostProcess(0.4))
    lines = score.get_lines()
    drawn = zip(comparison.systems, lines[::2], lines[1::2], strict=True)
    for name, interval, mean in drawn:
        np.testing.assert_array_equal(interval.get_xdata(), bootstrap_ci(results[name]))
        assert list(mean.get_xdata()) == [results[name].mean()]


def test_score_of_each_coverage_class(comparison):
    _, salt = charts.show_scores(comparison, PostProcess(0.4)).axes
    coverage, results = comparison.tiles.coverage, comparison.results(PostProcess(0.4))
    for line, name in zip(salt.get_lines(), comparison.systems, strict=True):
        for x, mean in zip(*line.get_data(), strict=True):
            inside = (coverage > x / 100 - 0.1) & (coverage <= x / 100)
            assert mean == pytest.approx(results[name][inside].mean())
        assert set(line.get_xdata()) == set(10 * np.ceil(10 * coverage))


def test_tiles_follow_position_and_post_processing(comparison):
    def draw(*what):
        return read(charts.png(charts.show_tiles(comparison, *what)))

    first = draw([0], PostProcess())
    assert (first == draw([0], PostProcess())).all()
    assert (first != draw([1], PostProcess())).any()
    assert (first != draw([0], PostProcess(0.95))).any()
    figure = charts.show_tiles(comparison, [2, 0], PostProcess())
    heads = [axis.get_title() for axis in figure.axes[:: 1 + len(comparison.systems)]]
    tiles = comparison.tiles
    assert heads == [f"{tiles.ids[x]}\n{tiles.depths[x]} ft" for x in (2, 0)]
    assert_readable(figure)


def test_the_system_that_is_right_stands_out(there):
    tiles, made = there
    comparison = Comparison([made[0], made[-1]], tiles)
    best = comparison.order(PostProcess())[0]
    _, right, wrong = charts.show_tiles(comparison, [best], PostProcess()).axes
    results = comparison.results(PostProcess())
    assert right.get_title() == f"sharp\nscore {results['sharp'][best]:.1f}"
    assert right.title.get_weight() == "bold" != wrong.title.get_weight()
    assert wrong.get_title() == f"wild\nscore {results['wild'][best]:.1f}"


def test_tile_without_salt_and_empty_prediction_is_drawn(comparison):
    empty = int(np.argmin(comparison.tiles.coverage))
    figure = charts.show_tiles(comparison, [empty], PostProcess(min_mask_size=10_201))
    written = "".join(text.get_text() for text in texts(figure))
    assert written.count("score 1.0") == len(comparison.systems)
    assert all(axis.title.get_weight() == "normal" for axis in figure.axes)


@pytest.mark.parametrize(
    "name",
    [
        "my-{}-none-3ep",
        "my-vgg16-imagenet-residual-center_block-dilations-scse-hypercolumn-bce-{}ep",
    ],
)
def test_long_names_stay_inside_the_pictures(there, name):
    comparison = renamed(there, name)
    assert_readable(charts.show_scores(comparison, PostProcess()))
    figure = charts.show_tiles(comparison, [0, 1], PostProcess())
    assert_readable(figure)
    heads = [axis.get_title().replace("\n", "") for axis in figure.axes[1:5]]
    for head, whole in zip(heads, comparison.systems, strict=True):
        assert head.startswith(whole)


def test_still_picture_fits_a_screen_and_shows_where_systems_differ(comparison):
    picture = read(charts.everything(comparison))
    assert picture.shape[1] == 800 and 400 < picture.shape[0] < 750
    assert len(np.unique(picture[..., 0])) > 100
    first = comparison.order(PostProcess())[:2]
    rows = read(charts.png(charts.show_tiles(comparison, first, PostProcess())))[30:]
    assert (picture[-len(rows) :] == rows).all()
