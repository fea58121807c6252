"""The panel's figures, made without pyplot so that any thread may draw them.

Every system has its own color, marker and hatch; text is at least 9 points high.
"""

import io
from collections.abc import Collection
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from helpers import plotting
from helpers.data import coverage_class
from helpers.inference import PostProcess
from helpers.panel.comparison import Comparison

HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
SMALL = 9  # points
CUT = 22  # characters of a system's name where there is little room
PLAIN: dict[str, Any] = {"dpi": 80, "layout": "none"}  # computed layouts are slow
LAYOUT = {"max_width": "100%", "align_self": "flex-start"}  # of an image widget
NOTE = "top: probability; bottom: gray found, blue missed, orange false"


def png(*figures: Figure) -> bytes:
    """Draw figures below one another as one PNG."""
    images = []
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        images.append(np.asarray(canvas.buffer_rgba())[..., :3])
    width = max(image.shape[1] for image in images)
    for number, image in enumerate(images):
        margin = ((0, 0), (0, width - image.shape[1]), (0, 0))
        images[number] = np.pad(image, margin, constant_values=255)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(images)).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def compare(comparison: Comparison, post_process: PostProcess) -> Figure:
    """Six charts: how the systems learned, what they are good at, what they cost."""
    figure = Figure(figsize=(14, 6.6), **PLAIN)
    figure.subplots_adjust(0.035, 0.085, 0.99, 0.9, wspace=0.14, hspace=0.45)
    loss, score, salt, exact, empty, costs = figure.subplots(2, 3).ravel()
    histories = {}
    for name, runs in comparison.runs.items():
        folds = pd.concat([run.history() for run in runs])
        histories[name] = folds.groupby("epoch", as_index=False).mean(numeric_only=True)
    plotting.draw_curves(loss, histories, "loss")
    plotting.draw_curves(score, histories, "score")
    classes = coverage_class(comparison.tiles.coverage)
    width = 0.8 / len(comparison.systems)  # of a bar
    looks = zip(cycle(plotting.LINES), cycle(plotting.MARKERS), cycle(HATCHES))
    for number, result in enumerate(comparison.results(post_process).values()):
        color, marker, hatch = next(looks)
        means = pd.Series(result.scores).groupby(classes).mean()
        look = {"color": color, "marker": marker, "ms": 5}
        salt.plot(10 * means.index, means, **look)
        exact.plot(np.arange(10, 20) / 20, result.passed, **look)
        where, percent = np.arange(2) + number * width, 100 * result.mistakes
        look = {"color": color, "hatch": hatch, "edgecolor": "white", "align": "edge"}
        bars = empty.bar(where, percent, width, **look)
        empty.bar_label(bars, fmt="%.0f", fontsize=SMALL)
    loss.set_title("Still falling? Loss (dashed: training tiles)")
    score.set_title("Still rising? Score (dashed: training tiles)")
    salt.set(title="Which tiles? Score by share of salt", ylim=(-0.03, 1.03))
    salt.set(xlabel="salt, rounded up to tens of percent (0: empty tiles)")
    exact.set(title="How exact? Share of tiles above each IoU", ylim=(0, 1.03))
    exact.set(xlabel="IoU threshold; the score is the mean over all ten")
    empty.set(title="Empty or not? Mistakes, %", ylim=(0, 108))
    empty.set_xticks([0.4, 1.4], ["salt on empty tiles", "salt tiles left empty"])
    rows = comparison.table(post_process)
    names = short(rows["system"])
    text = rows.replace({"system": names}).to_string(index=False)
    costs.text(0, 1, text, family="monospace", fontsize=SMALL, va="top")
    costs.set_title("Score and costs")
    costs.axis("off")
    lines = loss.get_legend_handles_labels()[0]
    figure.legend(lines, names.values(), loc="upper center", ncols=5, frameon=False)
    return figure


def show_tile(comparison: Comparison, index: int, post_process: PostProcess) -> Figure:
    """Tile `index` of `comparison.tiles`: image, truth, each system's prediction."""
    tiles, systems = comparison.tiles, comparison.systems
    image, truth = tiles.images[index], tiles.masks[index]
    columns = 1 + len(systems)
    figure = Figure(figsize=(2.1 * columns + 0.3, 4.9), **PLAIN)
    axes = figure.subplots(2, columns)
    figure.subplots_adjust(0.01, 0.08, 0.99, 0.87, wspace=0.06, hspace=0.16)
    for axis in axes[:, 0]:
        plotting.draw_tile(axis, image)
    plotting.outline(axes[1, 0], truth, plotting.TRUTH)
    axes[0, 0].set_title(f"{tiles.ids[index]}\n{tiles.depths[index]} ft")
    axes[1, 0].set_title(f"truth: {truth.sum()} px of salt")
    names, results = short(systems), comparison.results(post_process)
    for (top, bottom), name in zip(axes.T[1:], systems, strict=True):
        probability = systems[name][index]
        mask = post_process(probability[None])[0]
        top.imshow(probability, vmin=0, vmax=255, cmap="cividis")
        plotting.difference(bottom, truth, mask)
        plotting.outline(bottom, mask, plotting.GUESS)
        top.set_title(names[name])
        score = results[name].scores[index]
        bottom.set_title(f"score {score:.1f}, {mask.sum()} px")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.title.set_fontsize(SMALL)
    figure.text(0.01, 0.02, NOTE, fontsize=SMALL)
    return figure


def everything(comparison: Comparison) -> bytes:
    """The whole panel as one still PNG, for readers without a kernel.

    It ends with two tiles: the one with salt that scores worst, and the most disputed.
    """
    post_process = PostProcess()
    worst = comparison.order("worst score", post_process)
    worst = worst[comparison.tiles.coverage[worst] > 0][:1]
    disputed = comparison.order("disagreement", post_process)[:1]
    shown = dict.fromkeys([*worst, *disputed])
    figures = [show_tile(comparison, index, post_process) for index in shown]
    return png(compare(comparison, post_process), *figures)


def short(names: Collection[str]) -> dict[str, str]:
    """{name: cut to `CUT` characters, near the middle, where names stay distinct}."""

    def cut(head: int) -> dict[str, str]:
        ends = {name: f"{name[:head]}…{name[head + 1 - CUT :]}" for name in names}
        return {name: name if len(name) <= CUT else ends[name] for name in names}

    heads = sorted(range(CUT - 1), key=lambda head: abs(head - CUT // 2))
    return max(map(cut, heads), key=lambda names: len(set(names.values())))
