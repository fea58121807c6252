"""Trials of recipes for salt-net on a GPU: `search.csv`.

    python tests/benchmarks/search.py trials.json --data-dir data/tgs --slots 8
    python tests/benchmarks/search.py --final --data-dir data/tgs
    python tests/benchmarks/search.py --geology salt-net.safetensors --data-dir data/tgs
    python tests/benchmarks/search.py --table outputs/search.jsonl

A trial is a dictionary of changes to `TRIAL`. `--final` trains three networks per fold:
salt-net, a U-Net on VGG16 from photographs, and a second salt-net, which also sees the
test tiles, labeled by the first two; it writes `submission.csv`, the mean of all
fifteen. `--geology` makes the weights that salt-net comes with. A line of JSON per
trial has the score of the fold that was left out (flips averaged, threshold 0.5), and
that of each tile; of a trial on synthetic tiles, those of all real tiles, by the
averaged weights.

It is `helpers`' network with its weights, losses, augmentation and Muon once more, in
PyTorch: XLA compiled minutes per trial for them, and on a GPU most time of a step goes
into starting small kernels. Here a step is a CUDA graph, recorded within seconds, and
the graphs of several trials run side by side. Needs `torch`.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the course, and tests

import numpy as np
import pandas as pd
import pretrain
import torch
import torch.nn.functional as F
from five_folds import summarize
from safetensors.numpy import load_file, save_file
from torch import nn

from helpers import data, submission
from helpers.backbones.weights import GEOLOGY
from helpers.config import Settings
from helpers.encoders import build_encoder
from helpers.inference import bootstrap_ci
from helpers.utils.files import atomic_write

TABLE = Path(__file__).with_name("search.csv")
FIVE_FOLDS = Path(__file__).parents[2] / "notebooks" / "five_folds.csv"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUDA = DEVICE == "cuda"
CHUNK = 10  # steps that are queued together
TILE, SIZE, BEFORE, AFTER = 101, 128, 13, 14
TRIAL = {  # the row before this search
    "name": "base",
    "fold": 0,  # left out
    "seed": 0,
    "steps": 1886,  # 82 are an epoch
    "batch": 32,
    "network": "salt-net",  # or "vgg16": its encoder, with salt-net's decoder
    "tiles": "real",  # or "synthetic": all of them, and all real ones are left out
    "start": "geology",  # or "random", "photographs", or the name of a synthetic trial
    "filters": 16,
    "stem": 2,  # stride
    "dropout": 0.0,
    "auxiliary": 0.0,  # weight of the losses of coarser masks
    "split": 0.6,  # fraction of the steps with BCE + Dice; Lovasz with elu + 1 follows
    "rate": 0.01,  # of the first loss; half of it for the second; a cosine each
    "encoder": 0.0,  # part of it for VGG16's encoder, by Adam; 0: Muon as elsewhere
    "warm_up": 100,
    "decay": 0.01,
    "average": 0.999,  # decay of the moving average of the weights, scored as well
    "zoom": 0.1,
    "shift": 0.06,
    "crop": 0.0,  # half of the tiles are cropped, to a side of 1 - crop or more
    "rotation": 0.0,
    "elastic": 0.0,
    "brightness": 0.08,
    "contrast": 0.1,
    "gamma": 0.1,
    "cutmix": 0.0,  # fraction with a rectangle of another tile (arXiv:1905.04899)
    "teachers": 0,  # half of each batch are test tiles, labeled by so many networks
    "role": "",  # in `--final`: it predicts the test tiles, too
}
ROW = {"zoom": 0.2, "shift": 0.1, "contrast": 0.2, "gamma": 0.2}
ROW |= {"split": 0.3, "decay": 0.05, "steps": 9500}
SYNTHETIC = {"tiles": "synthetic", "seed": pretrain.SEED, "brightness": 0.15}
SYNTHETIC |= {"shift": 0.1, "contrast": 0.4, "gamma": 0.4}
GEOLOGY_ROW = {"name": "geology", "start": "random", "rate": 0.02, "steps": 14_000}
GEOLOGY_ROW |= SYNTHETIC | {"zoom": 0.6, "decay": 0.05, "dropout": 0.1}
VGG = {"network": "vgg16", "encoder": 0.02}
VGG_GEOLOGY = VGG | SYNTHETIC | {"name": "vgg16geology", "start": "photographs"}
VGG_GEOLOGY |= {"zoom": 0.25, "steps": 2000}
VGG_ROW = ROW | VGG | {"name": "vgg16", "start": "vgg16geology", "steps": 5000}


def convolution(inputs, outputs, size, bias):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)


class SaltNet(nn.Module):
    """The row salt-net; layers have the names that they have in Keras."""

    def __init__(self, trial):
        super().__init__()
        self.trial, self.layers = trial, nn.ModuleDict()
        skips = self.add_encoder()
        channels = skips[-1]
        self.widths = self.decoder_widths(skips)
        for n, (skip, width) in enumerate(zip(skips[-2::-1], self.widths, strict=True)):
            self.layers[f"decoder{n}_up"] = nn.ConvTranspose2d(channels, width, 3, 2)
            self.add_block(f"decoder{n}", width + skip, width)
            channels = width
        if self.strided:
            up = nn.ConvTranspose2d(channels, channels, 4, 2, padding=1)
            self.layers["to_128"] = up
        self.layers["logits"] = convolution(channels, 1, 1, True)
        if trial["auxiliary"]:
            for n, width in enumerate(self.widths):
                self.layers[f"auxiliary{n}"] = convolution(width, 1, 1, True)
        for layer in self.layers.values():
            if layer.weight.ndim == 4:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def strided(self):
        return self.trial["stem"] > 1

    def decoder_widths(self, skips):
        return skips[-2::-1]

    def add_block(self, name, inputs, outputs):
        for n, width in ((1, inputs), (2, outputs)):
            self.layers[f"{name}_conv{n}"] = convolution(width, outputs, 3, False)
            self.layers[f"{name}_bn{n}"] = nn.BatchNorm2d(outputs, eps=1e-3)
        if inputs != outputs:
            self.layers[f"{name}_shortcut"] = convolution(inputs, outputs, 1, True)

    def add_encoder(self):
        """Add its layers; the channels of its feature maps, finest first."""
        filters, stem, channels = self.trial["filters"], self.trial["stem"], 1
        if self.strided:
            self.layers["stem"] = nn.Conv2d(1, filters, 2 * stem + 1, stem)
            channels = filters
        for stage in range(5):
            for number in range(2):
                name = f"encoder{stage}_{number}"
                self.add_block(name, channels, filters * 2**stage)
                channels = filters * 2**stage
        return [filters * 2**stage for stage in range(5)]

    def keys(self):
        """Keras' names of the weights, (height, width, in, out): (key, tensor) each."""
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
        names["running_var"] = "moving_variance"
        for path, value in self.layers.state_dict().items():
            layer, name = path.split(".")
            kernel = {"weight": "kernel"}.get(name, name)
            if name != "num_batches_tracked" and not layer.startswith("auxiliary"):
                key = f"{layer}/{names.get(name) if '_bn' in layer else kernel}"
                yield key, value.permute(2, 3, 1, 0) if value.ndim == 4 else value

    def load(self, arrays):
        for key, value in self.keys():
            value.copy_(torch.from_numpy(arrays.pop(key).astype(np.float32)))
        assert not arrays, f"layers of another network: {list(arrays)}"

    def save(self, path, **metadata):
        """As `tests/pretrain.py` does."""
        arrays = {
            key: np.array(value.cpu(), "f4" if "moving" in key else "f2", order="C")
            for key, value in self.keys()
        }
        save_file(arrays, path, metadata=metadata)

    def block(self, name, x):
        layers = self.layers
        y = F.relu(layers[f"{name}_bn1"](layers[f"{name}_conv1"](x)))
        y = layers[f"{name}_bn2"](layers[f"{name}_conv2"](y))
        return F.relu(
            y + (layers[short](x) if (short := f"{name}_shortcut") in layers else x)
        )

    def encode(self, x):
        rate, skips = self.trial["dropout"], []
        if self.strided:  # Keras' "same" pads one more at the end
            x = self.layers["stem"](F.pad(x, (1, 2, 1, 2)))
        for stage in range(5):
            if stage:
                x = F.dropout(F.max_pool2d(x, 2), rate, self.training)
            for number in range(2):
                x = self.block(f"encoder{stage}_{number}", x)
            skips.append(x)
        return skips

    def forward(self, x):
        """(n, 1, 128, 128) to logits, (n, 128, 128): a list, auxiliary ones last."""
        layers, rate, stages = self.layers, self.trial["dropout"], []
        *skips, x = self.encode(x)
        for n, skip in enumerate(skips[::-1]):
            x = layers[f"decoder{n}_up"](x)[:, :, :-1, :-1]
            x = F.dropout(torch.cat([x, skip], 1), rate, self.training)
            x = self.block(f"decoder{n}", x)
            stages.append(x)
        if self.strided:
            x = F.relu(layers["to_128"](x))
        outputs = [layers["logits"](x)]
        if self.trial["auxiliary"] and self.training:
            for n, y in enumerate(stages):
                y = layers[f"auxiliary{n}"](y).float()
                outputs.append(F.interpolate(y, size=SIZE, mode="bilinear"))
        return [y.float()[:, 0] for y in outputs]


