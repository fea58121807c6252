"""The same code on JAX: unit tests of losses and metrics, and a run of each backend.

JAX works in processes of its own: Keras decides for a backend when it is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
BACKENDS = ("tensorflow", "jax")
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # what is run once need not be fast
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not importlib.util.find_spec("jax"), reason="JAX is not installed"
    ),
]


def run(backend, *arguments):
    """Run Python with this backend; its last lines are shown if it fails."""
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=HERE.parent,
        env={**os.environ, **QUICK, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, f"on {backend}:\n{ended.stdout[-5000:]}"


def test_unit_tests_of_losses_and_metrics_pass_on_jax():
    options = ["-q", "-n0", "-p", "no:cacheprovider"]
    files = [HERE / f"test_{name}.py" for name in ("losses", "metrics")]
    run("jax", "-m", "pytest", *options, *files)


def test_runs_of_each_backend_predict_the_same_on_both(tmp_path):
    """JAX trains and predicts as if TensorFlow were not installed."""
    folders = [tmp_path / backend for backend in BACKENDS]
    for backend, folder in zip(BACKENDS, folders, strict=True):
        run(backend, HERE / "exchange.py", "train", folder)
    for backend in BACKENDS:
        run(backend, HERE / "exchange.py", "predict", *folders)
    for folder in folders:
        one, other = (np.load(folder / f"{name}.npy") for name in BACKENDS)
        assert one.shape == (20, 101, 101) and one.std() > 1e-4
        np.testing.assert_allclose(other, one, atol=1e-4)
