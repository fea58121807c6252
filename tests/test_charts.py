"""Figures of the panel: they say what they should, readably, also for one system."""

import io

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
    """As in every notebook; what it asks of all figures must not spoil these."""
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


def read(picture):
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_comparison_says_what_to_look_for_in_nine_points_and_more(comparison):
    figure = charts.compare(comparison, PostProcess(0.4))
    charts.png(figure)
    assert len(figure.axes) == 8
    assert all(axis.get_title() for axis in figure.axes)
    assert min(text.get_fontsize() for text in texts(figure)) >= 9
    assert len(figure.legends) == 1
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axis.get_window_extent()) for axis in figure.axes)


def test_systems_differ_by_more_than_colour(comparison):
    figure = charts.compare(comparison)
    count = len(comparison.systems)
    markers = {line.get_marker() for line in figure.axes[4].get_lines()}
    hatches = {bar.get_hatch() for bar in figure.axes[5].patches}
    assert len(markers) == len(hatches) == count


def test_scale_of_the_loss_can_be_logarithmic(comparison):
    assert charts.compare(comparison, log=True).axes[0].get_yscale() == "log"
    assert charts.compare(comparison).axes[0].get_yscale() == "linear"


def test_tile_picture_follows_tile_rule_and_view(comparison):
    picture = charts.TilePicture(comparison)
    first = read(charts.png(picture.show(0, PostProcess())))
    assert (first == read(charts.png(picture.show(0, PostProcess())))).all()
    for change in (
        (1, PostProcess()),
        (0, PostProcess(0.95)),
        (0, PostProcess(), (20, 30, 40)),
    ):
        assert (first != read(charts.png(picture.show(*change)))).any()
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in picture.axes.flat}
    assert limits == {((29.5, 69.5), (59.5, 19.5))}  # of all panels alike
    assert min(text.get_fontsize() for text in texts(picture.figure)) >= 9


def test_tile_without_salt_and_empty_prediction_is_drawn(comparison):
    empty = int(np.argmin(comparison.tiles.coverage))
    figure = charts.TilePicture(comparison).show(
        empty, PostProcess(min_mask_size=10_201)
    )
    said = [text.get_text() for text in texts(figure)]
    assert "truth: empty" in said
    assert said.count("score 1.0, empty") == len(comparison.systems)


def test_a_little_salt_is_not_none(comparison):
    thickest = int(np.argmax(comparison.tiles.coverage))
    share = f"{100 * comparison.tiles.coverage[thickest]:.0f} % salt"
    figure = charts.TilePicture(comparison).show(thickest, PostProcess())
    assert f"truth: {share}" in [text.get_text() for text in texts(figure)]
    little = np.zeros((101, 101), bool)
    little[0, 0] = True
    assert charts._salt(little) == "<1 % salt"


def test_names_are_cut_where_they_stay_different():
    assert charts.short(["salt-net", "a" * charts.CUT]) == ["salt-net", "a" * 22]
    names = ["my-scratch-residual-bce-64px-3x32", "my-scratch-residual-bce-64px-4x32"]
    assert charts.short(names) == ["my-scratch-…-64px-3x32", "my-scratch-…-64px-4x32"]
    for other in (
        "my-scratch-scse-bce-64px-3x32",
        "my-scratch-residual-dice-64px-3x32",
    ):
        cut = charts.short([names[0], other])
        assert len(set(cut)) == 2 and max(map(len, cut)) <= charts.CUT


def test_long_names_stay_inside_the_pictures(there):
    tiles, made = there
    comparison = Comparison(made, tiles)
    long = "my-scratch-residual-centre-dilations-bce-64px-{}x32"
    for kept in ("systems", "runs"):
        values = getattr(comparison, kept).values()
        names = [long.format(number) for number in range(len(values))]
        setattr(comparison, kept, dict(zip(names, values, strict=True)))
    figure = charts.compare(comparison)
    charts.png(figure)
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= 0 and box.x1 <= whole.x1
    (table,) = figure.axes[7].tables
    rows = {cell.get_text().get_text() for cell in table.get_celld().values()}
    box = table.get_window_extent()
    assert figure.axes[6].get_window_extent().x1 < box.x0 < box.x1 <= whole.x1
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    tile = charts.TilePicture(comparison).show(0, PostProcess())
    titles = {axis.get_title() for axis in tile.axes[1:5]}
    assert labels == titles <= rows and len(titles) == 4


def test_bars_have_numbers_while_there_is_room(there):
    tiles, made = there
    comparison = Comparison(made, tiles)
    assert len(charts.compare(comparison).axes[5].texts) == 8
    comparison.systems["fifth"] = comparison.systems["soft"]
    comparison.runs["fifth"] = comparison.runs["soft"]
    assert not charts.compare(comparison).axes[5].texts


def test_everything_is_one_picture(comparison):
    picture = read(charts.everything(comparison))
    assert picture.shape[1] == 1120 and picture.shape[0] > 1100
    assert len(np.unique(picture[..., 0])) > 100
