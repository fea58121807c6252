"""The panel itself: ipywidgets that work in JupyterLab, Colab and VS Code."""

import base64
import html
from collections.abc import Iterable
from typing import Any

import ipywidgets as widgets
import pandas as pd

from helpers.config import Settings
from helpers.data import Tiles
from helpers.inference import PostProcess, bootstrap_ci
from helpers.panel import charts
from helpers.panel.comparison import ORDERS, Choice, Comparison, evaluate
from helpers.panel.trainer import Trainer
from helpers.training.runs import Run, folds_of
from helpers.utils.files import DataError


def compare(runs: Iterable[Run | str], tiles: Tiles, settings: Settings) -> "Panel":
    """Compare runs, look at tiles, try other post-processing, and train a system.

    Args:
        runs: `runs.Run`s, or names of systems, which stand for all finished folds.
        tiles: the labelled `data.Tiles` that the runs were trained with.
        settings: `config.Settings`: where choices and new runs are kept.

    Returns:
        `Panel`, a widget; without a kernel it shows as a still picture.

    Raises:
        DataError: if there is no such run, or if no tile was held out by every system.
    """
    return Panel(runs, tiles, settings)


class Panel(widgets.VBox):
    """The widget that `compare` returns; controls redraw the visible tab only."""

    def __init__(self, runs: Iterable, tiles: Tiles, settings: Settings) -> None:
        self.labelled, self.settings = tiles, settings
        self.selected = widgets.SelectMultiple(rows=7, description="runs")
        for run in runs:
            for fold in folds_of(settings, run) if isinstance(run, str) else [run]:
                self.add(fold)
        self.comparison = Comparison(self.selected.value, tiles)
        self.sliders = {
            "threshold": _slider("threshold", 0.5, 0.05, 0.95, 0.01),
            "min_component_size": _slider("min component size", 0, 0, 300, 10),
            "min_mask_size": _slider("min mask size", 0, 0, 300, 10),
        }
        layout = {"flex": "0 0 auto", "width": "370px"}
        controls = widgets.VBox(list(self.sliders.values()), layout=layout)
        self.scores = widgets.HTML(layout={"overflow": "auto"})
        self.image = widgets.Image(layout=charts.LAYOUT)
        self.browser, self.mixer = Browser(self), Mixer(self)
        self.trainer = Trainer(tiles, settings, self.add)
        pages = [self.image, self.browser.box, self.mixer.box, self.trainer.box]
        titles = ["Systems", "Tiles", "What if", "Train"]
        self.tabs = widgets.Tab(pages, titles=titles, selected_index=0)
        top = widgets.HBox([self.selected, controls, self.scores])
        super().__init__([top, self.tabs])
        self.selected.observe(self._select, "value")
        self.tabs.observe(self._draw, "selected_index")
        for slider in self.sliders.values():
            slider.observe(self._rescore, "value")
        self._rescore()

    @property
    def post_process(self) -> PostProcess:
        """The `inference.PostProcess` that the sliders describe."""
        values = {name: round(one.value, 2) for name, one in self.sliders.items()}
        return PostProcess(**values)

    def add(self, run: Run) -> None:
        """Add a finished run to the list, and select it too."""
        selected = [other for other in self.selected.value if other != run]
        options = [option for option in self.selected.options if option[1] != run]
        options.append((f"{run.name}  {run.score:.4f}", run))
        self.selected.options = options  # which selects none of them
        self.selected.value = [*selected, run]

    def _select(self, _: Any) -> None:
        """Compare the selected runs, if they can be compared."""
        try:
            self.comparison = Comparison(self.selected.value, self.labelled)
        except DataError as error:
            self.scores.value = f"<b>{html.escape(str(error))}</b>"
            return
        self.browser.sort()
        self.mixer.reset()
        self._rescore()

    def _rescore(self, _: Any = None) -> None:
        """Update the scores, and draw the visible tab."""
        table = self.comparison.table(self.post_process)[["system", "score"]]
        with pd.option_context("display.max_colwidth", None):  # whole names
            rows = table.to_html(index=False, border=0)
        self.scores.value = f"{len(self.comparison.tiles)} tiles{rows}"
        self._draw()

    def _draw(self, _: Any = None) -> None:
        if self.tabs.selected_index:
            pages = (self.browser, self.mixer, self.trainer)
            pages[self.tabs.selected_index - 1].draw()
        else:
            figure = charts.compare(self.comparison, self.post_process)
            self.image.value = charts.png(figure)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and a still picture for readers without a kernel."""
        still = base64.b64encode(charts.everything(self.comparison)).decode()
        text = f"comparison of {', '.join(self.comparison.systems)}"
        both = {"image/png": still, "text/plain": text}
        return super()._repr_mimebundle_(**kwargs) | both


class Browser:
    """The second tab: one tile at a time, as every system sees it."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.image = panel, widgets.Image(layout=charts.LAYOUT)
        self.by = widgets.Dropdown(options=ORDERS, description="sort by")
        self.position = _slider("tile", 1, 1, 2, 1)
        self.previous = widgets.Button(description="previous")
        self.next = widgets.Button(description="next")
        row = widgets.HBox([self.by, self.position, self.previous, self.next])
        self.box = widgets.VBox([row, self.image])
        self.sort()
        self.by.observe(self.sort, "value")
        self.position.observe(self.draw, "value")
        self.previous.on_click(lambda _: self._turn(-1))
        self.next.on_click(lambda _: self._turn(1))

    def sort(self, _: Any = None) -> None:
        """Sort the tiles; they keep this order while the post-processing changes."""
        comparison = self.panel.comparison
        self.order = comparison.order(self.by.value, self.panel.post_process)
        self.position.max, self.position.value = len(self.order), 1
        self.draw()

    def draw(self, _: Any = None) -> None:
        """Draw the tile."""
        panel, index = self.panel, self.order[self.position.value - 1]
        figure = charts.show_tile(panel.comparison, index, panel.post_process)
        self.image.value = charts.png(figure)

    def _turn(self, step: int) -> None:
        self.position.value += step  # the slider clips it