class Vgg16UNet(SaltNet):
    """Keras' VGG16 as the encoder, and salt-net's decoder at half the skips' width."""

    strided = False

    def decoder_widths(self, skips):
        return [width // 2 for width in skips[-2::-1]]

    def add_encoder(self):
        widths, channels = [64, 128, 256, 512, 512], 3
        for stage, width in enumerate(widths, 1):
            for n in range(1, 3 + (stage > 2)):
                layer = convolution(channels, width, 3, True)
                self.layers[f"block{stage}_conv{n}"] = layer
                channels = width
        mean = torch.tensor([103.939, 116.779, 123.68])[:, None, None]  # BGR
        self.register_buffer("mean", mean, persistent=False)
        return widths

    def load_photographs(self):
        model = build_encoder("vgg16", weights="photographs")
        for name, layer in self.layers.items():
            if name.startswith("block"):
                arrays = model.get_layer(name).get_weights()
                kernel, bias = map(torch.from_numpy, arrays)
                layer.weight.data.copy_(kernel.permute(3, 2, 0, 1))
                layer.bias.data.copy_(bias)

    def encode(self, x):
        x, skips = 255 * x - self.mean, []
        for stage in range(1, 6):
            x = F.max_pool2d(x, 2) if stage > 1 else x
            for n in range(1, 3 + (stage > 2)):
                x = F.relu(self.layers[f"block{stage}_conv{n}"](x))
            skips.append(x)
        return skips


NETWORKS = {"salt-net": SaltNet, "vgg16": Vgg16UNet}


def build(trial, trained):
    """The network of a trial with the weights that it starts from."""
    network = NETWORKS[trial["network"]](trial)
    if trial["start"] == "geology":
        network.load(load_file(GEOLOGY))
    elif trial["start"] == "photographs":
        network.load_photographs()
    elif trial["start"] != "random":
        network.load_state_dict(trained[trial["start"]])
    return network.to(DEVICE, memory_format=torch.channels_last)


def bce_dice(logits, labels):
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels)
    p, labels = torch.sigmoid(logits).flatten(1), labels.flatten(1)
    both, total = (p * labels).sum(1), p.sum(1) + labels.sum(1)
    return cross_entropy + (1 - (2 * both + 1) / (total + 1)).mean()


