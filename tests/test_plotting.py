"""Figures: what is drawn, and that nothing is mistaken for something else."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import data, plotting
from helpers.inference import PostProcess


@pytest.fixture(autouse=True)
def close_figures():
    plotting.use_style()
    yield
    plt.close("all")


@pytest.fixture
def tiles():
    images = np.full((3, 101, 101), 90, np.uint8)
    masks = np.zeros((3, 101, 101), bool)
    masks[1, 20:60, 30:70] = True
    return data.Tiles(np.array(["a", "b", "c"]), images, masks, np.array([1, 2, 3]))


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def test_tiles_are_titled_with_id_and_depth_on_a_fixed_grey_scale(tiles):
    figure = plotting.show_tiles(tiles, columns=2)
    assert titles(figure) == ["a\n1 ft", "b\n2 ft", "c\n3 ft", ""]
    assert figure.axes[0].images[0].get_clim() == (0, 255)


def test_only_salt_gets_an_outline(tiles):
    figure = plotting.show_tiles(tiles)
    drawn = [bool(axis.collections) for axis in figure.axes[:3]]
    assert drawn == [False, True, False]


def test_test_tiles_without_masks_are_shown(tiles):
    unknown = data.Tiles(tiles.ids, tiles.images, None, tiles.depths)
    assert len(plotting.show_tiles(unknown).axes) == 6


def test_predictions_name_the_score_and_legend_the_colours(tiles):
    figure = plotting.show_predictions(tiles, 0.9 * tiles.masks, PostProcess())
    assert titles(figure)[3::4] == ["score 1.0"] * 3
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["missed", "false salt"]


def test_difference_tells_missed_from_false_salt():
    truth = np.array([[True, True], [False, False]])
    guess = np.array([[True, False], [True, False]])
    axis = plt.figure().subplots()
    plotting.difference(axis, truth, guess)
    shown = axis.images[0]
    colours = shown.cmap(shown.norm(shown.get_array()))[..., :3]
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 4  # four cases, four looks
    np.testing.assert_allclose(colours[0, 1], mpl.colors.to_rgb(plotting.TRUTH))
    np.testing.assert_allclose(colours[1, 0], mpl.colors.to_rgb(plotting.GUESS))


def test_curves_count_epochs_from_one_and_name_the_runs():
    table = pd.DataFrame({"epoch": [0, 1], "loss": [2, 1], "val_loss": [2, 2]})
    figure = plotting.show_curves({"one": table, "two": table}, ["loss"])
    solid = figure.axes[0].lines[1]
    assert list(solid.get_xdata()) == [1, 2] and list(solid.get_ydata()) == [2, 2]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["one", "two"]


def test_rules_draw_a_line_per_smallest_mask(tiles):
    figure = plotting.show_thresholds(
        tiles.masks, 0.9 * tiles.masks, min_mask_size=(0, 2000)
    )
    perfect, emptied = figure.axes[0].lines
    assert np.allclose(perfect.get_ydata(), 1.0)
    assert np.allclose(emptied.get_ydata(), 2 / 3)  # the salt of 1,600 pixels is lost


def test_live_curves_are_drawn_in_place(monkeypatch):
    drawn = []

    class Handle:
        def update(self, figure):
            drawn.append(len(figure.axes[0].lines[0].get_xdata()))

    monkeypatch.setattr(plotting, "display", lambda **_: Handle())
    show = plotting.live_curves()
    history = pd.DataFrame(
        {name: [0.0, 1.0, 2.0] for name in ("loss", "val_loss", "score", "val_score")}
    ).assign(epoch=range(3))
    for epochs in (1, 3):
        show(history[:epochs])
    assert drawn == [1, 3] and not plt.get_fignums()
