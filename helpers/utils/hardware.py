"""What the machine offers: accelerators, number formats, a compiler."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}  # and memory is left for other processes:
QUIET |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

Tensor = Any  # of any backend, or Keras' own while a model is being built


def load_keras() -> ModuleType:
    """Import Keras and its backend without the messages of TensorFlow's C++ code.

    Raises:
        ValueError: if the backend cannot be loaded.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    stderr = os.dup(2)  # C++ code writes there, past Python's `sys.stderr`
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import keras
    except (ImportError, ValueError) as error:
        fault = f"Keras cannot load its backend ({error})"
        raise ValueError(f"{fault}: install it, or unset KERAS_BACKEND") from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    keras.config.set_image_data_format("channels_last")  # keras.json may differ
    return keras


def accelerators() -> list[str]:
    """Names of all GPUs or TPUs that Keras' backend sees: list of str."""
    devices = load_keras().distribution.list_devices()
    return [device for device in devices if not device.lower().startswith("cpu")]


def half_precision() -> str:
    """The 16-bit dtype policy that may be faster here than float32: str."""
    if load_keras().backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpu)
            if details.get("compute_capability", (8, 0)) < (8, 0):  # no bfloat16: a T4
                return "mixed_float16"
    return "mixed_bfloat16"


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build and compile models in this Keras dtype policy, inside a `with` block."""
    keras = load_keras()
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        yield
    finally:
        keras.config.set_dtype_policy(before)


def jit_compile() -> bool | str:
    """Keras' `jit_compile`: on TensorFlow, XLA for a single accelerator only."""
    # Its CPU kernels are faster, and XLA compiles no communication between devices.
    tensorflow = load_keras().backend.backend() == "tensorflow"
    return False if tensorflow and len(accelerators()) != 1 else "auto"


@contextmanager
def distribute() -> Iterator[int]:
    """Use all accelerators for the models of a `with` block: yields their number."""
    # Only dropout differs from a single device: losses are means over all tiles.
    keras, devices = load_keras(), accelerators()
    scope: Any = nullcontext()
    if len(devices) > 1:
        print(f"every batch is divided among {len(devices)} devices")
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            scope = tf.distribute.MirroredStrategy(devices).scope()
        else:
            data_parallel = keras.distribution.DataParallel
            scope = data_parallel(devices=devices, auto_shard_dataset=False).scope()
    with scope:
        yield max(len(devices), 1)


def synchronize(model: Any, several: bool) -> None:
    """Let TensorFlow's batch normalization see all parts of a batch, or not."""
    keras = load_keras()  # JAX needs no such switch
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = several and keras.backend.backend() == "tensorflow"
