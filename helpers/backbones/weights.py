"""Weight files: found, fetched, checked, and loaded only if all of them fits.

Two kinds are read. Keras' applications publish HDF5 files (`.h5`): arrays grouped by
layer. PyTorch's timm publishes safetensors: arrays with names such as
`layer1.0.conv1.weight`, and kernels whose axes are in another order.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras
import numpy as np
import safetensors
import safetensors.numpy

HUB = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"
TIMM = {  # what timm calls our networks, and their weights
    "resnet34": "resnet34.a1_in1k",
    "seresnext50": "legacy_seresnext50_32x4d.in1k",
    "seresnext101": "legacy_seresnext101_32x4d.in1k",
}
# Entries of timm's files that an encoder does not need: classifier, counters.
UNUSED = re.compile(r"^(fc|last_linear)\.|\.num_batches_tracked$")
TORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
RANDOM = (
    "start from random weights (--weights none in the shell, weights=None in Python)"
)
AGAIN = f"delete it and fetch it again, or {RANDOM}"


def load_weights(model: keras.Model, path: Path | str, by_order: bool = False) -> None:
    """Load a weight file into a model, checked.

    Layers of an HDF5 file that the model does not have (the classifier, or stages past
    the last tap) are left out; every layer of the model must be in the file. A
    safetensors file must have just the model's arrays, beside a classifier.

    Args:
        model: an encoder, or a model whose layers have the application's names.
        path: a file of a Keras application (`.h5`) or of timm (`.safetensors`).
        by_order: the n-th layer of the HDF5 file is the n-th of the model, whatever it
            is called. Keras numbers unnamed layers anew in each process.

    Raises:
        ValueError: if the file is missing, truncated or of another kind, if it lacks
            an array, has one too many, or one of another shape; the message names the
            file, the fault and the remedy. The model is unchanged then.
    """
    _check_path(path)
    path = Path(path)
    wanted = [layer for layer in model.layers if layer.weights]
    if path.suffix == ".safetensors":
        stored = _from_timm(path, wanted, model.name)
    else:
        stored = _from_keras(path, wanted, model.name, by_order)
    for layer, (name, values) in zip(wanted, stored, strict=False):
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if shapes != [value.shape for value in values]:
            fault = f"layer {name} has shapes {[v.shape for v in values]}, "
            fault += f"{layer.name} of {model.name} needs {shapes}"
            raise ValueError(_misfit(path, fault, model.name))
    if len(stored) < len(wanted):
        fault = f"ends before {wanted[len(stored)].name} of {model.name}"
        raise ValueError(_misfit(path, fault, model.name))
    for layer, (_, values) in zip(wanted, stored, strict=True):
        layer.set_weights(values)


def _check_path(path: Path | str) -> None:
    """Whether it names a file of a kind that is read."""
    if not str(path):
        fault = "'' names no weight file"
    elif Path(path).is_dir():
        fault = f"{path}: a folder, no weight file"
    elif not Path(path).exists():
        fault = f"{path}: no such weight file"
    elif Path(path).suffix not in (".h5", ".safetensors"):
        fault = (
            f"{path}: only .h5, as Keras publishes it, and .safetensors, as timm does, "
            "are read"
        )
    else:
        return
    raise ValueError(f"{fault}: give the path of one, or {RANDOM}")


def _misfit(path: Path, fault: str, family: str) -> str:
    """What is said of a file that is whole, but not what the network needs."""
    wanted = f"Keras' file of {family} (.h5)"
    if family in TIMM:
        wanted = f"timm's {TIMM[family]} (.safetensors)"
    return f"{path}: {fault}: give {wanted}, or {RANDOM}"


def download(name: str) -> str:
    """Fetch timm's ImageNet weights of one of our networks.

    Args:
        name: `"resnet34"`, `"seresnext50"` or `"seresnext101"`.

    Returns:
        The path of the file, which stays in Keras' cache for the next time.

    Raises:
        OSError: if it cannot be downloaded; the message says what else to do.
    """
    file = f"{TIMM[name]}.safetensors"
    with downloading(name):
        return keras.utils.get_file(file, HUB.format(TIMM[name]), cache_subdir="models")


@contextmanager
def downloading(name: str) -> Iterator[None]:
    """Say what else to do if the download inside a `with` block fails.

    Args:
        name: of the network, for the message.

    Yields:
        Nothing.

    Raises:
        OSError: if the block raises anything but a `ValueError`, which passes.
    """
    try:
        yield
    except ValueError:  # the file is there, but does not fit
        raise
    except Exception as error:
        raise OSError(
            f"the ImageNet weights of {name} could not be downloaded ({error}). "
            "Without internet pass weights='path/to/file', one that was fetched "
            "elsewhere, or weights=None to start from random ones (--weights none)"
        ) from error


def _from_keras(
    path: Path, wanted: list[keras.Layer], family: str, by_order: bool
) -> list[tuple[str, list[np.ndarray]]]:
    """The file's `(name, arrays)` for each wanted layer."""
    try:
        stored = _read_h5(path)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: truncated or not HDF5 ({error}): {AGAIN}") from error
    if stored is None:
        raise ValueError(_misfit(path, "HDF5, but without Keras' layer_names", family))
    if by_order:
        filled = [(name, arrays) for name, arrays in stored.items() if arrays]
        return filled[: len(wanted)]
    names = [layer.name for layer in wanted]
    for name in names:
        if name not in stored:
            raise ValueError(_misfit(path, f"has no layer {name}", family))
    order = [name for name, arrays in stored.items() if arrays]
    before = order[: 1 + max(order.index(name) for name in names)]
    for name in before:  # a deeper sibling has all the layers that we want, and more
        if name not in names:
            raise ValueError(_misfit(path, f"{family} has no layer {name}", family))
    return [(name, stored[name]) for name in names]


