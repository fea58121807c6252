"""The panel: every control moved in the kernel; what raises there fails here."""

import base64
import json

import ipywidgets as widgets
import numpy as np
import pytest
from pretend import labelled, pretend

from helpers import config, metrics
from helpers.inference import PostProcess
from helpers.panel import tabs
from helpers.panel.comparison import CHOICE, Choice
from helpers.utils.files import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panel")
    tiles = labelled(60)
    return folder, tiles, pretend(folder / "runs", tiles, folds=(0, 1))


@pytest.fixture
def panel(made):
    folder, tiles, there = made
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    return tabs.compare([run for run in there if run.name.endswith("0")], tiles,
                           settings)  # fmt: skip


def part(panel, kind):
    return next(one for one in panel.parts if isinstance(one, kind))


def show(panel, title):
    titles = [one.title for one in panel.parts]
    panel.tabs.selected_index = titles.index(title)
    return panel.parts[panel.tabs.selected_index]


def test_thresholds_rescore_everything(panel):
    before, picture = panel.scores.value, panel.parts[0].picture.value
    panel.threshold.value = 0.2
    one = panel.comparison.systems["wild"]
    expected = metrics.mean_precision(one.truth, PostProcess(0.2)(one.probabilities))
    assert f"{expected:.4f}" in panel.scores.value != before
    assert panel.parts[0].picture.value != picture
    assert panel.rule == PostProcess(0.2)
    before = panel.scores.value
    panel.min_component_size.value = 300
    assert panel.scores.value != before and panel.rule.min_component_size == 300


def test_only_the_tab_that_is_seen_is_drawn(panel):
    browser = part(panel, tabs.Browser)
    assert not browser.picture.value and browser.stale
    panel.threshold.value = 0.3
    assert not browser.picture.value
    show(panel, "Tiles")
    assert bytes(browser.picture.value).startswith(b"\x89PNG") and not browser.stale


def test_logarithmic_loss_is_another_picture(panel):
    first = panel.parts[0].picture.value
    panel.parts[0].log.value = True
    assert panel.parts[0].picture.value != first


def test_other_runs_can_be_chosen(panel, made):
    panel.chosen.value = panel.chosen.value[:2]
    assert list(panel.comparison.systems) == ["sharp", "soft"]
    panel.chosen.value = ()
    assert "choose at least one run" in panel.message.value
    assert list(panel.comparison.systems) == ["sharp", "soft"]  # as it was
    panel.chosen.value = panel.chosen.options[3][1:]
    assert list(panel.comparison.systems) == ["wild"] and panel.message.value == ""
    other = next(run for run in made[2] if run.name == "wild/fold-1")
    panel.add(other)
    assert len(panel.comparison.tiles) == 24
    panel.add(other)  # again: it is there once
    assert len(panel.chosen.options) == 5 and len(panel.chosen.value) == 2
    assert panel.chosen.rows == 5


def test_names_stand_for_all_folds_of_a_system(panel, made):
    _, tiles, there = made
    soft = next(run for run in there if run.name == "soft/fold-0")
    named = tabs.compare([soft, "soft", "wild"], tiles, panel.settings)
    names = [run.name for run in named.chosen.value]
    assert names == ["soft/fold-0", "soft/fold-1", "wild/fold-0", "wild/fold-1"]
    with pytest.raises(DataError, match="no finished run of nobody"):
        tabs.compare(["nobody"], tiles, panel.settings)


def test_tiles_are_paged_ordered_and_zoomed(panel):
    browser = show(panel, "Tiles")
    seen = [browser.picture.value]

    def changed():
        seen.append(browser.picture.value)
        return seen[-1] != seen[-2]

    for _ in range(2):
        browser.on.click()
        assert changed()
    assert browser.position.value == 3 and browser.count.value == "of 12"
    browser.back.click()
    assert changed() and browser.position.value == 2
    browser.position.value = 5
    assert changed()
    for by in ("coverage", "depth", "id", "disagreement", "worst score"):
        browser.by.value = by
        assert changed() and browser.position.value == 1
    for _ in range(30):
        browser.on.click()
    assert browser.position.value == 12
    changed()
    browser.zoom.value = 4.0
    assert changed() and browser.view == (37.875, 37.875, 25.25)
    browser.row.value, browser.column.value = 0, 100
    assert changed() and browser.view == (0, 75.75, 25.25)  # stays inside


def test_order_stays_while_the_rule_changes(panel):
    browser = show(panel, "Tiles")
    order = list(browser.order)
    panel.threshold.value = 0.9
    assert list(browser.order) == order


def test_weights_flips_and_empty_rule_change_the_mix(panel):
    mixer = show(panel, "What if")
    said = [mixer.score.value]

    def changed():
        said.append(mixer.score.value)
        return said[-1] != said[-2]

    mixer.sliders["wild"].value = 0.0
    assert changed()
    mixer.tta.value = False
    assert changed()
    mixer.min_mask_size.value = mixer.min_mask_size.max
    assert not changed()  # until the rule is on
    mixer.empty.value = True
    assert changed() and panel.rule.min_mask_size == 300
    panel.threshold.value = 0.6
    assert changed()
    weights = {"sharp": 1, "soft": 1, "rough": 1}
    mix = panel.comparison.mix(weights, tta=False)
    expected = mix.scores(PostProcess(0.6, 300)).mean()
    assert f"score {expected:.4f}" in mixer.score.value
    for slider in mixer.sliders.values():
        slider.value = 0.0
    assert mixer.score.value == "give some system a weight"
    mixer.button.click()
    assert "nothing kept" in mixer.kept.value


