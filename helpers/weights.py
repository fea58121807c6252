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
REMEDY = "delete it and fetch it again, or pass weights=None"


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
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such weight file: {REMEDY}")
    wanted = [layer for layer in model.layers if layer.weights]
    if path.suffix == ".safetensors":
        stored = _from_timm(path, wanted, model.name)
    else:
        stored = _from_keras(path, wanted, model.name, by_order)
    for layer, (name, values) in zip(wanted, stored, strict=False):
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if shapes != [value.shape for value in values]:
            raise ValueError(
                f"{path}: layer {name} has shapes {[v.shape for v in values]}, "
                f"{layer.name} of {model.name} needs {shapes}: {REMEDY}"
            )
    if len(stored) < len(wanted):
        raise ValueError(
            f"{path}: ends before {wanted[len(stored)].name} of {model.name}: {REMEDY}"
        )
    for layer, (_, values) in zip(wanted, stored, strict=True):
        layer.set_weights(values)


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
        raise ValueError(
            f"{path}: truncated or not HDF5 ({error}): {REMEDY}"
        ) from error
    if by_order:
        filled = [(name, arrays) for name, arrays in stored.items() if arrays]
        return filled[: len(wanted)]
    names = [layer.name for layer in wanted]
    for name in names:
        if name not in stored:
            raise ValueError(
                f"{path}: has no layer {name}; is it a file of {family}? "
                f"Otherwise {REMEDY}"
            )
    order = [name for name, arrays in stored.items() if arrays]
    before = order[: 1 + max(order.index(name) for name in names)]
    for name in before:  # a deeper sibling has all the layers that we want, and more
        if name not in names:
            raise ValueError(
                f"{path}: {family} has no layer {name}: another family? {REMEDY}"
            )
    return [(name, stored[name]) for name in names]


def _read_h5(path: Path) -> dict[str, list[np.ndarray]]:
    """{layer name: [arrays]} of a weight file in the applications' format."""
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
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
    try:
        stored = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or not safetensors ({error}): {REMEDY}"
        ) from error
    arrays = []
    for layer in wanted:
        name = timm_name(layer.name, family)
        keys = [f"{name}.{TORCH_NAMES[weight.name]}" for weight in layer.weights]
        for key in keys:
            if key not in stored:
                raise ValueError(
                    f"{path}: has no {key}; is it timm's {TIMM.get(family, family)}? "
                    f"Otherwise {REMEDY}"
                )
        arrays.append((name, [_to_keras(stored.pop(key)) for key in keys]))
    for key in stored:
        if not UNUSED.search(key):
            raise ValueError(
                f"{path}: {family} has no place for {key}; is it timm's "
                f"{TIMM.get(family, family)}? Otherwise {REMEDY}"
            )
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