def _read_h5(path: Path) -> dict[str, list[np.ndarray]] | None:
    """{layer name: [arrays]} of an application's file; None: something else."""
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        if "layer_names" not in root.attrs:
            return None
        layers_stored = ((name, root[name]) for name in _names(root, "layer_names"))
        return {
            name: [group[weight][()] for weight in _names(group, "weight_names")]
            for name, group in layers_stored
        }


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """An attribute of names, which are bytes or text depending on the writer."""
    names = group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _from_timm(
    path: Path, wanted: list[keras.Layer], family: str
) -> list[tuple[str, list[np.ndarray]]]:
    """The file's `(name, arrays)` for each wanted layer, in Keras' order of axes."""
    if family not in TIMM:
        raise ValueError(_misfit(path, "no format of Keras' applications", family))
    try:
        stored = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or not safetensors ({error}): {AGAIN}"
        ) from error
    arrays = []
    for layer in wanted:
        name = timm_name(layer.name, family)
        keys = [f"{name}.{TORCH_NAMES[weight.name]}" for weight in layer.weights]
        for key in keys:
            if key not in stored:
                raise ValueError(_misfit(path, f"has no {key}", family))
        arrays.append((name, [_to_keras(stored.pop(key)) for key in keys]))
    for key in stored:
        if not UNUSED.search(key):
            raise ValueError(_misfit(path, f"{family} has no place for {key}", family))
    return arrays


def timm_name(layer: str, family: str) -> str:
    """What timm calls a layer of `resnet.py`.

    Args:
        layer: its name there.
        family: `"resnet34"`, `"seresnext50"` or `"seresnext101"`.

    Returns:
        The name without the last part, which says which array of the layer is meant.

    Example:
        >>> timm_name("layer1_0_se_fc1", "seresnext50")
        'layer1.0.se_module.fc1'
        >>> timm_name("stem_conv1", "resnet34")
        'conv1'
    """
    stem = "" if family == "resnet34" else "layer0."
    name = layer.replace("_", ".").replace("stem.", stem)
    return name.replace(".se.", ".se_module.")


def _to_keras(array: np.ndarray) -> np.ndarray:
    """A kernel (out, in, height, width) as (height, width, in, out); else unchanged."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
