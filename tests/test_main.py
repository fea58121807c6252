"""`python -m helpers`: options, exit status, a failing cell."""

import json
import math
import re
import subprocess
import sys
from dataclasses import asdict

import nbformat
import numpy as np
import pytest

from helpers import __main__ as main
from helpers import data, synthetic, systems, training
from helpers.config import Settings
from helpers.training import runs

V4 = nbformat.v4


@pytest.fixture(autouse=True)
def smoke(monkeypatch, tmp_path):
    monkeypatch.setenv("SALT_PROFILE", "smoke")
    monkeypatch.setenv("SALT_DATA_DIR", "synthetic")
    monkeypatch.setenv("SALT_OUTPUT_DIR", str(tmp_path / "out"))
    return tmp_path / "out"


def book(path, *cells):
    cells = [V4.new_markdown_cell("# A notebook"), *map(V4.new_code_cell, cells)]
    nbformat.write(V4.new_notebook(cells=cells), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "huge"], "invalid choice: 'huge'"),
        (["--data-dir", "no/such/folder"], "does not exist"),
        (["--only", "02,09"], "no notebook '09'"),
        (["--frobnicate"], "unrecognized arguments"),
        (["train", "salt-nett"], "did you mean salt-net"),
        (["train", "salt-net", "--fold", "7"], "must be 0 to 4, not 7\n"),
        (["train", "salt-net", "--epochs", "0"], "--epochs: 1 to 100000, not 0"),
        (["train", "salt-net", "--epochs", "9" * 21], "1 to 100000, not 1e+21"),
        (["--only", "02", "train", "salt-net"], "--only chooses notebooks: not with"),
        (["--data-dir", ""], "--data-dir: is empty: name a folder"),
        (["predict", "salt-net", "--output-dir", " "], "--output-dir: is empty"),
        (["predict"], "required: systems"),
    ],
)
def test_wrong_option_is_explained_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiles": -1}, "tiles must be a number of at least 1, not -1"),
        ({"batch_size": 0}, "batch_size must be a number of at least 1, not 0"),
        ({"stages": []}, "epochs must be a number of at least 1, not 0"),
        ({"stages": [{"loss": "bce", "epochs": -3}]}, "epochs must be"),
        (
            {"stages": [{"loss": "bce", "epochs": 1, "learning_rate": math.nan}]},
            "learning_rate must be a number of at least 0, not nan",
        ),
        ({"folds": 1}, "folds must be a number of at least 2, not 1"),
    ],
)
def test_row_that_cannot_be_trained_is_refused(change, message, tmp_path, capsys):
    row = asdict(systems.get("salt-net")) | {"name": "mine"} | change
    (tmp_path / "row.json").write_text(json.dumps(row))
    with pytest.raises(SystemExit):
        main.main(["train", str(tmp_path / "row.json")])
    assert f"mine: {message}" in capsys.readouterr().err


def test_output_dir_may_be_called_synthetic(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = main._parser().parse_args(
        ["--output-dir", "synthetic", "--data-dir", "Synthetic"]
    )
    assert options.output_dir == str(tmp_path / "synthetic")
    assert options.data_dir == "Synthetic"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "message"),
    [
        ("{} predict salt-net > /dev/full", "error: cannot print: "),
        ("{} predict salt-net | true", "error: "),
        ("{} predict salt-net >&-", "no finished run of salt-net"),
        ("KERAS_BACKEND=none {} predict salt-net", "install it, or unset KERAS_B"),
    ],
)
def test_shell_that_takes_no_output_or_has_no_backend(shell, message, tmp_path):
    command = shell.format(f"PYTHONPATH={main.ROOT} {sys.executable} -m helpers")
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().split("\n")[-1]
    assert message in last and "Traceback" not in done.stderr


def test_only_chooses_notebooks_in_order():
    chosen = main._notebooks("05, 2,02")
    assert [path.name[:2] for path in chosen] == ["02", "05"]
    numbers = [path.name[:2] for path in main.NOTEBOOKS]
    assert numbers == ["01", "02", "03", "04", "05"]


