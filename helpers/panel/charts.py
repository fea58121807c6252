"""The figures of the panel (see `explore`): many at once, redrawn fast.

They are `matplotlib.figure.Figure`s outside of pyplot, so that callbacks and threads
may draw them. A system has a colour, a marker and a hatch, one of which is enough to
know it by; text is 9 points and more.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from helpers import plotting
from helpers.inference import THRESHOLDS, PostProcess
from helpers.panel.comparison import Comparison, Prediction
from helpers.plotting import GUESS, LINES, TRUTH

MARKERS, HATCHES = "os^Dv<>P*X", ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
SMALL, CUT = 9, 22  # points; letters of a system's name, where space is short
LEGEND = 140  # letters that a row of it has room for
DOTS = 80  # an inch
PLAIN: dict[str, Any] = {"dpi": DOTS, "layout": "none"}  # of a figure
MEAN: dict[str, Any] = {"color": "black", "lw": 2.5, "label": "mean, as weighted"}

Draw = Callable[[Axes, Comparison, PostProcess], None]  # what draws one panel


def png(*figures: Figure) -> bytes:
    """Figures, one below the other, as one PNG: bytes."""
    drawn = []
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba())[..., :3])
    width = max(picture.shape[1] for picture in drawn)
    white: dict[str, Any] = {"mode": "constant", "constant_values": 255}
    drawn = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), **white)
        for picture in drawn
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(drawn)).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def short(names: Iterable[str]) -> list[str]:
    """Names cut to `CUT` letters: in the middle, or where that leaves them different.

    Args:
        names: of systems, each of them once.

    Returns:
        List of as many names, cut at the same letter; short ones stay as they are.
    """
    names = list(names)
    best: list[str] = []
    for head in sorted(range(CUT), key=lambda head: abs(head - CUT // 2)):
        tail = CUT - 1 - head
        cut = [
            name if len(name) <= CUT else f"{name[:head]}…{name[len(name) - tail :]}"
            for name in names
        ]
        if len(set(cut)) > len(set(best)):
            best = cut
    return best


def compare(
    comparison: Comparison, rule: PostProcess | None = None, log: bool = False
) -> Figure:
    """How systems have learned, and what they are good at: eight panels.

    Args:
        comparison: `comparison.Comparison`.
        rule: `inference.PostProcess` by which tiles are scored; 0.5 by default.
        log: whether losses are drawn on a logarithmic scale.

    Returns:
        The figure.
    """
    figure = _figure(PANELS, comparison, rule or PostProcess(), (2, 4), (14, 6.6))
    if log:
        figure.axes[0].set_yscale("log")
    return figure


def what_if(
    comparison: Comparison, rule: PostProcess, mean: Prediction | None = None
) -> Figure:
    """What another threshold, or another smallest component, would change.

    Args:
        comparison: `comparison.Comparison`.
        rule: `inference.PostProcess`, of which one number at a time is exchanged.
        mean: what systems say together, drawn as one more line.

    Returns:
        The figure.
    """
    panels = (
        _scan("threshold", THRESHOLDS, mean, "Which threshold?", "threshold"),
        _scan(
            "min_component_size",
            range(0, 301, 50),
            mean,
            "Drop small specks?",
            "smallest component that is kept, pixels",
        ),
    )
    return _figure(panels, comparison, rule, (1, 2), (14, 2.9))


def _figure(
    panels: Sequence[Draw],
    comparison: Comparison,
    rule: PostProcess,
    shape: tuple[int, int],
    size: tuple[float, float],
) -> Figure:
    """These panels, and a legend above all of them, where it covers nothing."""
    figure = Figure(figsize=size, **PLAIN)
    axes = figure.subplots(*shape)
    height = size[1]  # margins in inches: a layout that is computed takes far longer
    margins = {"top": 1 - 0.65 / height, "bottom": 0.55 / height}
    figure.subplots_adjust(0.035, right=0.99, wspace=0.2, hspace=0.45, **margins)
    for draw, axis in zip(panels, axes.flat, strict=True):
        draw(axis, comparison, rule)
        axis.title.set_size(10)
        axis.tick_params(labelsize=SMALL)
        for label in (axis.xaxis.label, axis.yaxis.label):
            label.set_size(SMALL)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if min(len(labels), 5) * max(map(len, labels)) > LEGEND:
        labels = short(labels)
    figure.legend(
        handles,
        labels,
        loc="upper center",
        ncols=5,
        frameon=False,
        fontsize=SMALL,
    )
    return figure


def _looks(comparison: Comparison) -> Iterator[tuple[int, str, Prediction, dict]]:
    """(position, name, `Prediction`, its look) of every system."""
    for number, (name, prediction) in enumerate(comparison.systems.items()):
        look = {
            "color": LINES[number % len(LINES)],
            "marker": MARKERS[number % len(MARKERS)],
            "ms": 5,
            "label": name,
        }
        yield number, name, prediction, look


def _curves(column: str, title: str) -> Draw:
    def draw(axis: Axes, comparison: Comparison, _: PostProcess) -> None:
        longest = 1
        for _, name, _, look in _looks(comparison):
            for run in comparison.runs[name]:
                table = run.history()
                epochs = table["epoch"] + 1
                longest = max(longest, len(epochs))
                axis.plot(epochs, table[f"val_{column}"], **look)
                seen = {**look, "marker": "", "label": None, "alpha": 0.7}
                axis.plot(epochs, table[column], "--", **seen)
                look = {**look, "label": None}
        axis.set(title=title, xlabel="epoch (dashed: tiles trained on)")
        axis.set_xlim(0.5, longest + 0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw


def _grouped(method: str, title: str, xlabel: str) -> Draw:
    def draw(axis: Axes, comparison: Comparison, rule: PostProcess) -> None:
        for _, _, prediction, look in _looks(comparison):
            names, means = getattr(comparison, method)(prediction.scores(rule))
            axis.plot(range(len(names)), means, **look)
        axis.set_xticks(range(len(names)), names)
        if len(names[-1]) > 3:
            axis.tick_params("x", rotation=20)
        axis.set(title=title, xlabel=xlabel, ylim=(-0.03, 1.03))

    return draw


def _precision(axis: Axes, comparison: Comparison, rule: PostProcess) -> None:
    for _, _, prediction, look in _looks(comparison):
        axis.plot(np.arange(50, 100, 5) / 100, prediction.passed(rule), **look)
    axis.set(title="How exact? Share of tiles above each IoU", ylim=(0, 1.03))
    axis.set(xlabel="IoU threshold; the score is the mean")


def _confusion(axis: Axes, comparison: Comparison, rule: PostProcess) -> None:
    width = 0.8 / len(comparison.systems)
    for number, _, prediction, look in _looks(comparison):
        table = prediction.confusion(rule)
        shares = table[[0, 1], [1, 0]] / np.maximum(table.sum(axis=1), 1)
        hatch, face = HATCHES[number % len(HATCHES)], look["color"]
        where = np.arange(2) + (number - (len(comparison.systems) - 1) / 2) * width
        look = {"color": face, "hatch": hatch, "edgecolor": "white"}
        bars = axis.bar(where, 100 * shares, width, **look)
        if len(comparison.systems) <= 4:
            axis.bar_label(bars, fmt="%.0f", fontsize=SMALL)
    axis.set_xticks((0, 1), ["empty tile:\nsalt seen", "salt in tile:\ncalled empty"])
    axis.set(title="Empty or not? Wrong answers, %", ylim=(0, 108))


def _calibration(axis: Axes, comparison: Comparison, _: PostProcess) -> None:
    axis.plot((0, 1), (0, 1), ":", color="#888888", zorder=0)
    for _, _, prediction, look in _looks(comparison):
        axis.plot(*prediction.calibration(), **look)
    axis.set(title="Honest? Above the dots: too shy", xlabel="probability said")
    axis.set(ylabel="share that is salt", xlim=(0, 1), ylim=(0, 1))


def _scan(
    field: str,
    values: Sequence[Any],
    mean: Prediction | None,
    question: str,
    xlabel: str,
) -> Draw:
    """Score against one number of the rule; the dotted line is where it stands."""

    def draw(axis: Axes, comparison: Comparison, rule: PostProcess) -> None:
        rules = [replace(rule, **{field: value}) for value in values]
        lines = [(prediction, look) for _, _, prediction, look in _looks(comparison)]
        if mean:
            lines.append((mean, MEAN))
        for prediction, look in lines:
            axis.plot(values, [prediction.scores(one).mean() for one in rules], **look)
        axis.axvline(getattr(rule, field), color="#888888", ls=":", zorder=0)
        axis.set(title=f"{question} Score of all tiles", xlabel=xlabel)

    return draw


def _costs(axis: Axes, comparison: Comparison, rule: PostProcess) -> None:
    """Score and cost of each system, written as a table."""
    axis.axis("off")
    axis.set_title("Score, and what it costs")
    rows, names = [], short(comparison.systems)
    for number, name, prediction, _ in _looks(comparison):
        config = comparison.runs[name][0].config
        rows.append(
            (
                names[number],
                f"{prediction.scores(rule).mean():.3f}",
                f"{config['parameters'] / 1e6:.2f}",
                f"{1000 * config['seconds_per_tile']:.1f}",
            )
        )
    table = axis.table(
        rows,
        colLabels=("system", "score", "M weights", "ms a tile"),
        loc="upper right",
        cellLoc="right",
        edges="horizontal",
    )
    for cell in table.get_celld().values():  # space on either side, of its width
        cell.PAD = 0.1 if max(map(len, names)) < 16 else 0.04
    table.auto_set_font_size(False)
    table.set_fontsize(SMALL)
    table.auto_set_column_width(range(4))
    table.scale(1, 1.35)


PANELS = (
    _curves("loss", "Still falling? Loss"),
    _curves("score", "Still rising? Score of watched tiles"),
    _grouped(
        "by_coverage",
        "Where? Score by salt in the tile",
        "0: empty; otherwise up to ... %",
    ),
    _grouped("by_depth", "Where? Score by depth", "feet, fifths of the tiles"),
    _precision,
    _confusion,
    _calibration,
    _costs,
)


class TilePicture:
    """One tile: image, truth, every system's probability, mask and difference.

    The figure is made once; `show` exchanges its content, which is much faster.

    Args:
        comparison: `comparison.Comparison`.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        count = len(comparison.systems)
        size = (2.1 * (count + 1) + 0.3, 4.9)
        self.figure = Figure(figsize=size, **PLAIN)
        self.axes = self.figure.subplots(
            2,
            count + 1,
            sharex=True,
            sharey=True,
            squeeze=False,
            gridspec_kw={"wspace": 0.06, "hspace": 0.16, "left": 0.01, "right": 0.99,
                         "top": 0.87, "bottom": 0.08},
        )  # fmt: skip
        for axis in self.axes.flat:
            axis.set(xticks=[], yticks=[])
        note = (
            "below: salt found grey, missed blue (dark), false orange (light); "
            "above: probability, dark 0 to light 1"
        )
        self.figure.text(0.01, 0.02, note, fontsize=SMALL)

    def show(
        self, position: int, rule: PostProcess, view: tuple[float, ...] | None = None
    ) -> Figure:
        """Draw a tile.

        Args:
            position: of the tile in `comparison.tiles`.
            rule: `inference.PostProcess`.
            view: `(row, column, size)` of the square to show; all by default.

        Returns:
            The figure.
        """
        tiles, systems = self.comparison.tiles, self.comparison.systems
        for axis in self.axes.flat:
            axis.clear()
            axis.set(xticks=[], yticks=[])
        plotting.draw_tile(self.axes[0, 0], tiles.images[position])
        plotting.draw_tile(self.axes[1, 0], tiles.images[position])
        truth = tiles.masks[position]
        plotting.outline(self.axes[1, 0], truth, TRUTH)
        name, depth = tiles.ids[position], tiles.depths[position]
        self.axes[0, 0].set_title(f"{name}\n{depth} ft", fontsize=SMALL)
        self.axes[1, 0].set_title(f"truth: {_salt(truth)}", fontsize=SMALL)
        one = slice(position, position + 1)
        columns = zip(self.axes.T[1:], short(systems), systems.values(), strict=True)
        for (above, below), name, prediction in columns:
            said = prediction.probabilities[position]
            guess = rule(said[None])[0]
            above.imshow(said, vmin=0, vmax=255, cmap="cividis")
            plotting.difference(below, truth, guess)
            plotting.outline(below, guess, GUESS)
            above.set_title(name, fontsize=SMALL)
            score = prediction.scores(rule)[one][0]
            below.set_title(f"score {score:.1f}, {_salt(guess)}", fontsize=SMALL)
        row, column, size = view or (0, 0, len(truth))
        self.axes[0, 0].set_xlim(column - 0.5, column + size - 0.5)
        self.axes[0, 0].set_ylim(row + size - 0.5, row - 0.5)
        return self.figure


def _salt(mask: np.ndarray) -> str:
    """How much salt a mask says, in words."""
    if not mask.any():
        return "empty"
    share = 100 * mask.mean()
    return f"{share:.0f} % salt" if share >= 1 else "<1 % salt"


def everything(comparison: Comparison, rule: PostProcess | None = None) -> bytes:
    """The whole panel as one still picture, for readers without widgets.

    The comparison; what threshold and smallest component would change; and two tiles:
    the one with salt that the systems find hardest, and the one they disagree on most.

    Args:
        comparison: `comparison.Comparison`.
        rule: `inference.PostProcess` by which tiles are scored; 0.5 by default.

    Returns:
        A PNG, bytes.
    """
    rule = rule or PostProcess()
    hardest = comparison.order("worst score", rule)
    hardest = hardest[comparison.tiles.coverage[hardest] > 0][:1]
    shown = dict.fromkeys([*hardest, comparison.order("disagreement", rule)[0]])
    figures = [compare(comparison, rule), what_if(comparison, rule)]
    figures += [TilePicture(comparison).show(position, rule) for position in shown]
    return png(*figures)
