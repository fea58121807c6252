"""What this machine is good at: accelerators, number formats, compilers."""

import logging
import os
from contextlib import contextmanager
from pathlib import Path

POLITE = {  # less noise, and memory of the accelerator is left for other processes
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def load_keras():
    """Import Keras and its backend without TensorFlow's C++ messages.

    TensorFlow writes to the process's stderr before it can be asked not to, which
    would end up in every notebook.
    """
    for name, value in POLITE.items():
        os.environ.setdefault(name, value)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with quiet():
        import keras
    return keras


def accelerator():
    """Name of the first GPU or TPU that Keras' backend sees, or `""`."""
    keras = load_keras()
    if keras.backend.backend() == "torch":  # which Keras cannot ask
        import torch

        return "gpu:0" if torch.cuda.is_available() else ""
    devices = keras.distribution.list_devices()
    others = [device for device in devices if not device.lower().startswith("cpu")]
    return others[0] if others else ""


def choose_precision(system):
    """The fastest number format for this machine and system, and why.

    Weights, losses and scores stay in float32 in any case.

    Returns:
        `(policy, reason)`: the name of a Keras dtype policy, and words for people.
    """
    device = accelerator()
    if device.lower().startswith("gpu"):
        return "mixed_float16", "a GPU computes twice as fast with 16 bits"
    if device:
        return "mixed_bfloat16", f"made for {device}"
    if system.network.encoder not in GAIN_ON_CPU:
        return "float32", "no gain from 16 bits with this encoder on a CPU"
    if load_keras().backend.backend() == "tensorflow" and _cpu_flags() & BFLOAT16_FLAGS:
        return "mixed_bfloat16", "this CPU multiplies bfloat16 natively"
    return "float32", "this CPU has no fast 16-bit arithmetic"


GAIN_ON_CPU = ("scratch", "seresnext50", "seresnext101")  # measured
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def _cpu_flags():
    """What a Linux CPU says it can do; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


@contextmanager
def precision(policy):
    """Build and compile models in this Keras dtype policy, inside a `with` block."""
    keras = load_keras()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def jit_compile():
    """XLA compiles for accelerators; TensorFlow's own CPU kernels are faster."""
    if load_keras().backend.backend() == "tensorflow" and not accelerator():
        return False
    return "auto"


@contextmanager
def quiet():
    """Silence the process's stderr, below Python's own."""
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
