"""The panel: every control moved without a browser; what raises there fails here."""

import base64
import json
import shutil
import threading

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
    panel = panels.compare(first, tiles, settings)
    assert not panel.note.value
    return panel


def show(panel, title):
    titles = [panel.tabs.get_title(number) for number in range(4)]
    panel.tabs.selected_index = titles.index(title)
    return {"Tiles": panel.browser, "What if": panel.mixer}.get(title)


def test_threshold_rescores_everything(panel):
    before, picture = panel.headline.value, panel.image.value
    assert bytes(picture).startswith(PNG)
    panel.threshold.value = 0.2
    assert panel.post_process == PostProcess(0.2)
    assert panel.headline.value == panel.comparison.headline(PostProcess(0.2)) != before
    assert panel.image.value != picture and not panel.note.value


def test_only_the_visible_tab_is_drawn(panel):
    browser = panel.browser
    before = browser.image.value
    panel.threshold.value = 0.3
    assert browser.image.value == before
    show(panel, "Tiles")
    first = browser.image.value
    assert bytes(first).startswith(PNG) and first != before
    panel.image.value = b""
    panel.threshold.value = 0.9
    assert browser.image.value != first and not panel.image.value
    show(panel, "Systems")
    assert bytes(panel.image.value).startswith(PNG)


def test_other_runs_can_be_selected(panel, made):
    panel.selected.value = panel.selected.value[:2]
    assert list(panel.comparison.systems) == ["sharp", "soft"]
    panel.selected.value = ()
    assert "no run to compare" in panel.note.value
    assert list(panel.comparison.systems) == ["sharp", "soft"]  # as before
    panel.selected.value = panel.selected.options[3][1:]
    assert list(panel.comparison.systems) == ["wild"] and not panel.note.value
    other = next(run for run in made[2] if run.name == "wild/fold-1")
    panel.add(other)
    assert len(panel.comparison.tiles) == 24
    panel.add(Run(other.folder))  # trained again: it appears once
    assert len(panel.selected.options) == 5 and len(panel.selected.value) == 2
    assert not panel.note.value


def test_names_cannot_bring_html(panel, made, tmp_path):
    (other,) = pretend(tmp_path, made[1], ("rough",))
    other.config["system"]["name"] = "<img src=x>"
    panel.add(other)
    panel.selected.value = (other,)
    assert panel.headline.value.startswith("&lt;img src=x&gt; scores 0.")
    shown = [widget.description for widget in panel.mixer.weights.children]
    assert "<img" not in "".join(shown)


def test_pages_of_tiles_are_turned(panel):
    browser = show(panel, "Tiles")
    seen = [browser.image.value]

    def changed():
        seen.append(browser.image.value)
        return seen[-1] != seen[-2]

    for page in (2, 4, 3):
        browser.page.value = page
        assert changed()
    assert browser.page.max == 4  # of 12 tiles
    assert not panel.note.value


def test_order_stays_while_the_post_processing_changes(panel):
    browser = show(panel, "Tiles")
    order = list(browser.order)
    panel.threshold.value = 0.9
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
    panel.threshold.value = 0.6
    assert changed()
    weights = (("sharp", 1.0), ("soft", 1.0), ("rough", 1.0))
    assert mixer.choice() == Choice(weights, False, PostProcess(0.6))
    masks = PostProcess(0.6)(panel.comparison.mix(weights, tta=False))
    expected = metrics.mean_precision(panel.comparison.tiles.masks, masks)
    assert f"score {expected:.4f}" in mixer.score.value and not panel.note.value
    for slider in mixer.sliders.values():
        slider.value = 0.0
    for answer in (mixer.draw, mixer.keep.click):
        answer()
        assert "give at least one system a weight" in panel.note.value
        assert (
            not mixer.score.value and not (panel.settings.output_dir / CHOICE).exists()
        )
    mixer.sliders["soft"].value = 0.1
    assert mixer.score.value and not panel.note.value


