"""Runs as they are read from their folders."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pretend import labelled, pretend

from helpers import systems, training
from helpers.data import Tiles
from helpers.training.runs import (
    PLAN,
    VERSION,
    Run,
    find_members,
    find_runs,
    folds_of,
    out_of_fold,
    predict,
    read_system,
    write_system,
)
from helpers.utils.files import DataError

OLSEN = systems.get("olsen-seresnext50")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    """Two finished folds, one of another seed, and one that is not finished."""
    for name, fold, seed in [("net", 0, 1), ("net", 1, 1), ("other", 0, 2)]:
        transform = {"size": 64, "mode": "resize"}
        system = {"name": name, "transform": transform, "tta": True}
        config = dict.fromkeys(PLAN) | {"system": system, "fold": fold, "seed": seed}
        config |= {"version": VERSION, "data": "synthetic"}
        path = tmp_path / name / f"fold-{fold}"
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config | {"score": 0.5}))
    (tmp_path / "net" / "fold-2" / "work").mkdir(parents=True)
    return tmp_path


def test_finished_runs_are_found_in_order(folder):
    names = [run.name for run in find_runs(folder)]
    assert names == ["net/fold-0", "net/fold-1", "other/fold-0"]


def test_no_runs_is_an_empty_list(tmp_path):
    assert find_runs(tmp_path / "nowhere") == []


def test_runs_alike_may_differ_in_the_fold_alone(folder):
    first = Run(folder / "net" / "fold-0")
    assert find_runs(folder, like=first) == [first, Run(folder / "net" / "fold-1")]


def test_number_format_does_not_tell_runs_apart(folder):
    paths = [folder / "net" / f"fold-{fold}" / "config.json" for fold in (0, 1)]
    for path, policy in zip(paths, ("float32", "mixed_float16"), strict=True):
        config = json.loads(path.read_text()) | {"precision": policy}
        path.write_text(json.dumps(config))
    assert len(find_runs(folder, like=Run(paths[0].parent))) == 2


def test_probabilities_are_stored_in_255_steps(folder):
    run = Run(folder / "net" / "fold-0")
    steps = np.array([[[0, 51, 255]]], np.uint8)
    mirrored = np.array([[[0, 51, 0]]], np.uint8)
    stored = {"ids": ["a"], "plain": steps, "mirrored": mirrored}
    np.savez(run.folder / "validation.npz", **stored)
    _, plain = run.validation(tta=False)
    np.testing.assert_allclose(plain, [[[0, 0.2, 1]]])
    ids, probabilities = run.validation()  # as its system does: with flips
    np.testing.assert_allclose(probabilities, [[[0, 0.2, 0.5]]])
    assert list(ids) == ["a"] and probabilities.dtype == np.float32


def test_run_of_another_version_is_named_with_a_remedy(folder, capsys):
    path = folder / "net" / "fold-1" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(DataError, match=r"net/fold-1: .*another version.*train it"):
        Run(path.parent).config  # noqa: B018
    names = [run.name for run in find_runs(folder)]
    assert names == ["net/fold-0", "other/fold-0"]
    assert "left out: " in capsys.readouterr().out


@pytest.fixture
def settings(tmp_path):
    """Whose runs lie where `folder` has put them."""
    return SimpleNamespace(runs_dir=tmp_path, kind="synthetic")


@pytest.fixture
def three(folder, monkeypatch):
    """Six tiles; `net` has predicted four of them, `other` the first three."""
    rows = {name: systems.get("salt-net") for name in ("net", "other")}
    rows = {name: replace(row, name=name) for name, row in rows.items()}
    members = (("net", 0.25), ("other", 0.75))
    rows["both"] = systems.Ensemble("both", "", "", members)
    monkeypatch.setattr(systems, "SYSTEMS", rows)
    said = {
        ("net", 0): ("ab", 100),
        ("net", 1): ("cd", 200),
        ("other", 0): ("abc", 40),
    }
    for (name, fold), (ids, value) in said.items():
        stored = np.full((len(ids), 101, 101), value, np.uint8)
        path = folder / name / f"fold-{fold}" / "validation.npz"
        np.savez(path, ids=list(ids), plain=stored, mirrored=stored)
    images = np.zeros((6, 101, 101), np.uint8)
    return Tiles(np.array(list("abcdef")), images, images > 0, np.arange(6))


def test_members_share_the_weight_of_their_system(settings, three):
    weights = {run.name: w for run, w in find_members(settings, "both").items()}
    expected = {"net/fold-0": 0.125, "net/fold-1": 0.125, "other/fold-0": 0.75}
    assert weights == expected
    equal = find_members(settings, "net", "other")
    assert list(equal.values()) == [0.25, 0.25, 0.5]


def test_out_of_fold_means_are_those_of_the_tiles_that_all_systems_left_out(
    settings, three
):
    tiles, mean = out_of_fold(find_members(settings, "both"), three)
    assert list(tiles.ids) == ["a", "b", "c"]
    expected = (0.25 * np.array([100, 100, 200]) + 0.75 * 40) / 255  # not 0.125
    np.testing.assert_allclose(mean[:, 50, 50], expected, rtol=1e-5)
    alone, _ = out_of_fold(find_members(settings, "net"), three)
    assert list(alone.ids) == ["a", "b", "c", "d"]


def test_predictions_are_weighted(settings, three, monkeypatch):
    values = {"net/fold-0": 0.0, "net/fold-1": 1.0, "other/fold-0": 0.5}
    monkeypatch.setattr(
        Run,
        "predict",
        lambda run, images, progress, tta: np.full(
            images.shape, values[run.name], "f4"
        ),
    )
    mean = predict(find_members(settings, "both"), three.images)
    np.testing.assert_allclose(mean, 0.125 + 0.375)


def test_system_without_a_run_is_named_with_the_command(settings):
    with pytest.raises(DataError, match="helpers train olsen-seresnext50 --fold 0"):
        find_members(settings, "olsen-ensemble")


def test_begun_run_is_to_be_finished(settings):
    plan = settings.runs_dir / "salt-net" / "fold-0" / "work" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text("{}")
    with pytest.raises(DataError, match=r"begun, not finished: resume it"):
        find_members(settings, "salt-net")


def test_system_without_a_row_speaks_through_its_runs(settings, three, monkeypatch):
    monkeypatch.setattr(systems, "SYSTEMS", {})
    assert list(find_members(settings, "net").values()) == [0.5, 0.5]


def test_runs_on_other_data_do_not_count(settings, three):
    settings.kind = "competition"
    with pytest.raises(DataError, match="no finished run of net on competition tiles"):
        find_members(settings, "net")


def test_folds_made_in_different_ways_are_not_averaged(settings, three):
    path = settings.runs_dir / "net" / "fold-1" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 7}))
    with pytest.raises(DataError, match=r"fold-1: made with other settings than net/"):
        find_members(settings, "net")


def test_folds_trained_elsewhere_are_merged_by_copying_their_folders(tmp_path):
    tiles = labelled(30)
    here, there = tmp_path / "here", tmp_path / "there"
    pretend(here, tiles, ["sharp"], folds=[0])
    pretend(there, tiles, ["sharp"], folds=[1, 2])
    for fold in ("fold-1", "fold-2"):
        shutil.copytree(there / "sharp" / fold, here / "sharp" / fold)
    found = folds_of(SimpleNamespace(runs_dir=here, kind="synthetic"), "sharp")
    assert [run.name for run in found] == [f"sharp/fold-{k}" for k in range(3)]
    seen, _ = out_of_fold(dict.fromkeys(found, 1.0), tiles)
    assert len(seen) == 18


def test_network_is_read_by_a_process_that_has_built_none(tmp_path):
    """Layers that are not Keras' own must be known to whoever reads the file."""
    row = systems.get("olsen-seresnext50").with_weights("none")
    training.build_model(row).save(tmp_path / "model.keras")
    read = (
        "from helpers.utils.hardware import load_keras; load_keras()\n"
        "from pathlib import Path\nfrom helpers.training.runs import Run\n"
        f"print(Run(Path({str(tmp_path)!r})).model().name)"
    )
    done = subprocess.run([sys.executable, "-c", read], cwd=ROOT, check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_row_is_written_and_read_again(tmp_path):
    for row in systems.SYSTEMS.values():
        if isinstance(row, systems.System):
            write_system(row, tmp_path / "row.json")
            assert read_system(tmp_path / "row.json") == row
    (tmp_path / "config.json").write_text(json.dumps({"system": asdict(OLSEN)}))
    assert read_system(tmp_path / "config.json") == OLSEN


@pytest.mark.parametrize("text", ["", "[]", '{"system": {}}', '{"stages": 1}', None])
def test_file_that_is_no_row_is_named(text, tmp_path):
    path = tmp_path / "row.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"row.json: not a system's row"):
        read_system(path)
