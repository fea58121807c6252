"""A Keras network's layers in plain PyTorch, with its weights; for `against_pytorch`.

Only the layers that our U-Nets are made of. Keras pads "same" more at the right and
lower side where it cannot pad all sides alike; PyTorch cannot, so that it pads first.
"""

import numpy as np
import torch
from torch import nn


class TorchNetwork(nn.Module):
    """The same layers, in the same order.

    Args:
        entries: `model.get_config()["layers"]` of a functional Keras model.
        weights: {name of a layer: its `get_weights()`}.
        output: name of the layer whose output is returned.
    """

    def __init__(self, entries, weights, output):
        super().__init__()
        self.layers, self.inputs, self.output = nn.ModuleDict(), {}, output
        for entry in entries:
            name, kind = entry["name"], entry["class_name"]
            self.inputs[name] = _names(entry["inbound_nodes"])
            if kind != "InputLayer":
                make = LAYERS[kind]
                self.layers[name] = make(entry["config"], weights[name])

    def forward(self, tile):
        """(batch, 1, height, width) -> (batch, classes, height, width)."""
        made = {}
        for name, inputs in self.inputs.items():
            made[name] = (
                self.layers[name](*(made[key] for key in inputs)) if inputs else tile
            )
        return made[self.output]


def _names(node):
    """Names of the layers that an entry of Keras' list reads."""
    if isinstance(node, dict):
        history = node.get("config", {}).get("keras_history")
        return [history[0]] if history else _names(node.get("args", []))
    return [name for part in node for name in _names(part)]


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def _convolution(config, weights):
    """Conv2D; what it must pad in front of it."""
    kernel = torch.from_numpy(weights[0]).permute(3, 2, 0, 1)
    size, stride = config["kernel_size"][0], config["strides"][0]
    total = size - stride if config["padding"] == "same" else 0
    if stride == 1:
        total = (size - 1) * config["dilation_rate"][0] if total else 0
    before, after = max(total, 0) // 2, (max(total, 0) + 1) // 2
    layer = nn.Conv2d(
        kernel.shape[1],
        kernel.shape[0],
        size,
        stride,
        before if before == after else 0,
        config["dilation_rate"],
        bias=config["use_bias"],
    )
    _fill(layer, kernel, weights)
    parts = [layer]
    if before != after:
        parts.insert(0, nn.ZeroPad2d((before, after, before, after)))
    if config["activation"] == "relu":
        parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts) if len(parts) > 1 else layer


def _transposed(config, weights):
    """Conv2DTranspose with strides 2, "same": what is beyond twice the size is cut."""
    kernel = torch.from_numpy(weights[0]).permute(3, 2, 0, 1)
    size = config["kernel_size"][0]
    beyond = size - 2
    layer = nn.ConvTranspose2d(*kernel.shape[:2], size, 2, beyond // 2)
    _fill(layer, kernel, weights)
    if beyond % 2 == 0:
        return layer
    return nn.Sequential(layer, Apply(lambda x: x[:, :, :-1, :-1]))


def _fill(layer, kernel, weights):
    with torch.no_grad():
        layer.weight.copy_(kernel)
        if len(weights) > 1:
            layer.bias.copy_(torch.from_numpy(weights[1]))


def _batch_norm(config, weights):
    layer = nn.BatchNorm2d(len(weights[0]), config["epsilon"], 1 - config["momentum"])
    values = layer.weight, layer.bias, layer.running_mean, layer.running_var
    with torch.no_grad():
        for value, array in zip(values, weights, strict=True):
            value.copy_(torch.from_numpy(array))
    return layer


def _padding(config, _):
    (top, bottom), (left, right) = config["padding"]
    return nn.ZeroPad2d((left, right, top, bottom))


def _rescaling(config, _):
    scale, offset = (
        torch.tensor(np.ravel(config[key]), dtype=torch.float32)[:, None, None]
        for key in ("scale", "offset")
    )
    return Apply(lambda x: x * scale + offset)


LAYERS = {
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed,
    "BatchNorm": _batch_norm,
    "BatchNormalization": _batch_norm,
    "ReLU": lambda *_: nn.ReLU(inplace=True),
    "MaxPooling2D": lambda config, _: nn.MaxPool2d(
        config["pool_size"], config["strides"]
    ),
    "Dropout": lambda config, _: nn.Dropout(config["rate"]),
    "ZeroPadding2D": _padding,
    "Rescaling": _rescaling,
    "Concatenate": lambda *_: Apply(lambda *parts: torch.cat(parts, 1)),
    "Add": lambda *_: Apply(torch.add),
}
