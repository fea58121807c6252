"""Runs as they are read from their folders."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from pretend import labelled, pretend

from helpers import config, systems, training
from helpers.batches import ResizeOrPad
from helpers.data import Tiles
from helpers.training.plans import read_system, write_system
from helpers.training.runs import (
    PLAN,
    VERSION,
    Run,
    find_members,
    find_runs,
    folds_of,
    look_up,
    out_of_fold,
    predict,
)
from helpers.utils.files import DataError

SALT_NET = systems.get("salt-net")
OLSEN = systems.get("olsen-seresnext50")
ROOT = Path(__file__).parents[1]
SMOKE = config.PROFILES["smoke"]


def write_run(folder, name, fold, seed=1, ids="ab", value=51):
    """A finished run of a network that there is not, as `fit` leaves it."""
    path = folder / name / f"fold-{fold}"
    path.mkdir(parents=True)
    row = replace(SALT_NET, name=name, transform=ResizeOrPad(64, "resize"))
    config = dict.fromkeys(PLAN) | {"system": asdict(row), "fold": fold, "seed": seed}
    config |= {"version": VERSION, "data": "synthetic", "score": 0.5}
    (path / "config.json").write_text(json.dumps(config))
    (path / "history.csv").write_text("epoch,loss\n0,0.5\n")
    with zipfile.ZipFile(path / "model.keras", "w") as file:
        for member in ("config.json", "model.weights.h5"):
            file.writestr(member, "")
    stored = np.full((len(ids), 101, 101), value, np.uint8)
    np.savez(path / "validation.npz", ids=list(ids), plain=stored, mirrored=stored)
    return Run(path)


@pytest.fixture
def folder(tmp_path):
    """Two finished folds, one of another seed, and one that is not finished."""
    for name, fold, seed in [("net", 0, 1), ("net", 1, 1), ("other", 0, 2)]:
        write_run(tmp_path, name, fold, seed)
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
    plain, mirrored = np.zeros((2, 1, 101, 101), np.uint8)
    plain[0, 0, :3], mirrored[0, 0, :3] = (0, 51, 255), (0, 51, 0)
    stored = {"ids": ["a"], "plain": plain, "mirrored": mirrored}
    np.savez(run.folder / "validation.npz", **stored)
    _, plain = run.validation(tta=False)
    np.testing.assert_allclose(plain[0, 0, :3], [0, 0.2, 1])
    ids, probabilities = run.validation()  # as its system does: with flips
    np.testing.assert_allclose(probabilities[0, 0, :3], [0, 0.2, 0.5])
    assert list(ids) == ["a"] and probabilities.dtype == np.float32


def test_run_of_another_version_is_named_with_a_remedy(folder, capsys):
    path = folder / "net" / "fold-1" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(
        DataError, match=r"net/fold-1/config.*another version.*train it"
    ):
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
    rows = {name: replace(SALT_NET, name=name) for name in ("net", "other")}
    members = (("net", 0.25), ("other", 0.75))
    rows["both"] = systems.Ensemble("both", "", "", members)
    monkeypatch.setattr(systems, "SYSTEMS", rows)
    said = {
        ("net", 0): ("ab", 100),
        ("net", 1): ("cd", 200),
        ("other", 0): ("abc", 40),
    }
    for (name, fold), (ids, value) in said.items():
        shutil.rmtree(folder / name / f"fold-{fold}")
        write_run(folder, name, fold, len(name), ids, value)
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
    with pytest.raises(DataError, match=r"salt-net is begun, not finished \(call"):
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


def damage(path, how):
    """Spoil a file of a run in this way: remove it, cut it, or put other content in."""
    if how is None:
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif isinstance(how, dict) and path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | how))
    elif isinstance(how, dict):
        with np.load(path) as stored:
            np.savez(path, **{k: v for k, v in stored.items() if k not in how} | how)
    else:
        path.write_bytes(how)


VERSIONED = json.dumps({"version": VERSION}).encode()
DAMAGES = [
    *(
        ("config.json", how)
        for how in ("cut", b"", VERSIONED, b"[]", b"\xff", b"1" * 9999)
    ),
    ("config.json", b"[" * 99999),
    ("config.json", {"system": "net"}),
    ("config.json", {"system": {"name": "net"}}),
    ("config.json", {"score": None}),
    ("config.json", {"score": float("nan")}),
    ("config.json", {"fold": "0"}),
    *(
        ("history.csv", how)
        for how in (None, b"", b"\0\xff", b"epoch,loss\n0,x\n", b"a\n1")
    ),
    *(("model.keras", how) for how in (None, "cut", b"", b"PK")),
    *(("validation.npz", how) for how in (None, "cut", b"", b"PK")),
    ("validation.npz", {"plain": np.zeros((2, 101, 101))}),
    ("validation.npz", {"plain": np.zeros((2, 100, 101), "u1")}),
    ("validation.npz", {"ids": np.array(["a"])}),
    ("validation.npz", {"ids": np.array([{}], object)}),
]


@pytest.mark.parametrize(("name", "how"), DAMAGES)
def test_damaged_run_is_named_and_left_out(name, how, folder, settings, capsys):
    path = folder / "net" / "fold-0" / name
    damage(path, how)
    assert [run.name for run in find_runs(folder)] == ["net/fold-1", "other/fold-0"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"left out: {path}: cannot be read (") and len(line) < 400
    assert line.endswith("): move the run away, or train it again")
    assert [run.name for run in folds_of(settings, "net")] == ["net/fold-1"]
    damage(folder / "net" / "fold-1" / "config.json", b"")
    with pytest.raises(DataError, match="no finished run of net"):
        folds_of(settings, "net")
    run = Run(path.parent)
    needs = {"config.json": lambda: run.config, "history.csv": run.history}
    needs |= {"model.keras": run.model, "validation.npz": run.validation}
    with pytest.raises(DataError, match=rf"^{path}: cannot be read"):
        needs[name]()


@pytest.mark.parametrize("copy", ["net/fold-0-backup", "net/fold-7", "copy/fold-0"])
def test_copy_of_a_run_does_not_vote(copy, folder, settings, capsys):
    shutil.copytree(folder / "net" / "fold-0", folder / copy)
    assert len(find_runs(folder)) == 3 and len(find_members(settings, "net")) == 2
    words = f"left out: {folder / copy}: its config.json is that of net/fold-0: move"
    assert words in capsys.readouterr().out


BAD_NAMES = ("", ".", "..", "../../x", "a/b", "/tmp/x", "a\\b", "<b>x</b>", "-x", "a b")


@pytest.mark.parametrize("name", [*BAD_NAMES, "a\n", "é", "x" * 201])
def test_name_that_is_no_folders_is_refused_at_the_door(name, settings, folder):
    with pytest.raises(
        ValueError, match=r"cannot be the name of a system: use letters"
    ):
        folds_of(settings, name)
    with pytest.raises(ValueError, match="cannot be the name of a system"):
        find_members(settings, name)
    row = replace(SALT_NET, name=name)
    with pytest.raises(ValueError, match="cannot be the name of a system"):
        look_up(row, labelled(5), 0, config.Settings("synthetic", folder, SMOKE))
    damage(folder / "net" / "fold-0" / "config.json", {"system": asdict(row)})
    assert len(find_runs(folder)) == 2


def test_names_that_the_panel_makes_are_allowed(folder):
    name = "my-inceptionresnetv2-imagenet-center_block-dice+0.2bce-500ep"
    assert write_run(folder, name, 3).name == f"{name}/fold-3"


def network(size=64, last=None):
    tile = keras.Input((size, size, 1))
    return keras.Sequential([tile, last or keras.layers.Conv2D(1, 1)])


class Unknown(keras.layers.Layer):
    """A layer that is not registered."""

    def call(self, inputs):
        return inputs


def foreign(kind, path):
    """A `model.keras` that `fit` did not write."""
    if kind == "lambda":
        network(last=keras.layers.Lambda(lambda x: 2 * x)).save(path)
    elif kind == "unknown layer":
        network(last=Unknown()).save(path)
    elif kind == "other size":
        network(size=32).save(path)
    elif kind == "no network":
        path.write_bytes(json.dumps({}).encode())
    else:  # more numbers than any memory holds
        network().save(path)
        with zipfile.ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        parts["config.json"] = re.sub(
            rb'"filters": 1\b', b'"filters": 999999999999999', parts["config.json"]
        )
        with zipfile.ZipFile(path, "w") as file:
            for name, content in parts.items():
                file.writestr(name, content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lambda", "ValueError: .*Lambda"),
        ("unknown layer", "TypeError: .* could not be deserialized"),
        ("other size", r"its input is \(None, 32, 32, 1\), 64 pixels wanted"),
        ("no network", "cannot be read"),
        ("absurd size", "cannot be read"),
    ],
)
def test_network_from_elsewhere_is_refused(kind, message, folder):
    run = Run(folder / "net" / "fold-0")
    foreign(kind, run.folder / "model.keras")
    with pytest.raises(
        DataError, match=rf"net/fold-0/model\.keras: .*{message}"
    ) as caught:
        run.predict(np.zeros((1, 101, 101), np.uint8))
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_network_is_read_by_a_process_that_has_built_none(tmp_path):
    """By plain Keras, which must know the layers that are not its own."""
    row = systems.get("olsen-seresnext50").with_weights("none")
    training.build_model(row).save(tmp_path / "model.keras")
    read = (
        "import keras, helpers.training\n"
        f"model = keras.models.load_model({str(tmp_path / 'model.keras')!r})\n"
        "print(model.name)"
    )
    done = subprocess.run([sys.executable, "-c", read], cwd=ROOT, check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_weights_of_runs_must_not_sum_to_nothing(folder):
    runs, images = find_runs(folder), np.zeros((1, 101, 101), np.uint8)
    for weights in ([], [0, 0], [1, -1], [float("nan"), 1]):
        members = dict(zip(runs, weights, strict=False))
        with pytest.raises(ValueError, match="weights must be positive"):
            predict(members, images)
        with pytest.raises(ValueError, match="weights must be positive"):
            out_of_fold(members, labelled(5))


def test_row_is_written_and_read_again(tmp_path):
    for row in systems.SYSTEMS.values():
        if isinstance(row, systems.System):
            write_system(row, tmp_path / "row.json")
            assert read_system(tmp_path / "row.json") == row
    (tmp_path / "config.json").write_text(json.dumps({"system": asdict(OLSEN)}))
    assert read_system(tmp_path / "config.json") == OLSEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"system": {}}',
        '{"stages": 1}',
        "[" * 99999,
        '{"batch_size": "x"}',
        None,
    ],
)
def test_file_that_is_no_row_is_named(text, tmp_path):
    path = tmp_path / "row.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"row.json: not a system's row"):
        read_system(path)
