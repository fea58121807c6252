"""What the machine offers, and the number format that may be fast on it."""

import builtins
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from helpers.utils import hardware


def test_accelerator_is_named_unless_there_is_only_a_cpu(monkeypatch):
    import keras.distribution

    devices = ["cpu:0"]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    assert hardware.accelerators() == []
    devices.append("gpu:0")
    assert hardware.accelerators() == ["gpu:0"]


def test_missing_backend_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ValueError, match=r"backend .*install it, or unset KERAS_BACK"):
        hardware.load_keras()


def test_channels_come_last_whatever_keras_json_says():
    keras.config.set_image_data_format("channels_first")
    assert hardware.load_keras().config.image_data_format() == "channels_last"


@pytest.mark.slow
def test_plain_script_builds_a_network_whatever_keras_json_says(tmp_path):
    settings = '{"image_data_format": "channels_first"}'
    (tmp_path / "keras.json").write_text(settings)
    program = "from helpers import unet; print(unet.build_unet().output.shape)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(hardware.__file__).parents[2],
        env=os.environ | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "(None, 128, 128, 1)" in done.stdout


@pytest.mark.parametrize(
    ("capability", "policy"),
    [
        (None, "mixed_bfloat16"),
        ((7, 0), "mixed_float16"),  # V100
        ((7, 5), "mixed_float16"),  # T4
        ((8, 0), "mixed_bfloat16"),  # A100
        ((9, 0), "mixed_bfloat16"),  # H100
    ],
)
def test_sixteen_bits_follow_the_device(capability, policy, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    details = {"compute_capability": capability} if capability else {}
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: details
    )
    assert hardware.half_precision() == policy
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert hardware.half_precision() == "mixed_bfloat16"


def test_precision_is_put_back():
    with hardware.precision("mixed_float16"):
        assert keras.config.dtype_policy().name == "mixed_float16"
    assert keras.config.dtype_policy().name == "float32"


def test_stderr_is_silent_while_keras_is_imported_and_back_after_it(monkeypatch, capfd):
    load = builtins.__import__

    def noisy(name, *args, **options):
        os.write(2, b"noise")
        return load(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", noisy)
    hardware.load_keras()
    monkeypatch.undo()
    sys.stderr.write("a word")
    sys.stderr.flush()
    assert "noise" not in capfd.readouterr().err
    os.write(2, b"heard")
    assert "heard" in capfd.readouterr().err