def lovasz_elu(logits, labels):
    logits, labels = logits.flatten(1), labels.flatten(1)
    errors = 1 - logits * (2 * labels - 1)
    order = torch.argsort(errors.detach(), dim=1, descending=True)
    errors, labels = errors.gather(1, order), labels.gather(1, order)
    salt = labels.sum(1, keepdim=True)
    jaccard = 1 - (salt - labels.cumsum(1)) / (salt + (1 - labels).cumsum(1))
    steps = jaccard - F.pad(jaccard[:, :-1], (1, 0))
    return ((F.elu(errors) + 1) * steps).sum(1).mean()


def augment(images, masks, trial):
    """uint8 (n, 101, 101), masks 0 or 255, to float32 (n, [1,] 128, 128)."""
    n, center = len(images), (TILE - 1) / 2

    def uniform(low=-1.0):
        return (torch.rand(n, device=DEVICE) * (1 - low) + low)[:, None, None]

    side = 1 - trial["crop"] * uniform(0) * (uniform(0) < 0.5)
    scale, room = side / (1 + trial["zoom"] * uniform()), (1 - side) * TILE / 2
    shift_x, shift_y = (
        room * uniform() + trial["shift"] * TILE * uniform() for _ in range(2)
    )
    place = torch.arange(SIZE, device=DEVICE) - BEFORE - center
    mirror = torch.where(uniform(0) < 0.5, -1.0, 1.0)
    x, y = place.expand(n, SIZE, SIZE) * mirror, place[:, None].expand(n, SIZE, SIZE)
    angle = math.radians(trial["rotation"]) * uniform()
    cos, sin = torch.cos(angle), torch.sin(angle)
    u = scale * (cos * x - sin * y) + shift_x
    v = scale * (sin * x + cos * y) + shift_y
    if trial["elastic"]:
        coarse = torch.randn(n, 2, 7, 7, device=DEVICE) * trial["elastic"] * TILE
        bend = F.interpolate(coarse, size=SIZE, mode="bicubic", align_corners=True)
        bend = bend * (uniform(0) < 0.5)[:, None]
        u, v = u + bend[:, 0], v + bend[:, 1]
    tiles = torch.stack([images, masks], 1).float()
    grid = torch.stack([u, v], -1) / center
    tiles = F.grid_sample(tiles, grid, padding_mode="reflection", align_corners=True)
    images, masks = tiles[:, 0] / 255, (tiles[:, 1] > 127.5).float()
    images = images.clamp(1e-4, 1) ** ((1 + trial["gamma"]) ** uniform())
    images = (images - 0.5) * (1 + trial["contrast"] * uniform()) + 0.5
    images = (images + trial["brightness"] * uniform()).clamp(0, 1)
    if trial["cutmix"]:
        center_x, center_y, width, height = (uniform(0) * SIZE for _ in range(4))
        near = torch.arange(SIZE, device=DEVICE)
        inside = (near - center_x).abs() < 0.35 * width + 5
        inside = inside & ((near[:, None] - center_y).abs() < 0.35 * height + 5)
        inside = inside & (uniform(0) < trial["cutmix"])
        images, masks = (torch.where(inside, z.roll(1, 0), z) for z in (images, masks))
    return images[:, None], masks