def test_weights_stay_when_systems_come_and_go(panel, made, tmp_path):
    mixer = show(panel, "What if")

    def weights():
        return dict(mixer.choice().weights)

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
    panel.threshold.value = 0.6
    mixer.keep.click()
    assert "kept in choice.json" in panel.note.value
    kept = json.loads((made[0] / CHOICE).read_text())
    assert kept["data"] == "synthetic"
    assert kept["weights"] == [["sharp", 0.5], ["soft", 1.0], ["wild", 1.0]]
    choice = Choice.load(panel.settings)
    assert choice == mixer.choice() and choice.post_process == PostProcess(0.6)
    mixer.tta.value = True  # not what is kept any more
    assert not panel.note.value
    (made[0] / CHOICE).unlink()


def test_choice_that_cannot_be_written_is_a_sentence(panel, made):
    mixer = show(panel, "What if")
    (made[0] / CHOICE).mkdir()
    try:
        mixer.keep.click()
    finally:
        (made[0] / CHOICE).rmdir()
    assert "choice.json" in panel.note.value and "cannot be written" in panel.note.value


def test_runs_that_are_deleted_while_shown(panel, made, tmp_path):
    later = pretend(tmp_path, made[1], ("rough",))[0]
    later.config["system"]["name"] = "later"
    panel.add(later)
    shutil.rmtree(later.folder)
    for title in ("Tiles", "What if", "Systems"):  # shown from memory
        show(panel, title)
        panel.threshold.value -= 0.05
        assert not panel.note.value
    panel.selected.value = (later,)
    assert "validation.npz" in panel.note.value
    panel.selected.value = [run for _, run in panel.selected.options[:2]]
    assert not panel.note.value and list(panel.comparison.systems) == ["sharp", "soft"]


def test_damaged_runs_are_named_and_left_out(made, tmp_path, capsys):
    folder, tiles, _ = made
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    runs = pretend(tmp_path, tiles, ("sharp", "soft", "rough"))
    (runs[0].folder / "config.json").write_text("")
    (runs[1].folder / "validation.npz").write_bytes(b"PK")
    fresh = [Run(run.folder) for run in runs]
    panel = panels.compare(fresh, tiles, settings)
    assert list(panel.comparison.systems) == ["rough"]
    out = capsys.readouterr().out
    assert "sharp/fold-0/config.json" in out and "soft/fold-0/validation.npz" in out
    with pytest.raises(DataError, match="no run to compare"):
        panels.compare(fresh[:2], tiles, settings)


def test_what_nobody_expected_is_a_sentence(panel, monkeypatch):
    def fail(*_):
        raise RuntimeError("<b>no</b> memory")

    monkeypatch.setattr(panels.tabs.charts, "png", fail)
    for move in (
        lambda: setattr(panel.threshold, "value", 0.31),
        lambda: show(panel, "Tiles"),
        lambda: setattr(panel.browser.page, "value", 2),
    ):
        panel.note.value = ""
        move()
        assert panel.note.value == "<b>&lt;b&gt;no&lt;/b&gt; memory</b>"


def test_two_trainings_that_end_together_join(panel, made, tmp_path):
    later = pretend(tmp_path, made[1], ("rough", "soft"))
    for number, run in enumerate(later):
        run.config["system"]["name"] = f"later-{number}"
    threads = [threading.Thread(target=panel.add, args=(run,)) for run in later]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(panel.comparison.systems) == 6 and len(panel.selected.value) == 6


def test_without_widgets_there_is_a_picture(panel):
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    assert bundle[WIDGET]["model_id"] == panel.model_id
    assert base64.b64decode(bundle["image/png"]).startswith(PNG)
    assert bundle["text/plain"] == panel.comparison.headline(PostProcess())


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
    assert len(found) > 12
    assert all(control.description for control in found)


def test_one_run_is_enough(made):
    folder, tiles, there = made
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    alone = panels.compare(there[:1], tiles, settings)
    for title in ("Tiles", "What if", "Systems"):
        show(alone, title)
    assert list(alone.comparison.systems) == ["sharp"]
