"""One code, three backends: the unit tests on each, and runs that change hands.

Every backend but the one of this session works in a process of its own: Keras decides
when it is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

HERE = Path(__file__).parent
BACKENDS = ("tensorflow", "jax", "torch")
MODULES = {  # a process each: JAX keeps what it has compiled in memory, too
    "arrays": (
        "losses",
        "metrics",
        "pipeline",
        "augmentation",
        "inference",
        "machine",
    ),
    "networks": ("encoders", "resnet", "unet", "measure"),
    "training": ("callbacks", "training", "runs", "weights"),
}
# JAX compiles every operation for every shape that it meets, so that large networks
# take minutes. Left out are the largest encoders, 16 bits on a CPU, each part of the
# decoder by itself (all together are tested), repetitions of what is tested, and what
# is about folders rather than arithmetic.
LEFT_OUT = (
    "sixteen_bits or seresnext101 or inception or deeper_sibling or three_classes or "
    "(switched_on and not centre+) or interrupted_training_of_several or "
    "another_plan or runs_alike or brought_back or vanished_disk or between_the_last"
)
COMPILED_QUICKLY = {  # JAX: what is run once need not be fast; the same is not repeated
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where JAX keeps what it has compiled."""
    return tmp_path_factory.mktemp("compiled")


def run(backend, cache, *arguments):
    """Run Python with this backend; its last lines are shown if it fails."""
    own = {"KERAS_BACKEND": backend, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=HERE.parent,
        env={**os.environ, **COMPILED_QUICKLY, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, f"on {backend}:\n{ended.stdout[-5000:]}"
    return ended.stdout


def installed():
    return [name for name in BACKENDS if importlib.util.find_spec(name)]


@pytest.mark.parametrize("part", MODULES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_unit_tests_pass(backend, part, cache):
    if backend == keras.backend.backend():
        pytest.skip("the backend of this session")
    if backend not in installed():
        pytest.skip(f"{backend} is not installed")
    chosen = ["-k", f"not ({LEFT_OUT})"]
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", *chosen]
    files = [HERE / f"test_{name}.py" for name in MODULES[part]]
    print(run(backend, cache, "-m", "pytest", *options, *files))


def test_runs_of_each_backend_predict_the_same_on_all(cache, tmp_path):
    """Those without TensorFlow train and predict as if it were not installed."""
    child = HERE / "exchange.py"
    folders = [tmp_path / backend for backend in installed()]
    for backend, folder in zip(installed(), folders, strict=True):
        run(backend, cache, child, "train", folder)
    for backend in installed():
        run(backend, cache, child, "predict", *folders)
    for folder in folders:
        first, *others = (np.load(folder / f"{name}.npy") for name in installed())
        assert first.shape == (20, 101, 101) and first.std() > 1e-4
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-4)
