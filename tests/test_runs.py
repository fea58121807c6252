"""Runs as they are read from their folders."""

import json

import numpy as np
import pytest

from helpers.pipeline import Frame
from helpers.runs import PLAN, Run, find_runs


@pytest.fixture
def folder(tmp_path):
    """Two finished folds, one of another seed, and one that is not finished."""
    for name, fold, seed in [("net", 0, 1), ("net", 1, 1), ("other", 0, 2)]:
        system = {"name": name, "frame": {"size": 64, "mode": "resize"}}
        config = dict.fromkeys(PLAN) | {"system": system, "fold": fold, "seed": seed}
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


def test_frame_and_score_are_read_from_the_row(folder):
    run = Run(folder / "net" / "fold-0")
    assert run.frame == Frame(64, "resize") and run.score == 0.5


def test_probabilities_are_stored_in_255_steps(folder):
    run = Run(folder / "net" / "fold-0")
    steps = np.array([[[0, 51, 255]]], np.uint8)
    np.savez(run.folder / "validation.npz", ids=["a"], probabilities=steps)
    ids, probabilities = run.validation()
    np.testing.assert_allclose(probabilities, [[[0, 0.2, 1]]])
    assert list(ids) == ["a"] and probabilities.dtype == np.float32