def test_weights_stay_when_systems_come_and_go(panel, made, tmp_path):
    mixer = show(panel, "What if")

    def weights():
        return {name: slider.value for name, slider in mixer.sliders.items()}

    mixer.sliders["soft"].value = 0.4
    (later,) = pretend(tmp_path, made[1], ("rough",))
    later.config["system"]["name"] = "later"
    said = mixer.score.value
    panel.add(later)
    before = {"sharp": 1.0, "soft": 0.4, "rough": 1.0, "wild": 1.0}
    assert weights() == before | {"later": 0.0} and mixer.score.value == said
    mixer.sliders["later"].value = 1.0
    assert mixer.score.value != said
    panel.chosen.value = panel.chosen.value[:1]
    assert weights() == {"sharp": 1.0}
    panel.chosen.value = [run for _, run in panel.chosen.options]
    assert weights() == before | {"later": 1.0}


def test_mean_is_made_once_for_its_weights(panel, monkeypatch):
    show(panel, "What if")
    monkeypatch.setattr(panel.comparison, "mix", None)
    panel.threshold.value = 0.44  # another rule, the same mean


def test_other_thresholds_are_drawn_when_asked_for(panel):
    mixer = show(panel, "What if")
    assert mixer.picture.layout.display == "none"
    mixer.ask.click()
    first = mixer.picture.value
    assert bytes(first).startswith(b"\x89PNG") and not mixer.picture.layout.display
    panel.threshold.value = 0.6  # the picture is of another rule
    assert mixer.picture.layout.display == "none"
    mixer.ask.click()
    assert mixer.picture.value != first and not mixer.ask.disabled


def test_choice_is_kept_for_the_submission(panel, made):
    mixer = show(panel, "What if")
    mixer.sliders["sharp"].value, mixer.sliders["rough"].value = 0.5, 0.0
    mixer.tta.value = False
    panel.min_component_size.value = 20
    mixer.button.click()
    kept = json.loads((made[0] / CHOICE).read_text())
    assert kept["data"] == "synthetic"
    assert kept["weights"] == [["sharp", 0.5], ["soft", 1.0], ["wild", 1.0]]
    choice = Choice.load(panel.settings)
    assert choice == mixer.choice and choice.rule == PostProcess(0.5, 0, 20)


def test_new_panel_says_what_is_kept(made, tmp_path, capsys):
    settings = config.Settings("synthetic", tmp_path, config.PROFILES["smoke"])
    first = [run for run in made[2] if run.name.endswith("0")]
    weights = (("sharp", 0.5), ("soft", 1.0))
    Choice(weights, False, PostProcess(0.53, 0, 30)).save(settings)
    mixer = show(tabs.compare(first, made[1], settings), "What if")
    kept = (
        "kept at present: 0.5 x sharp + 1 x soft, threshold 0.53, component 30, "
        "smallest mask 0, flips off"
    )
    assert mixer.kept.value == kept and capsys.readouterr().out == ""
    mixer.sliders["sharp"].value = 0.2
    assert mixer.kept.value == kept
    mixer.button.click()
    assert "kept in choice.json" in mixer.kept.value
    mixer.tta.value = False
    assert "present: 0.2 x sharp + 1 x soft + 1 x rough" in mixer.kept.value
    mixer.panel.chosen.value = first[1:]  # without one of its systems
    assert mixer.kept.value == ""
    (tmp_path / CHOICE).write_text("{")
    mixer = show(tabs.compare(first, made[1], settings), "What if")
    assert mixer.kept.value == ""


def test_long_names_leave_the_sliders_their_room(panel):
    (rule,) = [box for box in panel.box.children[0].children
               if panel.threshold in getattr(box, "children", ())]  # fmt: skip
    assert rule.layout.flex == "0 0 auto" and panel.scores.layout.overflow == "auto"


def test_without_widgets_there_is_a_picture(panel):
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    assert bundle[tabs.WIDGET]["model_id"] == panel.box.model_id
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
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

    found = list(controls(panel.box))
    assert len(found) > 20
    assert all(control.description for control in found)


def test_one_run_is_enough(made):
    folder, tiles, there = made
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    alone = tabs.compare(there[:1], tiles, settings)
    for title in ("Tiles", "What if", "Systems"):
        show(alone, title)
    assert (alone.comparison.disagreement() == 0).all()


def test_table_of_the_systems_follows_the_choice(panel):
    assert panel.scores.value.count("<tr>") == 5
    panel.chosen.value = panel.chosen.value[:1]
    assert panel.scores.value.count("<tr>") == 2
    assert np.isfinite(panel.comparison.systems["sharp"].scores(panel.rule)).all()
