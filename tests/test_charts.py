"""Figures of the panel: they say what they should, readably, also for one system."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from pretend import labelled, pretend

from helpers import charts, plotting
from helpers.comparison import Comparison
from helpers.inference import Rule

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def style():
    """As in every notebook; what it asks of all figures must not spoil these."""
    with matplotlib.rc_context():
        plotting.use_style()
        yield


@pytest.fixture(scope="module", params=[1, 4], ids=["one", "four"])
def comparison(request, tmp_path_factory):
    tiles = labelled(60)
    made = pretend(tmp_path_factory.mktemp("runs"), tiles)
    return Comparison(made[: request.param], tiles)


def texts(figure):
    shown = [text for text in figure.findobj(Text) if text.get_visible()]
    return [text for text in shown if text.get_text().strip()]


def read(picture):
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_comparison_says_what_to_look_for_in_nine_points_and_more(comparison):
    figure = charts.compare(comparison, Rule(0.4))
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
    first = read(charts.png(picture.show(0, Rule())))
    assert (first == read(charts.png(picture.show(0, Rule())))).all()
    for change in ((1, Rule()), (0, Rule(0.95)), (0, Rule(), (20, 30, 40))):
        assert (first != read(charts.png(picture.show(*change)))).any()
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in picture.axes.flat}
    assert limits == {((29.5, 69.5), (59.5, 19.5))}  # of all panels alike
    assert min(text.get_fontsize() for text in texts(picture.figure)) >= 9


def test_tile_without_salt_and_empty_prediction_is_drawn(comparison):
    empty = int(np.argmin(comparison.tiles.coverage))
    figure = charts.TilePicture(comparison).show(empty, Rule(smallest=10_201))
    assert any("score 1.0, 0%" in text.get_text() for text in texts(figure))


def test_everything_is_one_picture(comparison):
    picture = read(charts.everything(comparison))
    assert picture.shape[1] == 1120 and picture.shape[0] > 1100
    assert len(np.unique(picture[..., 0])) > 100