class Mixer:
    """The third tab: the weighted mean of the systems."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.sliders: dict[str, Any] = {}
        self.weights = widgets.VBox()
        self.tta = widgets.Checkbox(True, description="TTA (mirrored tiles, too)")
        self.keep = widgets.Button(description="keep for notebook 05")
        self.keep.layout.width = "180px"
        self.score = widgets.HTML()
        self.box = widgets.VBox([self.weights, self.tta, self.score, self.keep])
        self.reset()
        self.tta.observe(self.draw, "value")
        self.keep.on_click(self._keep)

    def reset(self) -> None:
        """One slider per system, at 1 at first, at 0 for a system that joins later."""
        names = list(self.panel.comparison.systems)
        weight = 0.0 if self.sliders else 1.0
        for name in names:
            if name not in self.sliders:
                self.sliders[name] = _slider(name, weight, 0.0, 1.0, 0.05)
                self.sliders[name].observe(self.draw, "value")
        self.weights.children = [self.sliders[name] for name in names]

    @property
    def choice(self) -> Choice:
        """What the controls describe; its weights are empty if all of them are 0."""
        weights = ((one.description, one.value) for one in self.weights.children)
        positive = tuple(pair for pair in weights if pair[1])
        return Choice(positive, self.tta.value, self.panel.post_process)

    def draw(self, _: Any = None) -> None:
        """Score the weighted mean."""
        choice = self.choice
        self.keep.disabled = not choice.weights
        if not choice.weights:
            self.score.value = "give at least one system a weight"
            return
        comparison = self.panel.comparison
        masks = choice.post_process(comparison.mix(choice.weights, choice.tta))
        scores = evaluate(comparison.tiles.masks, masks).scores
        low, high = bootstrap_ci(scores)
        self.score.value = (
            f"<b>score {scores.mean():.4f}</b> (95 % interval over tiles: {low:.3f} to "
            f"{high:.3f}). You chose it on these tiles: expect a little less on others."
        )

    def _keep(self, _: Any) -> None:
        path = self.choice.save(self.panel.settings)
        self.score.value += f"<br>kept in {path.name}; notebook 05 submits with it"


def _slider(name: str, value: float, low: float, high: float, step: float) -> Any:
    """A slider that reports its value when it is released."""
    kind = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
    slider = kind(value, min=low, max=high, step=step, description=name)
    slider.continuous_update = False
    slider.style.description_width, slider.layout.width = "initial", "360px"
    return slider
