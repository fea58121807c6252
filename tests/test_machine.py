"""What the machine is good at, and why a number format is chosen."""

import os
import sys

import keras
import pytest

from helpers import machine, systems

NET, VGG = systems.get("salt-net"), systems.get("jain-vgg19")


def test_accelerator_is_named_unless_there_is_only_a_cpu(monkeypatch):
    import keras.distribution

    devices = ["cpu:0"]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    assert machine.accelerator() == ""
    devices.append("gpu:0")
    assert machine.accelerator() == "gpu:0"


@pytest.mark.parametrize(
    ("device", "flags", "system", "policy"),
    [
        ("", {"avx512_bf16"}, NET, "mixed_bfloat16"),
        ("", {"avx2"}, NET, "float32"),
        ("", {"avx512_bf16"}, VGG, "float32"),
        ("GPU:0", set(), VGG, "mixed_float16"),
        ("TPU:0", set(), NET, "mixed_bfloat16"),
    ],
)
def test_precision_follows_the_machine(device, flags, system, policy, monkeypatch):
    if keras.backend.backend() != "tensorflow" and policy == "mixed_bfloat16":
        pytest.skip("a rule for TensorFlow's kernels")
    monkeypatch.setattr(machine, "accelerator", lambda: device)
    monkeypatch.setattr(machine, "_cpu_flags", lambda: flags)
    chosen, reason = machine.choose_precision(system)
    assert chosen == policy and reason


def test_stderr_is_silent_inside_quiet_and_back_after_it(capfd):
    with machine.quiet():
        os.write(2, b"noise")
    sys.stderr.write("a word")
    sys.stderr.flush()
    assert "noise" not in capfd.readouterr().err
    os.write(2, b"heard")
    assert "heard" in capfd.readouterr().err
