"""What this machine is good at: accelerators, number formats, compilers."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

POLITE = {  # less noise, and memory of the accelerator is left for other processes
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}

Tensor = Any  # of whichever backend, or Keras' own while a model is built


def load_keras() -> ModuleType:
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


def accelerators() -> list[str]:
    """Names of all GPUs or TPUs that Keras' backend sees: list of str."""
    keras = load_keras()
    if keras.backend.backend() == "torch":  # which Keras cannot ask
        import torch

        return [f"gpu:{number}" for number in range(torch.cuda.device_count())]
    devices = keras.distribution.list_devices()
    return [device for device in devices if not device.lower().startswith("cpu")]


def accelerator() -> str:
    """Name of the first of them, or `""`."""
    return next(iter(accelerators()), "")


def choose_precision() -> tuple[str, str]:
    """The fastest number format for this machine, and why.

    Weights, losses and scores stay in float32 in any case.

    Returns:
        `(policy, reason)`: the name of a Keras dtype policy, and words for people.
    """
    device = accelerator().lower()
    if device.startswith("tpu"):
        return "mixed_bfloat16", "made for TPUs"
    if device:
        return _precision_on_gpu(compute_capability())
    if load_keras().backend.backend() == "tensorflow" and _cpu_flags() & BFLOAT16_FLAGS:
        return "mixed_bfloat16", "this CPU multiplies bfloat16 natively"
    return "float32", "this CPU has no fast 16-bit arithmetic"


def _precision_on_gpu(capability: tuple[int, ...] | None) -> tuple[str, str]:
    """The rule for NVIDIA's generations, by their compute capability."""
    if capability is None:
        return "float32", "a GPU of unknown make"
    if capability >= (8, 0):  # Ampere, A100 and later
        return "mixed_bfloat16", "tensor cores, and the range of float32 in 16 bits"
    if capability >= (7, 0):  # Volta and Turing: V100, T4
        return "mixed_float16", "tensor cores; the loss is scaled to save gradients"
    return "float32", "a GPU without tensor cores gains nothing from 16 bits"


def compute_capability() -> tuple[int, ...] | None:
    """NVIDIA's number of the first GPU's generation: (7, 5) is a T4; `None` elsewhere.

    Source: https://developer.nvidia.com/cuda-gpus
    """
    backend = load_keras().backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.get_device_capability()
    if backend == "jax":
        import jax

        number = getattr(jax.devices()[0], "compute_capability", None)
        return number and tuple(int(part) for part in str(number).split("."))
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0])
    return details.get("compute_capability")


BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def _cpu_flags() -> set[str]:
    """What a Linux CPU says it can do; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build and compile models in this Keras dtype policy, inside a `with` block."""
    keras = load_keras()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def jit_compile() -> bool | str:
    """XLA compiles for one accelerator; TensorFlow's own CPU kernels are faster.

    Nor does it compile what several devices tell each other within a step.
    """
    if load_keras().backend.backend() == "tensorflow" and len(accelerators()) != 1:
        return False
    return "auto"


def compiled(function: Callable) -> Callable:
    """Decorate a function of arrays: compiled where single operations are slow.

    That is on JAX, which then compiles it anew for every shape that it is called with.
    On TensorFlow and PyTorch the function stays as it is.

    Args:
        function: of arrays or tensors, without side effects.

    Returns:
        A function of the same arguments.
    """
    if load_keras().backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the process's stderr, below Python's own."""
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
