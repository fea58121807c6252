"""Systems side by side, with sliders: `tabs.compare(runs, tiles, settings)`.

The panel is made of ipywidgets and still pictures, and needs nothing else: it works in
JupyterLab, Colab and VS Code. Where there are no widgets (GitHub, nbconvert) the same
call shows one picture of it all.
"""

import base64
import contextlib
import threading
from collections.abc import Iterable, Sized
from typing import Any

import ipywidgets as widgets

from helpers.config import TILE, Settings
from helpers.data import DataError, Tiles
from helpers.inference import PostProcess, bootstrap_ci
from helpers.panel import charts
from helpers.panel.comparison import ORDERS, Choice, Comparison
from helpers.panel.trainer import Trainer, picture
from helpers.training.runs import Run, folds_of

WIDGET = "application/vnd.jupyter.widget-view+json"
WIDE = {"description_width": "initial"}


def compare(runs: Iterable[Run | str], tiles: Tiles, settings: Settings) -> "Panel":
    """Compare runs, look at tiles, try rules and weights, train another system.

    Args:
        runs: `runs.Run`s to compare at first, or names of systems, which stand for
            all their finished folds; folds of one system speak together.
        tiles: the labelled `data.Tiles` that they were trained with.
        settings: `config.Settings`: where choices are kept, and trainings go.

    Returns:
        `Panel`: put it last in a cell.

    Raises:
        DataError: if there is no run (of a name), or no tile that all of them have
            left out.
    """
    found: dict[Run, None] = {}
    for run in runs:
        found |= dict.fromkeys(
            folds_of(settings, run) if isinstance(run, str) else [run]
        )
    return Panel(list(found), tiles, settings)


