"""Several devices make the step of one: each test trains in child processes."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from helpers.batches import ResizeOrPad, TileBatches
from helpers.training.devices import Share, spread

TRAIN = """
import sys
from helpers.utils.hardware import load_keras
keras = load_keras()
import numpy as np
from pathlib import Path
from shapes import labelled
from helpers import config, systems, training, unet
from helpers.utils import hardware

devices, folder = int(sys.argv[1]), Path(sys.argv[2])
policy = "float32"
if keras.backend.backend() == "tensorflow":
    policy = unet.EXACT = "float64"  # see assert_same_step
    keras.config.set_floatx(policy)
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, parts)
    hardware.accelerators = lambda: [f"CPU:{i}" for i in range(devices)]
else:
    hardware.accelerators = keras.distribution.list_devices
training.choose_precision = lambda: (policy, "to compare")
system = systems.System(
    "small", "", "",
    network=systems.Network(filters=4, depth=2, residual=True, gate=True),
    stages=(systems.Stage("lovasz-elu", 1, 1.0, optimizer="sgd", gate=0.1),),
    transform=recipe.ResizeOrPad(32, "resize"), batch_size=16,
)
settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
before = training.build_model(system, policy, settings.seed).get_weights()
run = training.fit(system, labelled(20), 0, settings, verbose=0)
after = run.model().get_weights()
np.savez(folder / "step.npz", *[b - a for a, b in zip(before, after)])
print("score", run.score)
"""


def train(backend, devices, folder, **variables):
    """A child process that trains for one step."""
    tests = Path(__file__).parent
    flags = f"--xla_force_host_platform_device_count={devices}"
    variables |= {"KERAS_BACKEND": backend, "PYTHONPATH": f"{tests.parent}:{tests}"}
    if "KERAS_DISTRIBUTION_PROCESS_ID" not in variables:
        variables["XLA_FLAGS"] = flags
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(devices), str(folder)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_finished(*processes):
    for process in processes:
        output = process.communicate(timeout=600)[0]
        assert process.returncode == 0, output[-3000:]


def assert_same_step(folder, *others):
    """To 1e-5 of the largest change of each weight's array.

    In float32 this network's step moves by 1e-4 when the same tiles come in another
    order, on one device: batch norm subtracts large sums. And by 1e-3 on TensorFlow
    when Keras adds those sums of two devices, since it takes E(x^2) - E(x)^2 for the
    variance. So TensorFlow is compared in float64.
    """
    with np.load(folder / "step.npz") as one:
        assert max(np.abs(one[name]).max() for name in one) > 1e-2  # it did learn
        for other in others:
            with np.load(other / "step.npz") as two:
                for name in one:
                    far = np.abs(one[name] - two[name]).max()
                    assert far <= 1e-5 * max(np.abs(one[name]).max(), 1e-3), name


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_make_the_step_of_one(backend, tmp_path):
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    for devices in (1, 2):
        assert_finished(train(backend, devices, tmp_path / str(devices)))
    assert_same_step(tmp_path / "1", tmp_path / "2")


def test_two_machines_make_the_step_of_one(tmp_path):
    """Two processes that speak over the loopback."""
    if not find_spec("jax"):
        pytest.skip("jax is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    names = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
    both = []
    for number in (0, 1):
        values = (f"{address},{address}", "2", str(number))
        variables = {
            f"KERAS_DISTRIBUTION_{name}": value
            for name, value in zip(names, values, strict=True)
        }
        both.append(train("jax", 1, tmp_path / f"machine-{number}", **variables))
    assert_finished(*both)
    assert_finished(train("jax", 1, tmp_path / "alone"))
    assert_same_step(tmp_path / "alone", tmp_path / "machine-0", tmp_path / "machine-1")


def test_alone_everything_is_ours():
    with spread() as share:
        assert share == Share()


def test_batches_are_divided_and_the_rest_left_out():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (23, 101, 101), np.uint8)
    transform = ResizeOrPad(32, "resize")
    whole = TileBatches(images, images > 99, transform, 10)
    parts = [
        TileBatches(images, images > 99, transform, 10, share=Share(4, 2, number))
        for number in (0, 1)
    ]
    assert [len(batches) for batches in (whole, *parts)] == [3, 3, 3]  # 8, 8, 4 tiles
    assert [len(parts[0][index][0]) for index in range(3)] == [4, 4, 2]
    both = [np.concatenate([part[i][0] for part in parts]) for i in range(3)]
    frames = np.concatenate([whole[i][0] for i in range(3)])
    np.testing.assert_array_equal(np.concatenate(both), frames[:20])
