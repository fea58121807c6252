"""Weight files: downloaded, checked, and loaded only if the whole file fits.

Keras publishes the weights of its applications as HDF5 (`.h5`), timm as safetensors,
with PyTorch's names, such as `layer1.0.conv1.weight`, and order of axes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras
import safetensors
import safetensors.numpy

HUB = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"
TIMM = {  # our networks: timm's name of their weights
    "resnet34": "resnet34.a1_in1k",
    "seresnext50": "legacy_seresnext50_32x4d.in1k",
    "seresnext101": "legacy_seresnext101_32x4d.in1k",
}
TORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
UNUSED = re.compile(r"^(fc|last_linear)\.|\.num_batches_tracked$")  # classifier, counts
RANDOM = "use random weights (--weights none in the shell, weights=None in Python)"


def load_weights(model: keras.Model, path: Path | str, by_order: bool = False) -> None:
    """Load a weight file into a model.

    Args:
        model: an encoder, or a model whose layers have the application's names.
        path: a file of a Keras application (`.h5`) or of timm (`.safetensors`). It must
            have all layers of the model; a classifier after them is ignored.
        by_order: match layers by order, not by name, and allow no further ones.

    Raises:
        ValueError: if the file is missing, damaged or of another kind, or if an array
            is missing, unknown, or of another shape. The message names the file, the
            fault and the remedy; the model is unchanged.
    """
    name, path = str(path) or "''", Path(path)
    remedy = f"give the path of one, or {RANDOM}"
    if not path.is_file():
        raise ValueError(f"{name}: no such weight file: {remedy}")
    if path.suffix not in (".h5", ".safetensors"):
        raise ValueError(f"{name}: not .h5 (Keras) or .safetensors (timm): {remedy}")
    before = model.get_weights()
    try:
        if path.suffix == ".safetensors":
            _load_timm(model, path)
        else:
            if not by_order:
                _check_layers(model, path)
            model.load_weights(path, by_name=not by_order)
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        model.set_weights(before)
        fault = f"truncated or not {path.suffix[1:]} ({error})"
        raise ValueError(f"{path}: {fault}: fetch it again, or {RANDOM}") from error
    except ValueError as error:
        model.set_weights(before)
        wanted = f"Keras' file of {model.name} (.h5{', no classifier' * by_order})"
        if model.name in TIMM:
            wanted = f"timm's {TIMM[model.name]} (.safetensors)"
        fault = str(error).rstrip(".")
        raise ValueError(f"{path}: {fault}: give {wanted}, or {RANDOM}") from error


def _check_layers(model: keras.Model, path: Path) -> None:
    """Raise unless the file has the model's layers, and no others before the last."""
    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        names = group.attrs.get("layer_names", [])
        names = [x.decode() if isinstance(x, bytes) else str(x) for x in names]
        stored = [name for name in names if len(group[name].attrs["weight_names"])]
    wanted = [layer.name for layer in model.layers if layer.weights]
    for name in wanted:
        if name not in stored:
            raise ValueError(f"has no layer {name}")
    for name in stored[: max(map(stored.index, wanted))]:
        if name not in wanted:  # of a deeper network of the same family
            raise ValueError(f"{model.name} has no layer {name}")


def _load_timm(model: keras.Model, path: Path) -> None:
    """Load timm's arrays into the layers of `resnet.py`."""
    if model.name not in TIMM:
        raise ValueError("not the format of Keras' applications")
    stored = safetensors.numpy.load_file(path)
    for layer in model.layers:
        for weight in layer.weights:
            key = f"{_timm_name(layer.name, model.name)}.{TORCH_NAMES[weight.name]}"
            if key not in stored:
                raise ValueError(f"has no {key}")
            array = stored.pop(key)
            if array.ndim == 4:  # a kernel: (out, in, height, width) in PyTorch
                array = array.transpose(2, 3, 1, 0)
            if array.shape != (shape := tuple(weight.shape)):
                found = f"{key} has shape {array.shape}"
                raise ValueError(f"{found}, {layer.name} needs {shape}")
            weight.assign(array)
    for key in stored:
        if not UNUSED.search(key):
            raise ValueError(f"{model.name} has no place for {key}")


def _timm_name(layer: str, family: str) -> str:
    """`layer1_0_se_fc1` -> `layer1.0.se_module.fc1`; `stem_conv1` -> `layer0.conv1`."""
    stem = "" if family == "resnet34" else "layer0."
    name = layer.replace("_", ".").replace("stem.", stem)
    return name.replace(".se.", ".se_module.")


def download(name: str) -> str:
    """Download timm's ImageNet weights, see `downloading`; returns the file's path."""
    file, url = f"{TIMM[name]}.safetensors", HUB.format(TIMM[name])
    with downloading(name):
        return keras.utils.get_file(file, url, cache_subdir="models")


@contextmanager
def downloading(name: str) -> Iterator[None]:
    """Say what else to do if the download of weights in a `with` block fails.

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
            "Without internet pass weights='path/to/file', downloaded elsewhere, or "
            "weights=None to start from random weights (--weights none)"
        ) from error