class Panel:
    """The rule's sliders, and four tabs; only the tab that is seen is drawn.

    Args:
        runs, tiles, settings: as for `compare`, without names.

    Attributes:
        comparison: `comparison.Comparison` of the runs that are chosen.
        rule: `inference.PostProcess` by which everything is scored.
    """

    def __init__(self, runs: list[Run], tiles: Tiles, settings: Settings) -> None:
        self.tiles, self.settings = tiles, settings
        self.comparison = Comparison(runs, tiles)
        self.chosen = widgets.SelectMultiple(
            options=[(_label(run), run) for run in runs],
            value=runs,
            rows=_rows(runs),
            description="runs",
            layout={"width": "340px"},
        )
        self.threshold = _slider("threshold", 0.5, 0.05, 0.95, 0.01)
        self.min_component_size = _slider("smallest component", 0, 0, 300, 10)
        self.message = widgets.HTML()
        self.scores = widgets.HTML(layout={"overflow": "auto"})
        self.mixer = Mixer(self)
        self.parts = (Systems(self), Browser(self), self.mixer, Trainer(self))
        self.tabs = widgets.Tab([part.box for part in self.parts])
        for number, title in enumerate(part.title for part in self.parts):
            self.tabs.set_title(number, title)
        rule = widgets.VBox(
            [self.threshold, self.min_component_size, self.message],
            layout={"flex": "0 0 auto", "width": "370px"},
        )
        self.box = widgets.VBox(
            [widgets.HBox([self.chosen, rule, self.scores]), self.tabs]
        )
        self.chosen.observe(self._choose, "value")
        self.tabs.observe(self._draw, "selected_index")
        for slider in (self.threshold, self.min_component_size):
            slider.observe(self._rescore, "value")
        self._renew()

    @property
    def rule(self) -> PostProcess:
        """The rule that the controls say; the empty rule's are in the third tab."""
        min_mask_size = self.mixer.min_mask_size.value if self.mixer.empty.value else 0
        return PostProcess(
            round(self.threshold.value, 2), min_mask_size, self.min_component_size.value
        )

    def add(self, run: Run) -> None:
        """Put another finished run into the comparison."""
        others = [pair for pair in self.chosen.options if pair[1].folder != run.folder]
        chosen = [r for r in self.chosen.value if r.folder != run.folder]
        self.chosen.unobserve(self._choose, "value")
        self.chosen.options = [*others, (_label(run), run)]
        self.chosen.rows = _rows(self.chosen.options)
        self.chosen.value = [*chosen, run]
        self.chosen.observe(self._choose, "value")
        self._choose()

    def _choose(self, _: Any = None) -> None:
        """Other runs: a new comparison, if one can be made of them."""
        if not self.chosen.value:
            self.message.value = "<b>choose at least one run</b>"
            return
        try:
            self.comparison = Comparison(self.chosen.value, self.tiles)
        except DataError as error:
            self.message.value = f"<b>{error}</b>"
            return
        self.message.value = ""
        self._renew()

    def _renew(self) -> None:
        for part in self.parts:
            part.renew()
        self._rescore()

    def _rescore(self, _: Any = None) -> None:
        """Another rule: all scores, and the picture that is seen."""
        rows = [
            (name, one.scores(self.rule).mean())
            for name, one in self.comparison.systems.items()
        ]
        self.scores.value = _table(
            ("system", f"score of {len(self.comparison.tiles)} tiles"),
            [(name, f"{score:.4f}") for name, score in rows],
        )
        for part in self.parts:
            part.stale = True
        self._draw()

    def _draw(self, _: Any = None) -> None:
        part = self.parts[self.tabs.selected_index or 0]
        if part.stale:
            part.stale = False
            part.draw()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Widgets where they are understood, else a picture."""
        names = ", ".join(self.comparison.systems)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return {
            WIDGET: view,
            "image/png": base64.b64encode(charts.everything(self.comparison)).decode(),
            "text/plain": f"comparison of {names}",
        }


class Systems:
    """First tab: curves, and what each system is good at."""

    title, stale = "Systems", True

    def __init__(self, panel: Panel) -> None:
        self.panel, self.picture = panel, picture()
        self.log = widgets.Checkbox(description="logarithmic loss", indent=False)
        self.log.observe(self.draw, "value")
        self.box = widgets.VBox([self.log, self.picture])

    def renew(self) -> None:
        """Nothing here depends on which systems there are."""

    def draw(self, _: Any = None) -> None:
        """Draw the eight figures."""
        panel = self.panel
        figure = charts.compare(panel.comparison, panel.rule, self.log.value)
        self.picture.value = charts.png(figure)


class Browser:
    """Second tab: tile after tile, as every system sees it."""

    title, stale = "Tiles", True

    def __init__(self, panel: Panel) -> None:
        self.panel, self.picture = panel, picture()
        self.drawing = threading.Lock()  # of one figure: messages come in threads
        self.by = widgets.Dropdown(options=ORDERS, description="sort by")
        self.position = _slider("tile", 1, 1, 2, 1)
        self.count = widgets.Label()
        self.back = widgets.Button(description="previous", layout={"width": "90px"})
        self.on = widgets.Button(description="next", layout={"width": "90px"})
        self.zoom = _slider("zoom", 1.0, 1.0, 8.0, 0.5)
        self.row = _slider("row", TILE // 2, 0, TILE - 1, 1)
        self.column = _slider("column", TILE // 2, 0, TILE - 1, 1)
        hint = "click a slider, and the arrow keys move it"
        self.box = widgets.VBox(
            [
                widgets.HBox([self.by, self.position, self.count, self.back, self.on]),
                widgets.HBox([self.zoom, self.row, self.column]),
                widgets.Label(hint),
                self.picture,
            ]
        )
        self.by.observe(self._reorder, "value")
        for control in (self.position, self.zoom, self.row, self.column):
            control.observe(self.draw, "value")
        self.back.on_click(lambda _: self._page(-1))
        self.on.on_click(lambda _: self._page(1))

    def renew(self) -> None:
        """Other systems: other columns, and perhaps other tiles."""
        self.tile = charts.TilePicture(self.panel.comparison)
        self._reorder()

    def _reorder(self, _: Any = None) -> None:
        """Sort the tiles; they keep this order until another one is asked for."""
        panel = self.panel
        self.order = panel.comparison.order(self.by.value, panel.rule)
        self.position.max = len(self.order)
        self.count.value = f"of {len(self.order)}"
        if self.position.value > 1:
            self.position.value = 1
        elif _ is not None:
            self.draw()

    def _page(self, step: int) -> None:
        self.position.value = self.position.value + step  # the slider keeps its limits

    @property
    def view(self) -> tuple[float, ...]:
        """The square that is shown: its first row and column, and its size."""
        size = TILE / self.zoom.value
        start = (
            min(max(where.value + 0.5 - size / 2, 0), TILE - size)
            for where in (self.row, self.column)
        )
        return (*start, size)

    def draw(self, _: Any = None) -> None:
        """Draw the tile."""
        with self.drawing:
            position = self.order[self.position.value - 1]
            figure = self.tile.show(position, self.panel.rule, self.view)
            self.picture.value = charts.png(figure)


class Mixer:
    """Third tab: the systems vote together, with these weights and rules."""

    title, stale = "What if", True

    def __init__(self, panel: Panel) -> None:
        self.panel, self.picture = panel, picture()
        self.mixed: tuple = None, None
        self.known: dict[str, widgets.Widget] = {}
        self.weights = widgets.VBox()
        self.tta = widgets.Checkbox(
            value=True, description="average with mirrored tiles", indent=False
        )
        self.empty = widgets.Checkbox(
            value=False, description="empty masks smaller than", indent=False
        )
        self.min_mask_size = _slider("pixels", 50, 0, 300, 10)
        self.button = widgets.Button(
            description="keep for notebook 05", layout={"width": "180px"}
        )
        self.ask = widgets.Button(
            description="draw other thresholds", layout={"width": "180px"}
        )
        self.score, self.kept = widgets.HTML(), widgets.HTML()
        rules = widgets.HBox([self.empty, self.min_mask_size])
        buttons = widgets.HBox([self.ask, self.button])
        rest = [self.tta, rules, self.score, buttons, self.kept, self.picture]
        self.box = widgets.VBox([self.weights, *rest])
        self.tta.observe(self.draw, "value")
        for control in (self.empty, self.min_mask_size):
            control.observe(panel._rescore, "value")
        self.ask.on_click(self._scan)
        self.button.on_click(self._keep)

    def renew(self) -> None:
        """A slider for every system: at first at 1, one that joins later at 0."""
        names = self.panel.comparison.systems
        weight = 0.0 if self.known else 1.0
        for name in names:
            if name not in self.known:
                self.known[name] = _slider(name, weight, 0.0, 1.0, 0.05)
                self.known[name].observe(self.draw, "value")
        self.sliders = {name: self.known[name] for name in names}
        self.weights.children = tuple(self.sliders.values())
        self.mixed = None, None

    @property
    def choice(self) -> Choice:
        """`comparison.Choice` that the controls say; without weights if all are 0."""
        weights = tuple((n, s.value) for n, s in self.sliders.items() if s.value)
        return Choice(weights, self.tta.value, self.panel.rule)

    def draw(self, _: Any = None) -> None:
        """Score the mean of the systems."""
        choice, comparison = self.choice, self.panel.comparison
        self.kept.value, self.picture.layout.display = self._at_present(), "none"
        if not choice.weights:
            self.score.value = "give some system a weight"
            return
        made_of = choice.weights, choice.tta
        if self.mixed[0] != made_of:
            mix = comparison.mix(dict(choice.weights), choice.tta)
            self.mixed = made_of, mix
        scores = self.mixed[1].scores(choice.rule)
        low, high = bootstrap_ci(scores)
        self.score.value = (
            f"<b>score {scores.mean():.4f}</b> (95 % over tiles: {low:.3f} to "
            f"{high:.3f}), threshold {choice.rule.threshold:g}. What is chosen by "
            "looking at these tiles does a little worse on others."
        )

    def _scan(self, _: Any) -> None:
        """Draw scores against thresholds and components: a second or two."""
        panel, mean = self.panel, self.mixed[1] if self.choice.weights else None
        self.ask.disabled = True
        figure = charts.what_if(panel.comparison, panel.rule, mean)
        self.picture.value = charts.png(figure)
        self.picture.layout.display, self.ask.disabled = "", False

    def _at_present(self) -> str:
        """What is kept, if it is made of the systems that are compared."""
        with contextlib.suppress(DataError):  # notebook 05 tells what is wrong
            choice, _ = Choice.read(self.panel.settings)
            if choice and {name for name, _ in choice.weights} <= set(self.sliders):
                return f"kept at present: {choice}"
        return ""

    def _keep(self, _: Any) -> None:
        if not self.choice.weights:
            self.kept.value = "nothing kept: no system has a weight"
            return
        path = self.choice.save(self.panel.settings)
        self.kept.value = f"kept in {path.name}; notebook 05 submits with it"


def _label(run: Run) -> str:
    return f"{run.name}  {run.score:.4f}"


def _rows(runs: Sized) -> int:
    return min(max(len(runs), 3), 7)


def _slider(
    name: str, value: float, low: float, high: float, step: float
) -> widgets.Widget:
    """A slider that answers when it is let go, and to the arrow keys."""
    kind = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=name,
        continuous_update=False,
        style=WIDE,
        layout={"width": "360px"},
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table of texts."""
    cells = "".join(
        "<tr>"
        + "".join(f"<td style='padding-right:1em'>{x}</td>" for x in row)
        + "</tr>"
        for row in rows
    )
    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in head)
    return f"<table><tr>{head}</tr>{cells}</table>"
