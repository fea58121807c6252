"""Trials of recipes for salt-net on a GPU: `search.csv`.

    python tests/benchmarks/search.py trials.json --data-dir data/tgs --slots 8
    python tests/benchmarks/search.py --final --data-dir data/tgs
    python tests/benchmarks/search.py --table outputs/search.jsonl

A trial is a dictionary of changes to `TRIAL`. `--final` trains two networks per fold: a
teacher, and a student that also sees the test tiles, labeled by its fold's teacher; it
writes `submission.csv`, the mean of all ten. A line of JSON per trial has the score of
the fold that was left out (flips averaged, threshold 0.5), and that of each tile.

It is `helpers`' network with its weights, losses, augmentation and Muon once more, in
PyTorch: XLA compiled minutes per trial for them, and on a GPU most time of a step goes
into starting small kernels. Here a step is a CUDA graph, recorded within seconds, and
the graphs of several trials run side by side. Needs `torch`.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from five_folds import summarize
from safetensors.numpy import load_file
from torch import nn

from helpers import data, submission
from helpers.backbones.weights import GEOLOGY
from helpers.config import Settings
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
    "start": "geology",  # or "random"
    "filters": 16,
    "stem": 2,  # stride
    "dropout": 0.0,
    "auxiliary": 0.0,  # weight of the losses of coarser masks
    "split": 0.6,  # fraction of the steps with BCE + Dice; Lovasz with elu + 1 follows
    "rate": 0.01,  # of the first loss; half of it for the second; a cosine each
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


class SaltNet(nn.Module):
    """The row salt-net; layers have the names that they have in Keras."""

    def __init__(self, trial):
        super().__init__()
        self.trial, layers = trial, {}
        filters, channels, skips = trial["filters"], 1, []

        def convolution(inputs, outputs, size, bias):
            return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)

        def block(name, inputs, outputs):
            for n, width in ((1, inputs), (2, outputs)):
                layers[f"{name}_conv{n}"] = convolution(width, outputs, 3, False)
                layers[f"{name}_bn{n}"] = nn.BatchNorm2d(outputs, eps=1e-3)
            if inputs != outputs:
                layers[f"{name}_shortcut"] = convolution(inputs, outputs, 1, True)

        if trial["stem"] > 1:
            width = 2 * trial["stem"] + 1
            layers["stem"] = nn.Conv2d(1, filters, width, trial["stem"])
            channels = filters
        for stage in range(5):
            for number in range(2):
                block(f"encoder{stage}_{number}", channels, filters * 2**stage)
                channels = filters * 2**stage
            skips.append(channels)
        for n, width in enumerate(skips[-2::-1]):
            layers[f"decoder{n}_up"] = nn.ConvTranspose2d(channels, width, 3, 2)
            block(f"decoder{n}", 2 * width, width)
            channels = width
        if trial["stem"] > 1:
            layers["to_128"] = nn.ConvTranspose2d(channels, channels, 4, 2, padding=1)
        layers["logits"] = convolution(channels, 1, 1, True)
        if trial["auxiliary"]:
            for n, width in enumerate(skips[-2::-1]):
                layers[f"auxiliary{n}"] = convolution(width, 1, 1, True)
        self.layers = nn.ModuleDict(layers)
        for layer in layers.values():
            if layer.weight.ndim == 4:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if trial["start"] == "geology":
            self.load(load_file(GEOLOGY))

    def load(self, arrays):
        """Load Keras' kernels, (height, width, in, out), and batch normalization."""
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
        names["running_var"] = "moving_variance"
        for path, value in self.layers.state_dict().items():
            layer, name = path.split(".")
            kernel = {"weight": "kernel"}.get(name, name)
            key = f"{layer}/{names.get(name) if '_bn' in layer else kernel}"
            if name != "num_batches_tracked" and not layer.startswith("auxiliary"):
                array = torch.from_numpy(arrays.pop(key).astype(np.float32))
                value.copy_(array.permute(3, 2, 0, 1) if array.ndim == 4 else array)
        assert not arrays, f"layers of another network: {list(arrays)}"

    def block(self, name, x):
        layers = self.layers
        y = F.relu(layers[f"{name}_bn1"](layers[f"{name}_conv1"](x)))
        y = layers[f"{name}_bn2"](layers[f"{name}_conv2"](y))
        return F.relu(
            y + (layers[short](x) if (short := f"{name}_shortcut") in layers else x)
        )

    def forward(self, x):
        """(n, 1, 128, 128) to logits, (n, 128, 128): a list, auxiliary ones last."""
        layers, rate, stages, skips = self.layers, self.trial["dropout"], [], []
        if self.trial["stem"] > 1:  # Keras' "same" pads one more at the end
            x = layers["stem"](F.pad(x, (1, 2, 1, 2)))
        for stage in range(5):
            if stage:
                x = F.dropout(F.max_pool2d(x, 2), rate, self.training)
            for number in range(2):
                x = self.block(f"encoder{stage}_{number}", x)
            skips.append(x)
        for n, skip in enumerate(skips[-2::-1]):
            x = layers[f"decoder{n}_up"](x)[:, :, :-1, :-1]
            x = F.dropout(torch.cat([x, skip], 1), rate, self.training)
            x = self.block(f"decoder{n}", x)
            stages.append(x)
        if self.trial["stem"] > 1:
            x = F.relu(layers["to_128"](x))
        outputs = [layers["logits"](x)]
        if self.trial["auxiliary"] and self.training:
            for n, y in enumerate(stages):
                y = layers[f"auxiliary{n}"](y).float()
                outputs.append(F.interpolate(y, size=SIZE, mode="bilinear"))
        return [y.float()[:, 0] for y in outputs]


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

    def __init__(self, network, decay):
        self.decay = decay
        self.kernels = [p for p in network.parameters() if p.ndim == 4]
        self.others = [p for p in network.parameters() if p.ndim == 1]
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
        gradients = [p.grad for p in self.others]  # Adam, at a tenth of the rate
        torch._foreach_lerp_(self.mean, gradients, 0.1)
        torch._foreach_mul_(self.square, 0.999)
        torch._foreach_addcmul_(self.square, gradients, gradients, value=0.001)
        root = torch._foreach_sqrt(self.square)
        torch._foreach_add_(root, 1e-7)
        steps = torch._foreach_div(self.mean, root)
        bias = (1 - 0.999 ** (number + 1)).sqrt() / (1 - 0.9 ** (number + 1))
        torch._foreach_mul_(steps, rate * 0.1 * bias)
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
        self.network = SaltNet(trial).to(DEVICE, memory_format=torch.channels_last)
        self.first, rate = rates(trial)
        self.rate = torch.tensor(rate, device=DEVICE)
        self.held = np.flatnonzero(tiles["folds"] == trial["fold"])
        self.images, self.masks = tiles["images"], tiles["masks"]
        self.order = torch.tensor(self._order(), device=DEVICE)
        self.number = torch.zeros(1, dtype=torch.long, device=DEVICE)
        self.optimizer = Muon(self.network, trial["decay"])
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

        known, half = (
            np.flatnonzero(tiles["folds"] != trial["fold"]),
            trial["batch"] // 2,
        )
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
        images, masks = (self.tiles[k][self.held] for k in ("images", "masks"))
        scores = precision(masks > 0, self.predict(images) > 0.5)
        with torch.no_grad():
            for x, value in zip(self.weights(), self.average, strict=True):
                x.copy_(value)
        self.guess = self.predict(images)
        averaged = precision(masks > 0, self.guess > 0.5)
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
    tiles["taught"], tiles["guess"] = {}, {}
    while waiting or active:
        for trial in list(waiting):
            taught = tiles["taught"].get(trial["fold"], [])
            if len(active) < slots and len(taught) >= trial["teachers"]:
                waiting.remove(trial)
                active.append(Run(trial, tiles))
        if not active:
            raise ValueError(f"no teachers for {waiting[0]['name']}")
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
    """A teacher and a student per fold; the mean of all ten is the submission."""
    trials = [
        ROW | {"name": name, "role": name, "fold": k, "seed": seed + k, "teachers": n}
        for name, seed, n in (("teacher", 10, 0), ("teacher.student", 20, 1))
        for k in range(5)
    ]
    search(trials, tiles, out, slots=5)
    scores = [
        precision(tiles["masks"][tiles["folds"] == k] > 0, torch.stack(x).mean(0) > 0.5)
        for k, x in sorted(tiles["guess"].items())
    ]
    scores = torch.cat(scores).tolist()
    print("both networks of each fold, on the tiles left out:", np.mean(scores))
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", nargs="?", type=Path, help="a list of dictionaries")
    parser.add_argument("--final", action="store_true")
    parser.add_argument("--table", nargs="+", type=Path, help="lines of trials to add")
    parser.add_argument("--data-dir", default="data/tgs")
    parser.add_argument("--out", type=Path, default=Path("outputs/search.jsonl"))
    parser.add_argument("--slots", type=int, default=8, help="trials side by side")
    args = parser.parse_args()
    if args.table:
        return table(args.table)
    if not args.trials and not args.final:
        parser.error("give a file of trials, or --final")
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
    args.out.parent.mkdir(exist_ok=True)
    if args.final:
        return final(tiles, test.ids, args.out)
    search(json.loads(args.trials.read_text()), tiles, args.out, args.slots)


if __name__ == "__main__":
    main()