def test_notebooks_run_and_the_result_is_printed(smoke, tmp_path, monkeypatch, capsys):
    """A small notebook in place of the five: what it writes is what is told."""
    smoke.mkdir()
    path = "out/rehearsal.csv"
    result = {"score": 0.625, "what": "8 tiles", "submission": path}
    cell = (
        "import os, pathlib\n"
        "pathlib.Path(os.environ['SALT_OUTPUT_DIR'], 'result.json')"
        f".write_text('''{json.dumps(result)}''')"
    )
    monkeypatch.setattr(
        main, "NOTEBOOKS", [book(tmp_path / "05_a.ipynb", "1 + 1", cell)]
    )
    assert main.main([]) == 0
    out = capsys.readouterr().out
    assert "validation score: 0.6250 (8 tiles)\nrehearsal: out/rehearsal.csv\n" in out
    executed = nbformat.read(smoke / "notebooks" / "05_a.ipynb", as_version=4)
    assert executed.cells[1].outputs[0]["data"]["text/plain"] == "2"
    untouched = nbformat.read(tmp_path / "05_a.ipynb", as_version=4)
    assert untouched.cells[1].outputs == []


def test_result_of_an_earlier_run_is_not_told_again(
    smoke, tmp_path, monkeypatch, capsys
):
    smoke.mkdir()
    (smoke / "result.json").write_text('{"score": 1, "what": "", "submission": ""}')
    monkeypatch.setattr(main, "NOTEBOOKS", [book(tmp_path / "01_a.ipynb", "1")])
    assert main.main([]) == 0
    assert "score" not in capsys.readouterr().out


def test_train_writes_a_run(smoke, monkeypatch, capsys):
    monkeypatch.delenv("SALT_PROFILE")
    assert main.main(["train", "salt-net", "--fold", "1", "--profile", "smoke"]) == 0
    (run,) = runs.find_runs(smoke / "runs")
    assert run.name == "salt-net/fold-1"
    assert "salt-net/fold-1: score" in capsys.readouterr().out


def test_training_that_is_stopped_has_a_status_of_its_own(monkeypatch, capsys):
    def stopped(*args):
        raise training.Stopped("after an epoch of salt-net: the same call resumes")

    monkeypatch.setattr(training, "estimate", lambda *args: 0.0)
    monkeypatch.setattr(training, "fit", stopped)
    assert main.main(["train", "salt-net"]) == main.STOPPED
    assert "stopped after an epoch of salt-net" in capsys.readouterr().err


def test_predict_ensembles_the_folds_that_are_there(smoke, capsys):
    for fold in ("0", "1"):
        assert main.main(["train", "salt-net", "--fold", fold, "--epochs", "2"]) == 0
    capsys.readouterr()
    assert main.main(["predict", "salt-net"]) == 0
    out = capsys.readouterr().out
    assert "0.500 x salt-net/fold-0" in out and "0.500 x salt-net/fold-1" in out
    folds = data.make_folds(data.load_tiles(Settings.from_env()))
    count = np.isin(folds, (0, 1)).sum()
    assert re.search(rf"score 0\.\d{{4}} \(0\.\d+ to \d\.\d+\), {count} tiles", out)
    path = smoke / "rehearsal-salt-net.csv"
    assert f"{path}: 12 tiles" in out and path.exists()
    assert "a rehearsal, not for Kaggle" in out and not [*smoke.glob("submission*")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("olsen-ensemble", "train olsen-seresnext50 --fold 0"),
        ("olsen", "unknown system 'olsen'"),
        ("../../runs", "'../../runs' cannot be the name of a system"),
    ],
)
def test_predict_without_runs_says_how_to_train(name, message, capsys):
    assert main.main(["predict", name]) == 1
    assert message in capsys.readouterr().err


def test_wrong_weights_are_told_before_any_training(smoke, capsys):
    arguments = ["train", "jain-vgg16", "--weights", "no/such.h5"]
    assert main.main(arguments) == 1
    assert "no/such.h5: no such weight file" in capsys.readouterr().err
    assert runs.find_runs(smoke / "runs") == []


def test_bad_data_is_told_with_status_1(tmp_path, capsys):
    synthetic.write_dataset(tmp_path / "tgs", 10, 2, seed=0)
    (tmp_path / "tgs" / "train.zip").write_bytes(b"not a zip")
    assert main.main(["--data-dir", str(tmp_path / "tgs"), "train", "salt-net"]) == 1
    assert "train.zip: damaged zip" in capsys.readouterr().err


def test_folder_without_data_is_told_before_any_notebook(tmp_path, capsys):
    assert main.main(["--data-dir", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "holds none of train.csv" in err and "SALT_DATA_DIR" in err
