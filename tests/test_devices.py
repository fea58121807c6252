"""Several devices make the step of one: each test trains in child processes."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers.utils import hardware

TRAIN = """
import sys
from helpers.utils.hardware import load_keras
keras = load_keras()
import numpy as np
from pathlib import Path
from shapes import labelled
from helpers import config, systems, training, unet
from helpers.training import stages, timing
from helpers.utils import hardware

devices, folder = int(sys.argv[1]), Path(sys.argv[2])
policy = "float32"
if keras.backend.backend() == "tensorflow":
    policy = unet.LOGITS_DTYPE = "float64"  # see assert_same_step
    keras.config.set_floatx(policy)
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, parts)
    hardware.accelerators = lambda: [f"CPU:{i}" for i in range(devices)]
else:
    hardware.accelerators = keras.distribution.list_devices
timing.choose_precision = lambda *_: policy
stages.OPTIMIZERS["sgd"] = keras.optimizers.SGD  # its step is linear in the gradient
system = systems.System(
    "small", "", "",
    network=systems.Network(filters=4, depth=2, residual=True, gate=True),
    stages=(systems.Stage("lovasz-elu", 1, 1.0, optimizer="sgd", gate=0.1),),
    transform=systems.ResizeOrPad(32, "resize"), batch_size=16,
)
settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
before = training.build_model(system, policy, settings.seed).get_weights()
run = training.fit(system, labelled(20), 0, settings, verbose=0)
after = run.model().get_weights()
np.savez(folder / "step.npz", *[b - a for a, b in zip(before, after)])
"""


def train(backend, count, folder):
    """Train for one step in a child process."""
    tests = Path(__file__).parent
    variables = {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": f"{tests.parent}:{tests}",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
    }
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(count), str(folder)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_make_the_step_of_one(backend, tmp_path):
    """To 1e-5 of the largest change of each weight's array.

    In float32 this network's step moves by 1e-4 when the same tiles come in another
    order, on one device: batch norm subtracts large sums. And by 1e-3 on TensorFlow
    when Keras adds those sums of two devices, since it takes E(x^2) - E(x)^2 for the
    variance. So TensorFlow is compared in float64.
    """
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    for count in (1, 2):
        train(backend, count, tmp_path / str(count))
    with (
        np.load(tmp_path / "1" / "step.npz") as one,
        np.load(tmp_path / "2" / "step.npz") as two,
    ):
        assert max(np.abs(one[name]).max() for name in one) > 1e-2  # it did learn
        for name in one:
            far = np.abs(one[name] - two[name]).max()
            assert far <= 1e-5 * max(np.abs(one[name]).max(), 1e-3), name


def test_single_device_needs_no_strategy(monkeypatch):
    monkeypatch.setattr(hardware, "accelerators", lambda: ["GPU:0"])
    with hardware.distribute() as count:
        assert count == 1


def test_batch_normalization_is_synchronized_while_several_devices_train():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow needs it")
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((4,)), layer])
    for several in (True, False):
        hardware.synchronize(model, several)
        assert layer.synchronized == several
