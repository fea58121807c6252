"""What the machine is good at, and why a number format is chosen."""

import os
import sys

import keras
import pytest

from helpers.utils import hardware


def test_accelerator_is_named_unless_there_is_only_a_cpu(monkeypatch):
    import keras.distribution

    if keras.backend.backend() == "torch":
        pytest.skip("Keras cannot list PyTorch's devices")
    devices = ["cpu:0"]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    assert hardware.accelerator() == ""
    devices.append("gpu:0")
    assert hardware.accelerator() == "gpu:0"


@pytest.mark.parametrize(
    ("device", "flags", "policy"),
    [
        ("", {"avx512_bf16"}, "mixed_bfloat16"),
        ("", {"amx_bf16"}, "mixed_bfloat16"),
        ("", {"avx2"}, "float32"),
        ("TPU:0", set(), "mixed_bfloat16"),
    ],
)
def test_precision_follows_the_machine(device, flags, policy, monkeypatch):
    if keras.backend.backend() != "tensorflow" and policy == "mixed_bfloat16":
        pytest.skip("a rule for TensorFlow's kernels")
    monkeypatch.setattr(hardware, "accelerators", lambda: [device] if device else [])
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    chosen, reason = hardware.choose_precision()
    assert chosen == policy and reason


@pytest.mark.parametrize(
    ("capability", "policy"),
    [
        ((6, 0), "float32"),  # P100
        ((7, 0), "mixed_float16"),  # V100
        ((7, 5), "mixed_float16"),  # T4
        ((8, 0), "mixed_bfloat16"),  # A100
        ((8, 9), "mixed_bfloat16"),  # L4
        ((9, 0), "mixed_bfloat16"),  # H100
        (None, "float32"),
    ],
)
def test_precision_follows_the_gpu(capability, policy, monkeypatch):
    monkeypatch.setattr(hardware, "accelerators", lambda: ["GPU:0"])
    monkeypatch.setattr(hardware, "compute_capability", lambda: capability)
    chosen, reason = hardware.choose_precision()
    assert chosen == policy and reason


def test_capability_is_read_as_each_backend_says_it(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a T4"])
    details = {"device_name": "Tesla T4", "compute_capability": (7, 5)}
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: details
    )
    assert hardware.compute_capability() == (7, 5)
    jax = pytest.importorskip("jax")

    class Device:
        compute_capability = "8.0"

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert hardware.compute_capability() == (8, 0)


def test_stderr_is_silent_inside_quiet_and_back_after_it(capfd):
    with hardware.quiet():
        os.write(2, b"noise")
    sys.stderr.write("a word")
    sys.stderr.flush()
    assert "noise" not in capfd.readouterr().err
    os.write(2, b"heard")
    assert "heard" in capfd.readouterr().err
