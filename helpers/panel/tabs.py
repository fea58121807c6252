"""The panel itself: ipywidgets that work in JupyterLab, Colab and VS Code."""

import base64
import html
from collections.abc import Iterable
from typing import Any

import ipywidgets as widgets

from helpers.config import Settings
from helpers.data import Tiles
from helpers.inference import PostProcess, bootstrap_ci
from helpers.metrics import precision_per_image
from helpers.panel import charts
from helpers.panel.comparison import Choice, Comparison
from helpers.panel.trainer import TURN, Trainer, answering
from helpers.training.runs import Run
from helpers.utils.files import DataError

ROWS = 3  # tiles of a page


def compare(runs: Iterable[Run], tiles: Tiles, settings: Settings) -> "Panel":
    """Compare runs on the labeled tiles that they were trained with, in a widget."""
    return Panel(runs, tiles, settings)


class Panel(widgets.VBox):
    """The widget that `compare` returns; controls redraw the visible tab only."""

    def __init__(self, runs: Iterable[Run], tiles: Tiles, settings: Settings) -> None:
        self.labelled, self.settings = tiles, settings
        self.post_process = PostProcess()  # of the single systems
        wide = widgets.Layout(width="380px")
        self.selected = widgets.SelectMultiple(rows=5, description="runs", layout=wide)
        for run in runs:
            try:
                run.check()
                self.add(run)
            except DataError as error:
                print(f"left out: {error}")
        self.comparison = Comparison(self.selected.value, tiles)
        self.threshold = slider("threshold", 0.5, 0.95, 0.01)
        self.headline, self.note = widgets.HTML(), widgets.HTML()
        self.image = widgets.Image(layout=charts.LAYOUT)
        self.browser, self.mixer = _Browser(self), _Mixer(self)
        self.trainer = Trainer(settings, self.add)
        pages = [self.image, self.browser.box, self.mixer.box, self.trainer.box]
        self.tabs = widgets.Tab(pages, selected_index=0)
        for number, title in enumerate(("Systems", "Tiles", "What if", "Train")):
            self.tabs.set_title(number, title)
        right = widgets.VBox([self.threshold, self.headline, self.note])
        super().__init__([widgets.HBox([self.selected, right]), self.tabs])
        self.selected.observe(self._select, "value")
        self.tabs.observe(self._draw, "selected_index")
        self.threshold.observe(self._draw, "value")
        self._draw()

    def add(self, run: Run) -> None:
        """Add a finished run to the list, and select it too."""
        with TURN:
            selected = [other for other in self.selected.value if other != run]
            options = [option for option in self.selected.options if option[1] != run]
            options.append((f"{run.name}  {run.score:.4f}", run))
            self.selected.options = options  # which selects none of them
            self.selected.value = [*selected, run]

    @answering
    def _select(self) -> None:
        self.comparison = Comparison(self.selected.value, self.labelled)
        self.browser.sort()
        self.mixer.reset()
        self._draw()

    @answering
    def _draw(self) -> None:
        self.post_process = PostProcess(round(self.threshold.value, 2))
        text = self.comparison.headline(self.post_process)
        self.headline.value = html.escape(text)
        page = self.tabs.selected_index
        if page == 0:
            figure = charts.show_scores(self.comparison, self.post_process)
            self.image.value = charts.png(figure)
        elif page < 3:
            (self.browser, self.mixer)[page - 1].draw()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and a still picture for readers without a kernel."""
        return super()._repr_mimebundle_(**kwargs) | {
            "image/png": base64.b64encode(charts.everything(self.comparison)).decode(),
            "text/plain": self.comparison.headline(PostProcess()),
        }


def slider(name: str, value: float, high: float, step: float) -> Any:
    """A slider from 0 that reports its value when it is released."""
    made = widgets.FloatSlider(value, max=high, step=step, continuous_update=False)
    made.description = html.escape(name)
    made.style.description_width, made.layout.width = "initial", "360px"
    return made


class _Browser:
    """The second tab: a page of tiles, as every system sees them."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.note = panel, panel.note
        self.image = widgets.Image(layout=charts.LAYOUT)
        self.page = widgets.BoundedIntText(1, min=1, max=2, description="page")
        self.box = widgets.VBox([self.page, self.image])
        self.sort()
        self.page.observe(self.draw, "value")

    @answering
    def sort(self) -> None:
        """Sort the tiles; they keep this order while the threshold changes."""
        self.order = self.panel.comparison.order(self.panel.post_process)
        self.page.max, self.page.value = -(-len(self.order) // ROWS), 1
        self.draw()

    @answering
    def draw(self) -> None:
        panel, end = self.panel, ROWS * self.page.value
        shown = self.order[end - ROWS : end]
        figure = charts.show_tiles(panel.comparison, shown, panel.post_process)
        self.image.value = charts.png(figure)


class _Mixer:
    """The third tab: the weighted mean of the systems."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.note = panel, panel.note
        self.sliders: dict[str, Any] = {}
        self.weights = widgets.VBox()
        self.tta = widgets.Checkbox(True, description="TTA (mirrored tiles, too)")
        wide = widgets.Layout(width="180px")
        self.keep = widgets.Button(description="keep for notebook 05", layout=wide)
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
                self.sliders[name] = slider(name, weight, 1.0, 0.05)
                self.sliders[name].observe(self.draw, "value")
        self.weights.children = [self.sliders[name] for name in names]

    def choice(self) -> Choice:
        pairs = ((x, self.sliders[x].value) for x in self.panel.comparison.systems)
        weights = tuple(pair for pair in pairs if pair[1])
        return Choice(weights, self.tta.value, self.panel.post_process)

    @answering
    def draw(self) -> None:
        self.score.value = ""
        choice, comparison = self.choice(), self.panel.comparison
        masks = choice.post_process(comparison.mix(choice.weights, choice.tta))
        scores = precision_per_image(comparison.tiles.masks, masks)
        low, high = bootstrap_ci(scores)
        self.score.value = (
            f"<b>score {scores.mean():.4f}</b> (95 % interval over tiles: {low:.3f} to "
            f"{high:.3f}). You chose it on these tiles: expect a little less on others."
        )

    @answering
    def _keep(self) -> None:
        path = self.choice().save(self.panel.settings)
        self.note.value = f"kept in {path.name}; notebook 05 submits with it"
