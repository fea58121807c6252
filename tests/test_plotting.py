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


def test_tiles_are_titled_with_id_and_depth_on_a_fixed_gray_scale(tiles):
    figure = plotting.show_tiles(tiles)
    assert titles(figure) == ["a\n1 ft", "b\n2 ft", "c\n3 ft", "", "", ""]
    assert figure.axes[0].images[0].get_clim() == (0, 255)


def test_only_salt_gets_an_outline_along_the_edges_of_its_pixels(tiles):
    tiles.masks[2, 90:, :] = True  # up to the border
    figure = plotting.show_tiles(tiles)
    empty, inside, border = (axis.collections for axis in figure.axes[:3])
    assert not empty
    for lines, xlim, ylim in [
        (inside, (29.5, 69.5), (19.5, 59.5)),
        (border, (-0.5, 100.5), (89.5, 100.5)),
    ]:
        (path,) = lines[0].get_paths()
        assert (path.vertices[:, 0].min(), path.vertices[:, 0].max()) == xlim
        assert (path.vertices[:, 1].min(), path.vertices[:, 1].max()) == ylim
        assert mpl.colors.same_color(lines[0].get_color(), plotting.TRUTH)
    for axis in figure.axes[:3]:  # the view is still that of the tile
        assert axis.get_xlim() == (-0.5, 100.5) and axis.get_ylim() == (100.5, -0.5)


def test_holes_and_separate_bodies_are_outlined_too():
    mask = np.zeros((9, 9), bool)
    mask[1:6, 1:6] = mask[7, 7] = True
    mask[3, 3] = False
    axis = plt.figure().subplots()
    plotting.outline(axis, mask, "white")
    assert len(axis.collections[0].get_paths()) == 3


def test_section_is_symmetric_in_gray_with_salt_in_orange_and_its_outline():
    seismic = np.array([[-9.0, 0, 1, 0], [0, 3, 0, 0]])
    truth = np.array([[True, False, False, False], [False] * 4])
    axis = plotting.show_section(seismic, 1.0 * truth, truth).axes[0]
    gray, orange = axis.images
    low, high = gray.get_clim()
    assert low == -high < 0
    shown = orange.cmap(orange.norm(orange.get_array()))
    np.testing.assert_allclose(shown[0, 0, :3], mpl.colors.to_rgb(plotting.GUESS))
    assert shown[0, 0, 3] > 0.5 and shown[1, 1, 3] == 0  # transparent without salt
    (path,) = axis.collections[0].get_paths()
    assert path.vertices.max() < 0.51  # along the pixel, hardly cutting its corner
    np.testing.assert_allclose(path.vertices.min(), -0.5, atol=0.02)


def test_pictures_stand_side_by_side_with_the_truth_outlined_in_each():
    truth = np.eye(4, dtype=bool)
    pictures = {"one": np.ones((4, 4)), "two": np.zeros((4, 4))}
    axes = plotting.show_pictures(pictures, truth, vmin=-1, vmax=1).axes
    assert [axis.get_title() for axis in axes] == ["one", "two"]
    assert all(axis.images[0].get_clim() == (-1, 1) for axis in axes)
    assert all(len(axis.collections) == 1 for axis in axes)
    assert not plotting.show_pictures({"one": pictures["one"]}).axes[0].collections


def test_test_tiles_without_masks_are_shown(tiles):
    unknown = data.Tiles(tiles.ids, tiles.images, None, tiles.depths)
    assert len(plotting.show_tiles(unknown).axes) == 6


def test_predictions_name_the_score_and_legend_the_colors(tiles):
    figure = plotting.show_predictions(tiles, 0.9 * tiles.masks, PostProcess())
    assert titles(figure)[3::4] == ["score 1.0"] * 3
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["missed", "false salt"]


def test_the_difference_tells_missed_from_false_salt():
    truth = np.array([[True, True], [False, False]])
    guess = np.array([[True, False], [True, False]])
    axis = plt.figure().subplots()
    plotting.difference(axis, truth, guess)
    shown = axis.images[0]
    colors = shown.cmap(shown.norm(shown.get_array()))[..., :3]
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 4  # four cases, four looks
    np.testing.assert_allclose(colors[0, 1], mpl.colors.to_rgb(plotting.TRUTH))
    np.testing.assert_allclose(colors[1, 0], mpl.colors.to_rgb(plotting.GUESS))


TABLE = pd.DataFrame({"epoch": [0, 1], "loss": [2, 1], "val_loss": [2, 3]})


def test_curves_count_epochs_from_one_and_name_the_runs():
    figure = plotting.show_curves({"one": TABLE, "two": TABLE}, ["loss"])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["one", "two"]
    validation, training = figure.axes[0].lines[:2]
    for line, style, values in [(validation, "-", [2, 3]), (training, "--", [2, 1])]:
        assert line.get_linestyle() == style
        assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == values


def test_curves_are_drawn_on_any_figure_and_runs_look_different():
    axis = mpl.figure.Figure().subplots()
    plotting.draw_curves(axis, {str(run): TABLE[:1] for run in range(9)}, "loss")
    looks = [(line.get_color(), line.get_marker()) for line in axis.lines[::2]]
    assert len(set(looks)) == 9
    assert all(tick == int(tick) for tick in axis.get_xticks())
    assert not plt.get_fignums()
    plotting.draw_curves(mpl.figure.Figure().subplots(), {}, "loss")


def test_thresholds_draw_a_line_per_minimum_mask_size(tiles):
    tiles.masks[1] = False
    tiles.masks[1, :10, :15] = True  # 150 pixels
    figure = plotting.show_thresholds(tiles.masks, 0.9 * tiles.masks)
    *kept, emptied = figure.axes[0].lines
    assert all(np.allclose(line.get_ydata(), 1.0) for line in kept) and len(kept) == 3
    assert np.allclose(emptied.get_ydata(), 2 / 3)


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


def test_live_curves_in_a_plain_script_let_the_training_go_on():
    show = plotting.live_curves()  # pytest is no notebook, either
    show(pd.DataFrame({"epoch": [0], "loss": [1.0], "score": [0.1]}))
    assert not plt.get_fignums()
