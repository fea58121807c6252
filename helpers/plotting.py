"""Static figures in one style, with fixed intensity limits and color-blind safe colors.

Truth is blue, prediction orange. Where they differ, missed salt is blue and false salt
orange; salt that was found is gray.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from skimage import measure

from helpers.data import Tiles
from helpers.inference import THRESHOLDS, PostProcess, score_grid
from helpers.metrics import precision_per_image

TRUTH, GUESS = "#0072b2", "#e69f00"  # blue, orange; Okabe and Ito 2008
BARE: dict[str, Any] = {"xticks": [], "yticks": []}  # axes without numbers
LINES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
MARKERS = "os^Dv<>P*X"


def use_style() -> None:
    """Set the figure style of all notebooks."""
    plt.rc("figure", dpi=80)
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("font", size=10)
    plt.rc("axes", titlesize=10, prop_cycle=plt.cycler(color=LINES))
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("image", cmap="gray", interpolation="nearest")
    plt.rc("legend", frameon=False)


def look(number: int) -> tuple[str, str]:
    """Color and marker of one of several lines, counted from 0."""
    return LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]


def draw_tile(axis: Axes, image: np.ndarray) -> None:
    """Draw a tile in gray, always from 0 (black) to 255 (white)."""
    axis.imshow(image, vmin=0, vmax=255, cmap="gray")


def outline(axis: Axes, mask: ArrayLike, color: str) -> None:
    """Draw the outline of a mask; nothing for an empty mask."""
    mask = np.asarray(mask, float)
    height, width = mask.shape
    fine = max(1, 100 // height)  # on few pixels you would see that corners are cut
    larger = np.kron(mask, np.ones((fine, fine)))
    contours = measure.find_contours(np.pad(larger, 1), 0.5)
    if contours:
        lines = [(line[:, ::-1] - 0.5) / fine - 0.5 for line in contours]  # x, y
        axis.add_collection(LineCollection(lines, colors=color, linewidths=1.5))
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def difference(axis: Axes, truth: np.ndarray, guess: np.ndarray) -> None:
    """Draw where truth and prediction differ: missed salt blue, false salt orange."""
    colors = ListedColormap(["white", TRUTH, GUESS, "#cccccc"])
    axis.imshow(truth + 2 * guess, cmap=colors, vmin=0, vmax=3)


def draw_curves(axis: Axes, histories: Mapping[str, pd.DataFrame], column: str) -> None:
    """Draw a column of runs' `history()`: validation solid, training dashed."""
    for number, (name, table) in enumerate(histories.items()):
        color, marker = look(number)
        x, y = table["epoch"] + 1, table[f"val_{column}"]
        axis.plot(x, y, marker=marker, ms=4, color=color, label=name)
        axis.plot(x, table[column], "--", color=color, alpha=0.6)
    longest = max(map(len, histories.values()), default=1)
    axis.set(xlabel="epoch", title=column, xlim=(0.5, longest + 0.5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def show_curves(
    histories: Mapping[str, pd.DataFrame], columns: Sequence[str] = ("loss", "score")
) -> Figure:
    """Learning curves, one panel per column; see `draw_curves`."""
    size = (4.2 * len(columns), 3.2)
    figure, axes = plt.subplots(1, len(columns), figsize=size, squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        draw_curves(axis, histories, column)
        axis.set_title(f"{column} (solid: validation, dashed: training)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def live_curves() -> Callable[[pd.DataFrame], None]:
    """Learning curves that grow during training, for `training.fit(show=...)`.

    Returns a function that draws a history, always in the same place.
    """
    handle = display(display_id=True)

    def show(history: pd.DataFrame) -> None:
        if handle is not None:  # as in a plain script
            figure = show_curves({"this run": history})
            handle.update(figure)
            plt.close(figure)

    return show


def show_tiles(tiles: Tiles, titles: Sequence[str] | None = None) -> Figure:
    """Tiles with the outlines of their masks, titled with id and depth by default."""
    rows = -(-len(tiles) // 6)
    figure, axes = plt.subplots(rows, 6, figsize=(10.5, 2.0 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, axis in enumerate(axes.flat[: len(tiles)]):
        draw_tile(axis, tiles.images[index])
        if tiles.masks is not None:
            outline(axis, tiles.masks[index], TRUTH)
        name = f"{tiles.ids[index]}\n{tiles.depths[index]} ft"
        axis.set_title(titles[index] if titles is not None else name, fontsize=9)
    return figure


def show_section(
    seismic: np.ndarray, probabilities: np.ndarray, truth: np.ndarray
) -> Figure:
    """A section in gray, predicted salt in orange, true salt outlined in blue."""
    figure, axis = plt.subplots(figsize=(8.4, 8.4 * len(seismic) / seismic.shape[1]))
    limit = np.percentile(np.abs(seismic), 98)
    axis.imshow(seismic, vmin=-limit, vmax=limit)
    shades = LinearSegmentedColormap.from_list("", [(GUESS, 0.0), (GUESS, 0.55)])
    axis.imshow(probabilities, vmin=0, vmax=1, cmap=shades)
    outline(axis, truth, TRUTH)
    axis.axis("off")
    return figure


def show_pictures(
    pictures: Mapping[str, np.ndarray],
    truth: np.ndarray | None = None,
    **options: Any,
) -> Figure:
    """Pictures by title, (rows, columns) each, side by side.

    `truth`, a mask, is outlined in all of them; `options` are those of `imshow`.
    """
    count = len(pictures)
    figure, axes = plt.subplots(1, count, figsize=(2.1 * count, 2.3), squeeze=False)
    for axis, (title, picture) in zip(axes[0], pictures.items(), strict=True):
        axis.imshow(picture, **options)
        if truth is not None:
            outline(axis, truth, TRUTH)
        axis.set(title=title, **BARE)
    return figure


def show_predictions(
    tiles: Tiles, probabilities: np.ndarray, post_process: PostProcess
) -> Figure:
    """One row per labeled tile: image, truth, probability, difference and score.

    `probabilities` are float (n, 101, 101), in the order of the tiles.
    """
    masks = post_process(probabilities)
    scores = precision_per_image(tiles.masks, masks)
    how: Any = {"figsize": (8.4, 2.05 * len(tiles) + 0.4), "subplot_kw": BARE}
    figure, axes = plt.subplots(len(tiles), 4, squeeze=False, **how)
    for row, axis in enumerate(axes):
        draw_tile(axis[0], tiles.images[row])
        draw_tile(axis[1], tiles.images[row])
        outline(axis[1], tiles.masks[row], TRUTH)
        axis[2].imshow(probabilities[row], vmin=0, vmax=1, cmap="cividis")
        difference(axis[3], tiles.masks[row], masks[row])
        axis[0].set_title(f"{tiles.ids[row]}, {tiles.depths[row]} ft", fontsize=9)
        axis[3].set_title(f"score {scores[row]:.1f}", fontsize=9)
    axes[0, 1].set_title("truth")
    axes[0, 2].set_title("probability of salt")
    colors = {"missed": TRUTH, "false salt": GUESS}
    handles = [Patch(color=color, label=label) for label, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=2)
    return figure


def show_thresholds(masks: np.ndarray, probabilities: np.ndarray) -> Figure:
    """Mean score against the threshold, with one line per minimum mask size.

    Takes true masks, bool (n, height, width), and probabilities of the same shape.
    """
    sizes = (0, 50, 100, 200)
    _, scores = score_grid(masks, probabilities, sizes)
    figure, axis = plt.subplots(figsize=(5.2, 3.2))
    lines = scores.mean(axis=1).reshape(len(THRESHOLDS), -1).T
    for line, pixels, marker in zip(lines, sizes, MARKERS, strict=False):
        label = f"under {pixels} px: empty" if pixels else "all masks kept"
        axis.plot(THRESHOLDS, line, marker=marker, ms=4, label=label)
    axis.set(xlabel="threshold", ylabel="score", title="Which threshold scores best?")
    axis.legend()
    return figure
