"""What this machine is good at: accelerators, number formats, compilers."""

import os
from contextlib import contextmanager
from pathlib import Path


def accelerator():
    """Name of the first GPU or TPU that Keras' backend sees, or `""`."""
    from keras.distribution import list_devices

    devices = [d for d in list_devices() if not d.lower().startswith("cpu")]
    return devices[0] if devices else ""


def choose_precision(system):
    """The fastest number format for this machine and system, and why.

    Weights, losses and scores stay in float32 in any case.

    Returns:
        `(policy, reason)`: the name of a Keras dtype policy, and words for people.
    """
    import keras

    device = accelerator()
    if device.lower().startswith("gpu"):
        return "mixed_float16", "a GPU computes twice as fast with 16 bits"
    if device:
        return "mixed_bfloat16", f"made for {device}"
    if system.network.encoder != "scratch":
        return "float32", "no gain from 16 bits with a wide network on a CPU"
    if keras.backend.backend() == "tensorflow" and _cpu_flags() & BFLOAT16_FLAGS:
        return "mixed_bfloat16", "this CPU multiplies bfloat16 natively"
    return "float32", "this CPU has no fast 16-bit arithmetic"


BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def _cpu_flags():
    """What a Linux CPU says it can do; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def jit_compile():
    """XLA compiles for accelerators; TensorFlow's own CPU kernels are faster."""
    import keras

    if keras.backend.backend() == "tensorflow" and not accelerator():
        return False
    return "auto"


@contextmanager
def quiet():
    """Silence what TensorFlow's C++ code writes before it can be asked not to."""
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
