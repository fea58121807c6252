"""Static figures in one style: fixed grey limits, colours for colour-blind eyes.

Truth is blue, prediction orange. In a difference missed salt is blue (dark), false salt
orange (light), salt that was found grey, and the rest white.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from helpers.data import Tiles
from helpers.inference import THRESHOLDS, PostProcess, score_grid
from helpers.metrics import precision_per_image

TRUTH, GUESS = "#0072b2", "#e69f00"  # Okabe and Ito 2008: blue, orange
LINES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")


def use_style() -> None:
    """Set the figure style of all notebooks."""
    plt.rcParams.update(
        {
            "figure.dpi": 80,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=LINES),
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "legend.frameon": False,
        }
    )


def show_tiles(
    tiles: Tiles,
    columns: int = 6,
    titles: Sequence[str] | None = None,
    colour: str = TRUTH,
) -> Figure:
    """A page of tiles with the outline of their masks, where there are any.

    Args:
        tiles: `data.Tiles`.
        columns: tiles in a row.
        titles: a text for each; by default id and depth.
        colour: of the outline: `TRUTH`, or `GUESS` for predicted masks.

    Returns:
        The `matplotlib` figure.
    """
    rows = -(-len(tiles) // columns)
    size = (1.75 * columns, 2.0 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, axis in enumerate(axes.flat[: len(tiles)]):
        draw_tile(axis, tiles.images[index])
        if tiles.masks is not None:
            outline(axis, tiles.masks[index], colour)
        name = f"{tiles.ids[index]}\n{tiles.depths[index]} ft"
        axis.set_title(titles[index] if titles is not None else name, fontsize=9)
    return figure


def show_predictions(
    tiles: Tiles,
    probabilities: np.ndarray,
    rule: PostProcess,
    scores: np.ndarray | None = None,
) -> Figure:
    """A row per tile: image, truth, probability, difference.

    Args:
        tiles: labelled `data.Tiles`, a few.
        probabilities: float (n, 101, 101).
        rule: an `inference.PostProcess`.
        scores: float (n,); by default the competition's score under the rule.

    Returns:
        The `matplotlib` figure.
    """
    masks = rule(probabilities)
    if scores is None:
        scores = precision_per_image(tiles.masks, masks)
    size = (8.4, 2.05 * len(tiles) + 0.4)
    figure, axes = plt.subplots(len(tiles), 4, figsize=size, squeeze=False)
    for row, (axis, truth, guess) in enumerate(
        zip(axes, tiles.masks, masks, strict=True)
    ):
        draw_tile(axis[0], tiles.images[row])
        draw_tile(axis[1], tiles.images[row])
        outline(axis[1], truth, TRUTH)
        axis[2].imshow(probabilities[row], vmin=0, vmax=1, cmap="cividis")
        difference(axis[3], truth, guess)
        axis[0].set_title(f"{tiles.ids[row]}, {tiles.depths[row]} ft", fontsize=9)
        axis[3].set_title(f"score {scores[row]:.1f}", fontsize=9)
        for cell in axis:
            cell.set_xticks([])
            cell.set_yticks([])
    axes[0, 1].set_title("truth")
    axes[0, 2].set_title("probability of salt")
    handles = [
        Patch(color=TRUTH, label="missed"),
        Patch(color=GUESS, label="false salt"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=2)
    return figure


def draw_tile(axis: Axes, image: np.ndarray) -> None:
    """One tile in grey, limits 0 to 255 whatever it holds."""
    axis.imshow(image, vmin=0, vmax=255, cmap="gray")


def outline(axis: Axes, mask: ArrayLike, colour: str) -> None:
    """The border of a mask, drawn on an axis; nothing for an empty mask."""
    framed = np.pad(np.asarray(mask, float), 1)
    if framed.any():
        grid = np.arange(-1, len(framed) - 1)
        axis.contour(grid, grid, framed, levels=[0.5], colors=colour, linewidths=1.5)
        axis.set_xlim(-0.5, len(framed) - 2.5)
        axis.set_ylim(len(framed) - 2.5, -0.5)


def difference(axis: Axes, truth: np.ndarray, guess: np.ndarray) -> None:
    """Where truth and prediction differ: missed salt blue, false salt orange."""
    agreed = np.where(truth & guess, 1, 0)  # light grey: salt found
    kind = np.where(truth & ~guess, 2, np.where(guess & ~truth, 3, agreed))
    colours = ListedColormap(["white", "#cccccc", TRUTH, GUESS])
    axis.imshow(kind, cmap=colours, vmin=0, vmax=3)


def show_curves(
    histories: Mapping[str, pd.DataFrame], columns: Sequence[str] = ("loss", "score")
) -> Figure:
    """Learning curves: training dashed, validation solid, one colour a run.

    Args:
        histories: dict from names to DataFrames, see `runs.Run.history`.
        columns: what is drawn, one panel each.

    Returns:
        The `matplotlib` figure.
    """
    size = (4.2 * len(columns), 3.2)
    figure, axes = plt.subplots(1, len(columns), figsize=size, squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for (name, table), colour in zip(histories.items(), LINES * 9, strict=False):
            epochs = table["epoch"] + 1
            axis.plot(epochs, table[column], "--", color=colour, alpha=0.6)
            axis.plot(
                epochs, table[f"val_{column}"], "o-", ms=3, color=colour, label=name
            )
        axis.set(
            xlabel="epoch", title=f"{column} (solid: validation, dashed: training)"
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def live_curves(
    columns: Sequence[str] = ("loss", "score"),
) -> Callable[[pd.DataFrame], None]:
    """Learning curves that grow while a training runs: for `training.fit(show=...)`.

    Args:
        columns: see `show_curves`.

    Returns:
        A function of a history; called again, it draws in place of its last drawing.
    """
    handle = display(display_id=True)

    def show(history: pd.DataFrame) -> None:
        figure = show_curves({"this training": history}, columns)
        handle.update(figure)
        plt.close(figure)

    return show


def show_thresholds(
    masks: np.ndarray,
    probabilities: np.ndarray,
    min_mask_size: Sequence[int] = (0, 50, 100, 200),
) -> Figure:
    """Score against threshold, one line per smallest mask.

    Args:
        masks: bool (n, height, width).
        probabilities: float (n, height, width).
        min_mask_size: pixels; a mask with fewer is emptied.

    Returns:
        The `matplotlib` figure.
    """
    _, scores = score_grid(masks, probabilities, THRESHOLDS, min_mask_size)
    figure, axis = plt.subplots(figsize=(5.2, 3.2))
    lines = scores.mean(axis=1).reshape(len(THRESHOLDS), len(min_mask_size)).T
    for line, pixels, marker in zip(lines, min_mask_size, "os^Dv<>P", strict=False):
        label = f"under {pixels} px: empty" if pixels else "no smallest mask"
        axis.plot(THRESHOLDS, line, marker=marker, ms=4, label=label)
    axis.set(xlabel="threshold", ylabel="score", title="Which rule scores best?")
    axis.legend()
    return figure