class Muon:
    """As `helpers.training.muon`; kernels of about equal size share their launches."""

    def __init__(self, network, decay, encoder):
        self.decay = decay
        self.kernels, self.others, self.parts = [], [], []
        for name, p in network.named_parameters():
            known = encoder and name.startswith("layers.block")
            if p.ndim == 4 and not known:
                self.kernels.append(p)
            else:
                self.others.append(p)
                self.parts.append(encoder if known else 0.1)
        self.momentum = [torch.zeros_like(p) for p in self.kernels]
        self.mean = [torch.zeros_like(p) for p in self.others]
        self.square = [torch.zeros_like(p) for p in self.others]
        self.shapes = [(len(p), p.numel() // len(p)) for p in self.kernels]
        groups = {}
        for n, shape in enumerate(self.shapes):
            groups.setdefault(2 ** max(4, (min(shape) - 1).bit_length()), []).append(n)
        self.buffers, self.place = {}, {}
        for size, members in groups.items():
            longest = max(max(self.shapes[n]) for n in members)
            self.buffers[size] = torch.zeros(len(members), size, longest, device=DEVICE)
            self.place |= {n: (size, k) for k, n in enumerate(members)}

    def state(self):
        return [*self.momentum, *self.mean, *self.square]

    def view(self, n, buffers):
        """The part of a padded buffer that is kernel n."""
        size, k = self.place[n]
        (rows, columns), kernel = self.shapes[n], self.kernels[n]
        matrix = buffers[size][k]
        tall = rows > columns
        matrix = matrix[:columns, :rows].mT if tall else matrix[:rows, :columns]
        shape = kernel.shape[2], kernel.shape[3], kernel.shape[1]
        return matrix.unflatten(1, shape).permute(0, 3, 1, 2)

    def step(self, rate, number):
        gradients = [p.grad for p in self.kernels]
        torch._foreach_mul_(self.momentum, 0.95)
        torch._foreach_add_(self.momentum, gradients)
        ahead = torch._foreach_add(gradients, self.momentum, alpha=0.95)
        for n, part in enumerate(ahead):
            self.view(n, self.buffers).copy_(part)
        done = {}
        for size, x in self.buffers.items():
            x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
            x = x.bfloat16() if CUDA else x
            for _ in range(5):
                a = x @ x.mT
                b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
                x = torch.baddbmm(x, b, x, beta=3.4445)
            done[size] = x.float()
        torch._foreach_mul_(self.kernels, 1 - rate * self.decay)
        for n, kernel in enumerate(self.kernels):
            rows, columns = self.shapes[n]
            scale = max(1, columns / rows) ** 0.5
            kernel.addcmul_(self.view(n, done), -rate, value=scale)
        gradients = [p.grad for p in self.others]  # Adam, at a part of the rate
        torch._foreach_lerp_(self.mean, gradients, 0.1)
        torch._foreach_mul_(self.square, 0.999)
        torch._foreach_addcmul_(self.square, gradients, gradients, value=0.001)
        root = torch._foreach_sqrt(self.square)
        torch._foreach_add_(root, 1e-7)
        steps = torch._foreach_div(self.mean, root)
        bias = (1 - 0.999 ** (number + 1)).sqrt() / (1 - 0.9 ** (number + 1))
        torch._foreach_mul_(steps, self.parts)
        torch._foreach_mul_(steps, rate * bias)
        torch._foreach_sub_(self.others, steps)


def rates(trial):
    """Number of steps with the first loss, and the learning rate of every step."""
    first = round(trial["split"] * trial["steps"])
    parts = ((first, trial["rate"]), (trial["steps"] - first, trial["rate"] / 2))
    curves = [r * (1 + np.cos(np.pi * np.arange(n) / max(n, 1))) / 2 for n, r in parts]
    rise = np.minimum((np.arange(trial["steps"]) + 1) / trial["warm_up"], 1)
    return first, (rise * np.concatenate(curves)).astype(np.float32)


def precision(masks, guess):
    """As `helpers.metrics.precision_per_image`, on the device."""
    masks, guess = masks.flatten(1), guess.flatten(1)
    both, either = (masks & guess).sum(1).float(), (masks | guess).sum(1).float()
    iou = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    thresholds = torch.arange(10, device=DEVICE) * 0.05 + 0.5
    scores = (iou[:, None] > thresholds).float().mean(1)
    return torch.where(masks.any(1), scores, (either == 0).float())


class Run:
    """One trial, a few steps at a time."""

    def __init__(self, trial, tiles):
        self.trial, self.tiles = trial, tiles
        torch.manual_seed(trial["seed"] + 1000 * trial["fold"])
        self.network = build(trial, tiles["trained"])
        self.first, rate = rates(trial)
        self.rate = torch.tensor(rate, device=DEVICE)
        self.known = tiles["folds"] != trial["fold"]
        self.images, self.masks = tiles["images"], tiles["masks"]
        if trial["tiles"] == "synthetic":
            self.images, self.masks = tiles["synthetic"]
            self.known = np.zeros(len(tiles["folds"]), bool)
        self.order = torch.tensor(self._order(), device=DEVICE)
        self.number = torch.zeros(1, dtype=torch.long, device=DEVICE)
        self.optimizer = Muon(self.network, trial["decay"], trial["encoder"])
        self.average = [x.detach().clone() for x in self.weights()]
        self.done, self.queued, self.graphs = 0, [], {}
        self.stream = torch.cuda.Stream() if CUDA else None
        self.began = time.time()

    def _order(self):
        """The tiles of every step, (steps, batch)."""
        trial, tiles = self.trial, self.tiles
        rng = np.random.default_rng(trial["seed"])

        def shuffled(pool, count):
            rounds = -(-trial["steps"] * count // len(pool))
            order = np.concatenate([rng.permutation(pool) for _ in range(rounds)])
            return order[: trial["steps"] * count].reshape(-1, count)

        known, half = np.flatnonzero(self.known), trial["batch"] // 2
        if trial["tiles"] == "synthetic":
            return shuffled(np.arange(len(self.images)), trial["batch"])
        if not trial["teachers"]:
            return shuffled(known, trial["batch"])
        guess = torch.stack(tiles["taught"][trial["fold"]]).mean(0) > 0.5
        self.images = torch.cat([tiles["images"], tiles["test"]])
        self.masks = torch.cat([tiles["masks"], (guess * 255).byte()])
        test = np.arange(len(tiles["test"])) + len(tiles["images"])
        return np.concatenate([shuffled(test, half), shuffled(known, half)], 1)

    def weights(self):
        buffers = [x for x in self.network.buffers() if x.is_floating_point()]
        return [*self.network.parameters(), *buffers]

    def step(self, loss):
        """One step; all that changes from step to step is on the device."""
        chosen = self.order.index_select(0, self.number)[0]
        rate = self.rate.index_select(0, self.number)[0]
        x, y = (z.index_select(0, chosen) for z in (self.images, self.masks))
        x, y = augment(x, y, self.trial)
        x = x.to(memory_format=torch.channels_last)
        with torch.autocast(DEVICE, torch.bfloat16, CUDA, cache_enabled=False):
            outputs = self.network(x)
        value = loss(outputs[0], y)
        for part in outputs[1:]:
            value = value + self.trial["auxiliary"] / 4 * loss(part, y)
        self.network.zero_grad()
        value.backward()
        with torch.no_grad():
            self.optimizer.step(rate, self.number.float()[0])
            soon = (1 + self.number[0]) / (10 + self.number[0])
            keep = soon.clamp(max=self.trial["average"])
            torch._foreach_mul_(self.average, keep)
            new = torch._foreach_mul(self.weights(), 1 - keep)
            torch._foreach_add_(self.average, new)
            self.number += 1

    def record(self, loss):
        """Record a step as a CUDA graph, and undo the steps that it took to warm up."""
        state = [*self.weights(), *self.average, *self.optimizer.state(), self.number]
        before = [x.detach().clone() for x in state]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self.step(loss)
        torch.cuda.synchronize()
        self.graphs[loss] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graphs[loss], stream=self.stream):
            self.step(loss)
        with torch.no_grad():
            for x, value in zip(state, before, strict=True):
                x.copy_(value)
        torch.cuda.synchronize()

    def advance(self):
        """Queue some steps, unless enough of them are waiting."""
        if len(self.queued) == 2:
            if not self.queued[0].query():
                return False
            self.queued.pop(0)
        loss = bce_dice if self.done < self.first else lovasz_elu
        end = self.first if self.done < self.first else self.trial["steps"]
        count = min(CHUNK, end - self.done)
        if not CUDA:
            for _ in range(count):
                self.step(loss)
        else:
            if loss not in self.graphs:
                self.record(loss)
            with torch.cuda.stream(self.stream):
                for _ in range(count):
                    self.graphs[loss].replay()
                self.queued.append(self.stream.record_event())
        self.done += count
        return True

    def predict(self, images):
        """Mean of tile and mirror image: float (n, 101, 101)."""
        result = []
        self.network.eval()
        for part in images.split(250):
            x = F.pad(part[:, None] / 255.0, (BEFORE, AFTER) * 2, mode="reflect")
            x = x.to(memory_format=torch.channels_last)
            with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, CUDA):
                one, two = self.network(x)[0], self.network(x.flip(3))[0].flip(2)
            mean = (torch.sigmoid(one) + torch.sigmoid(two)) / 2
            result.append(mean[:, BEFORE:-AFTER, BEFORE:-AFTER])
        return torch.cat(result)

    def finish(self):
        """Score the fold that was left out: dict. The averaged weights remain."""
        if CUDA:
            self.stream.synchronize()
        held = np.flatnonzero(~self.known)
        images, masks = (self.tiles[k][held] for k in ("images", "masks"))
        scores = precision(masks > 0, self.predict(images) > 0.5)
        with torch.no_grad():
            for x, value in zip(self.weights(), self.average, strict=True):
                x.copy_(value)
        self.guess = self.predict(images)
        averaged = precision(masks > 0, self.guess > 0.5)
        if self.trial["tiles"] == "synthetic":
            scores = averaged
            self.tiles["trained"][self.trial["name"]] = self.network.state_dict()
        return {
            "trial": self.trial,
            "score": round(float(scores.mean()), 4),
            "averaged": round(float(averaged.mean()), 4),
            "seconds": round(time.time() - self.began, 1),
            "empty": (masks == 0).all(2).all(1).tolist(),
            "tiles": [round(x, 1) for x in scores.tolist()],
        }


def search(trials, tiles, out, slots):
    """Run all trials, a number of them side by side; a line of JSON each."""
    waiting, active = [TRIAL | trial for trial in trials], []
    tiles |= {"taught": {}, "guess": {}, "trained": {}}
    known = {"geology", "random", "photographs"}
    while waiting or active:
        for trial in list(waiting):
            taught = tiles["taught"].get(trial["fold"], [])
            ready = trial["start"] in known | set(tiles["trained"])
            ready = ready and len(taught) >= trial["teachers"]
            if len(active) < slots and ready:
                waiting.remove(trial)
                active.append(Run(trial, tiles))
        if not active:
            name = waiting[0]["name"]
            raise ValueError(f"{name}: no such start, or too few teachers")
        moved = [run.advance() for run in active]
        if not any(moved):
            time.sleep(0.002)
        for run in [run for run in active if run.done == run.trial["steps"]]:
            active.remove(run)
            row, trial = run.finish(), run.trial
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            del row["trial"], row["tiles"], row["empty"]
            print(trial["name"], "fold", trial["fold"], row, flush=True)
            if trial["role"]:
                guess = run.predict(tiles["test"])
                tiles["taught"].setdefault(trial["fold"], []).append(guess)
                tiles["guess"].setdefault(trial["fold"], []).append(run.guess)


def final(tiles, ids, out):
    """Two teachers and a student per fold: the submission is the mean of all."""
    trials = [VGG_GEOLOGY]
    for name, row, seed, teachers in (
        ("teacher", ROW, 10, 0),
        ("vgg16", VGG_ROW, 10, 0),
        ("teacher.student", ROW, 20, 2),
    ):
        role = {"name": name, "role": name, "teachers": teachers}
        trials += [row | role | {"fold": k, "seed": seed + k} for k in range(5)]
    search(trials, tiles, out, slots=10)
    scores = [
        precision(tiles["masks"][tiles["folds"] == k] > 0, torch.stack(x).mean(0) > 0.5)
        for k, x in sorted(tiles["guess"].items())
    ]
    scores = torch.cat(scores).tolist()
    print("the three networks of each fold, on the tiles left out:", np.mean(scores))
    print("95 %:", bootstrap_ci(np.array(scores)))
    networks = [x for members in tiles["taught"].values() for x in members]
    guess = torch.stack(networks).mean(0).cpu().numpy()
    submission.write_submission(out.with_name("submission.csv"), ids, guess > 0.5)


def table(paths):
    """Add trials to `search.csv`, with intervals paired by tile.

    Trials that are named "a.b" are compared with "a". From `--final`, notebook 05's
    table is made, too.
    """
    runs = {}
    for path in paths:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            runs.setdefault(row["trial"]["name"], {})[row["trial"]["fold"]] = row
    lines = []
    for name, folds in runs.items():
        base = runs.get(name.rpartition(".")[0], {})
        for _, row in sorted(folds.items()):
            trial, against = row["trial"], {}
            if both := sorted(set(folds) & set(base)):
                tiles = (
                    np.concatenate([x[k]["tiles"] for k in both]) for x in (folds, base)
                )
                difference = np.subtract(*tiles)
                low, high = bootstrap_ci(difference)
                against = {"against base": difference.mean(), "low": low, "high": high}
            changes = {k: v for k, v in trial.items() if v != TRIAL[k]}
            for key in ("name", "fold", "seed", "steps", "role"):
                changes.pop(key, None)
            words = ", ".join(f"{k} {v}" for k, v in changes.items()) or "none"
            known = {k: trial[k] for k in ("fold", "seed", "steps")}
            line = {"trial": name, "changes": f"GPU: {words}"} | known
            lines.append(line | {"score": row["score"]} | against)
    if len(teachers := dict(sorted(runs.get("teacher", {}).items()))) == 5:
        folds = {k: (x["tiles"], x["empty"]) for k, x in teachers.items()}
        folds = {k: tuple(map(np.array, parts)) for k, parts in folds.items()}
        write(summarize(folds), FIVE_FOLDS)
    rows = pd.concat([pd.read_csv(TABLE), pd.DataFrame(lines)])
    rows = rows.drop_duplicates(["trial", "fold", "seed", "steps"], keep="last")
    write(rows, TABLE)


def write(rows, path):
    with atomic_write(path) as draft:
        rows.to_csv(draft, index=False, float_format="%.4f")


def synthetic(count):
    """The first tiles of `tests/pretrain.py`, on the device: images and masks."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context) as pool:
        parts = list(pool.map(pretrain.chunk, range(count // pretrain.CHUNK)))
    images, masks = map(np.concatenate, zip(*parts, strict=True))
    masks = masks * np.uint8(255)
    return torch.from_numpy(images).to(DEVICE), torch.from_numpy(masks).to(DEVICE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", nargs="?", type=Path, help="a list of dictionaries")
    parser.add_argument("--final", action="store_true")
    parser.add_argument("--geology", type=Path, help="a .safetensors to write")
    parser.add_argument("--table", nargs="+", type=Path, help="lines of trials to add")
    parser.add_argument("--data-dir", default="data/tgs")
    parser.add_argument("--out", type=Path, default=Path("outputs/search.jsonl"))
    parser.add_argument("--slots", type=int, default=8, help="trials side by side")
    args = parser.parse_args()
    if args.table:
        return table(args.table)
    if not (args.trials or args.final or args.geology):
        parser.error("give a file of trials, --final or --geology")
    trials = json.loads(args.trials.read_text()) if args.trials else [GEOLOGY_ROW]
    choice = {"SALT_DATA_DIR": args.data_dir, "SALT_PROFILE": "full"}  # all tiles
    settings = Settings.from_env(choice)
    known, test = data.load_tiles(settings), data.load_test_tiles(settings)
    torch.backends.cudnn.benchmark = True
    tiles = {
        "images": torch.from_numpy(known.images).to(DEVICE),
        "masks": torch.from_numpy(known.masks * np.uint8(255)).to(DEVICE),
        "test": torch.from_numpy(test.images).to(DEVICE),
        "folds": data.make_folds(known, seed=settings.seed),
    }
    if args.final or any(x.get("tiles") == "synthetic" for x in trials):
        tiles["synthetic"] = synthetic(96_000)
    args.out.parent.mkdir(exist_ok=True)
    if args.final:
        return final(tiles, test.ids, args.out)
    search(trials, tiles, args.out, args.slots)
    if args.geology:
        network = SaltNet(TRIAL | GEOLOGY_ROW)
        network.load_state_dict(tiles["trained"]["geology"])
        count = str(len(tiles["synthetic"][0]))
        network.save(args.geology, tiles=count, seed=str(pretrain.SEED))


if __name__ == "__main__":
    main()
