"""The panel's figures, made without pyplot so that any thread may draw them.

Every system has its own color and marker; text is at least 9 points high.
"""

import io
import textwrap
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from helpers import plotting
from helpers.data import coverage_class
from helpers.inference import PostProcess, bootstrap_ci
from helpers.panel.comparison import Comparison

SMALL = 9  # points
WIDTH = 10  # inches, of every figure
LAYOUT = {"max_width": "100%", "align_self": "flex-start"}  # of an image widget
LEGEND = "Blue line: the truth. Gray: salt that was found; blue: missed; orange: false."


def blank(height: float) -> Figure:
    """An empty figure; its height is in inches."""
    return Figure(figsize=(WIDTH, height), dpi=80, layout="constrained")


def png(*figures: Figure) -> bytes:
    """Figures below one another, as one PNG."""
    canvases = [FigureCanvasAgg(figure) for figure in figures]
    for canvas in canvases:
        canvas.draw()
    pixels = np.concatenate([np.asarray(canvas.buffer_rgba()) for canvas in canvases])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def show_scores(comparison: Comparison, post_process: PostProcess) -> Figure:
    """Two charts: how good each system is, and on which tiles."""
    names = [textwrap.fill(name, 30) for name in comparison.systems]
    figure = blank(max(3.2, 1.3 + 0.2 * len("\n".join(names).split("\n"))))
    score, salt = figure.subplots(1, 2)
    results = comparison.results(post_process)
    classes = coverage_class(comparison.tiles.coverage)
    for row, name in enumerate(comparison.systems):
        color, marker = plotting.look(row)
        score.plot(bootstrap_ci(results[name]), [row, row], color=color, lw=2)
        score.plot(results[name].mean(), row, color=color, marker=marker, ms=8)
        means = pd.Series(results[name]).groupby(classes).mean()
        salt.plot(10 * means.index, means, color=color, marker=marker, ms=5)
    score.set(title="How good? Score, with its 95 % interval", xlabel="score")
    score.set_yticks(range(len(names)), names, fontsize=SMALL)
    score.set_ylim(len(names) - 0.5, -0.5)
    salt.set(title="On which tiles? Score by share of salt", ylim=(-0.03, 1.03))
    salt.set(xlabel="salt, rounded up to tens of percent (0: empty tiles)")
    salt.set(xlim=(-4, 104), xticks=range(0, 101, 20))
    return figure


def show_tiles(
    comparison: Comparison, positions: Iterable[int], post_process: PostProcess
) -> Figure:
    """Tiles, a row each, with the truth, and what each system makes of them."""
    tiles, systems, positions = comparison.tiles, comparison.systems, [*positions]
    size = min(2.0, WIDTH / (1 + len(systems)))  # of a tile, in inches
    heads = [textwrap.fill(name, int(11 * size)) + "\n" for name in systems]
    lines = 2 + max(head.count("\n") for head in heads)
    figure = blank(size * len(positions) + 0.15 * (lines + len(positions)))
    shape = len(positions), 1 + len(systems)
    axes = figure.subplots(*shape, squeeze=False, subplot_kw=plotting.BARE)
    results = comparison.results(post_process)
    for row, index in zip(axes, positions, strict=True):
        truth, scores = tiles.masks[index], [results[x][index] for x in systems]
        plotting.draw_tile(row[0], tiles.images[index])
        plotting.outline(row[0], truth, plotting.TRUTH)
        row[0].set_title(f"{tiles.ids[index]}\n{tiles.depths[index]} ft")
        drawn = zip(row[1:], systems.values(), heads, scores, strict=True)
        for axis, probabilities, head, score in drawn:
            plotting.difference(axis, truth, post_process(probabilities[[index]])[0])
            weight = "bold" if min(scores) < score == max(scores) else "normal"
            axis.set_title(f"{head}score {score:.1f}", weight=weight)
        heads = [""] * len(heads)  # above the first row only
    for axis in axes.flat:
        axis.title.set_fontsize(SMALL)
    figure.suptitle(LEGEND, fontsize=SMALL)
    return figure


def everything(comparison: Comparison) -> bytes:
    """The panel as one still PNG, for readers without a kernel."""
    plain = PostProcess()
    scores = show_scores(comparison, plain)
    title = textwrap.fill(comparison.headline(plain), 90)
    scores.suptitle(title, fontsize=10, weight="bold")
    differ = comparison.order(plain)[:2]
    return png(scores, show_tiles(comparison, differ, plain))
