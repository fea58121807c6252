"""The panel: every control moved without a browser; what raises there fails here."""

import base64
import json

import ipywidgets as widgets
import pytest
from pretend import labelled, pretend

from helpers import config, metrics
from helpers import panel as panels
from helpers.inference import PostProcess
from helpers.panel.comparison import CHOICE, Choice
from helpers.training.runs import Run
from helpers.utils.files import DataError

WIDGET = "application/vnd.jupyter.widget-view+json"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panel")
    tiles = labelled(60)
    return folder, tiles, pretend(folder / "runs", tiles, folds=(0, 1))


@pytest.fixture
def panel(made):
    folder, tiles, there = made
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    first = [run for run in there if run.name.endswith("0")]
    return panels.compare(first, tiles, settings)


def show(panel, title):
    panel.tabs.selected_index = panel.tabs.titles.index(title)
    return {"Tiles": panel.browser, "What if": panel.mixer}.get(title)


def test_sliders_rescore_everything(panel):
    before, picture = panel.scores.value, panel.image.value
    assert bytes(picture).startswith(PNG)
    panel.sliders["threshold"].value = 0.2
    truth = panel.comparison.tiles.masks
    probabilities = panel.comparison.systems["wild"]
    expected = metrics.mean_precision(truth, PostProcess(0.2)(probabilities))
    assert f"{expected:.4f}" in panel.scores.value != before
    assert panel.image.value != picture
    before = panel.scores.value
    panel.sliders["min_component_size"].value = 300
    assert panel.scores.value != before
    before = panel.scores.value
    panel.sliders["min_mask_size"].value = 260
    assert panel.post_process == PostProcess(0.2, 260, 300)
    panel.sliders["threshold"].value, panel.sliders["min_component_size"].value = (
        0.95,
        0,
    )
    masks = PostProcess(0.95, 260)(probabilities)
    expected = f"<td>{metrics.mean_precision(truth, masks):.4f}</td>"
    assert expected in panel.scores.value
    assert "<td>wild</td>" in panel.scores.value and "12 tiles" in panel.scores.value


def test_only_the_visible_tab_is_drawn(panel):
    browser = panel.browser
    before = browser.image.value
    panel.sliders["threshold"].value = 0.3
    assert browser.image.value == before
    show(panel, "Tiles")
    first = browser.image.value
    assert bytes(first).startswith(PNG) and first != before
    panel.image.value = b""
    panel.sliders["threshold"].value = 0.9
    assert browser.image.value != first and not panel.image.value
    show(panel, "Systems")
    assert bytes(panel.image.value).startswith(PNG)


def test_other_runs_can_be_selected(panel, made):
    panel.selected.value = panel.selected.value[:2]
    assert list(panel.comparison.systems) == ["sharp", "soft"]
    panel.selected.value = ()
    assert "no run to compare" in panel.scores.value
    assert list(panel.comparison.systems) == ["sharp", "soft"]  # as before
    panel.selected.value = panel.selected.options[3][1:]
    assert (
        list(panel.comparison.systems) == ["wild"] and "<b>" not in panel.scores.value
    )
    other = next(run for run in made[2] if run.name == "wild/fold-1")
    panel.add(other)
    assert len(panel.comparison.tiles) == 24
    panel.add(Run(other.folder))  # trained again: it appears once
    assert len(panel.selected.options) == 5 and len(panel.selected.value) == 2
    assert "<b>" not in panel.scores.value


def test_names_stand_for_all_folds_of_a_system(panel, made):
    _, tiles, there = made
    soft = next(run for run in there if run.name == "soft/fold-0")
    named = panels.compare([soft, "soft", "wild"], tiles, panel.settings)
    names = [run.name for run in named.selected.value]
    assert names == ["soft/fold-0", "soft/fold-1", "wild/fold-0", "wild/fold-1"]
    with pytest.raises(DataError, match="no finished run of nobody"):
        panels.compare(["nobody"], tiles, panel.settings)


def test_names_cannot_bring_html_and_are_not_cut(panel, made, tmp_path):
    (other,) = pretend(tmp_path, made[1], ("rough",))
    other.config["system"]["name"] = "<img src=x>" + 60 * "x"
    panel.add(other)
    assert f"<td>&lt;img src=x&gt;{60 * 'x'}</td>" in panel.scores.value
    assert "<img" not in panel.scores.value


def test_tiles_are_turned_and_sorted(panel):
    browser = show(panel, "Tiles")
    seen = [browser.image.value]

    def changed():
        seen.append(browser.image.value)
        return seen[-1] != seen[-2]

    for _ in range(2):
        browser.next.click()
        assert changed()
    assert browser.position.value == 3 and browser.position.max == 12
    browser.previous.click()
    assert changed() and browser.position.value == 2
    browser.position.value = 5
    assert changed()
    for by in ("coverage", "disagreement", "worst score"):
        browser.by.value = by
        assert changed() and browser.position.value == 1
    browser.position.value = 12
    assert changed()
    browser.next.click()
    assert browser.position.value == 12 and not changed()


def test_order_stays_while_the_post_processing_changes(panel):
    browser = show(panel, "Tiles")
    order = list(browser.order)
    panel.sliders["threshold"].value = 0.9
    assert list(browser.order) == order


def test_weights_and_tta_change_the_mean(panel):
    mixer = show(panel, "What if")
    written = [mixer.score.value]

    def changed():
        written.append(mixer.score.value)
        return written[-1] != written[-2]

    mixer.sliders["wild"].value = 0.0
    assert changed()
    mixer.tta.value = False
    assert changed()
    panel.sliders["min_mask_size"].value = panel.sliders["min_mask_size"].max
    assert changed()
    panel.sliders["threshold"].value = 0.6
    assert changed()
    weights = (("sharp", 1.0), ("soft", 1.0), ("rough", 1.0))
    masks = PostProcess(0.6, 300)(panel.comparison.mix(weights, tta=False))
    expected = metrics.mean_precision(panel.comparison.tiles.masks, masks)
    assert f"score {expected:.4f}" in mixer.score.value
    for slider in mixer.sliders.values():
        slider.value = 0.0
    assert mixer.score.value == "give at least one system a weight"
    assert mixer.keep.disabled  # there is nothing to keep
    mixer.sliders["soft"].value = 0.1
    assert not mixer.keep.disabled


def test_weights_stay_when_systems_come_and_go(panel, made, tmp_path):
    mixer = show(panel, "What if")

    def weights():
        return dict(mixer.choice.weights)

    mixer.sliders["soft"].value = 0.4
    (later,) = pretend(tmp_path, made[1], ("rough",))
    later.config["system"]["name"] = "later"
    score = mixer.score.value
    panel.add(later)
    before = {"sharp": 1.0, "soft": 0.4, "rough": 1.0, "wild": 1.0}
    assert weights() == before and mixer.score.value == score
    mixer.sliders["later"].value = 1.0
    assert mixer.score.value != score
    panel.selected.value = panel.selected.value[:1]
    assert weights() == {"sharp": 1.0}
    panel.selected.value = [run for _, run in panel.selected.options]
    assert weights() == before | {"later": 1.0}


def test_choice_is_kept_for_the_submission(panel, made):
    mixer = show(panel, "What if")
    mixer.sliders["sharp"].value, mixer.sliders["rough"].value = 0.5, 0.0
    mixer.tta.value = False
    panel.sliders["min_component_size"].value = 20
    mixer.keep.click()
    assert "kept in choice.json" in mixer.score.value
    kept = json.loads((made[0] / CHOICE).read_text())
    assert kept["data"] == "synthetic"
    assert kept["weights"] == [["sharp", 0.5], ["soft", 1.0], ["wild", 1.0]]
    choice = Choice.load(panel.settings)
    assert choice == mixer.choice and choice.post_process == PostProcess(0.5, 0, 20)
    mixer.tta.value = True  # not what is kept any more
    assert "kept" not in mixer.score.value


def test_long_names_leave_the_sliders_their_room(panel):
    _, controls, _ = panel.children[0].children
    assert controls.children == tuple(panel.sliders.values())
    assert controls.layout.flex == "0 0 auto" and panel.scores.layout.overflow == "auto"


def test_without_widgets_there_is_a_picture(panel):
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    assert bundle[WIDGET]["model_id"] == panel.model_id
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert bundle["text/plain"] == "comparison of sharp, soft, rough, wild"


def test_every_control_has_a_name(panel):
    """Also for those who cannot see it."""

    def controls(widget):
        for child in getattr(widget, "children", ()):
            yield from controls(child)
        if hasattr(widget, "description") and not isinstance(
            widget, widgets.HTML | widgets.Label
        ):
            yield widget

    found = list(controls(panel))
    assert len(found) > 20
    assert all(control.description for control in found)


def test_one_run_is_enough(made):
    folder, tiles, there = made
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    alone = panels.compare(there[:1], tiles, settings)
    for title in ("Tiles", "What if", "Systems"):
        show(alone, title)
    assert list(alone.comparison.systems) == ["sharp"]


def test_table_of_the_systems_follows_the_selection(panel):
    assert panel.scores.value.count("<td>") == 8
    panel.selected.value = panel.selected.value[:1]
    assert panel.scores.value.count("<td>") == 2
