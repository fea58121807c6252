"""What augmentation and the Lovasz loss add to the time of training.

Usage: python tests/benchmarks/training_speed.py [--rounds 5] [--tiles 320]

On the fastest network there is, where they weigh most, at batch 32 and 128 x 128:

- an epoch of augmented batches over one of the same batches, made beforehand.
  Promised: 1.10 or less.
- a step under a Lovasz loss of each image over one under binary cross-entropy.
  Promised: 1.15 or less.

The variants take turns. Printed are the median times by the clock and the ratio
of each round, and the ratio of the processor's time, which other work on the machine
disturbs less.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from helpers.utils import hardware

keras = hardware.load_keras()
from input_pipeline import DISTORTED, FULL, OLSEN

from helpers import losses, systems, training
from helpers.batches import TileBatches
from helpers.metrics import CompetitionScore, MeanTileIoU

SYSTEM = systems.get("salt-net")
BATCH = 32


class Ready(keras.utils.PyDataset):
    """Batches made beforehand."""

    def __init__(self, batches):
        super().__init__()
        self.batches = [batches[index] for index in range(len(batches))]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def compiled(network, policy, loss, metrics=()):
    """The network, compiled as `training` compiles it."""
    with hardware.precision(policy):
        model = keras.Model(network.input, network.output)
        model.compile(
            keras.optimizers.Adam(1e-4),
            losses.get(loss),
            metrics=list(metrics),
            jit_compile=hardware.jit_compile(),
        )
    return model


def in_turn(ways, rounds):
    """{name: (2, rounds) seconds, by the clock and of the processor}, warmed up."""
    times = {name: [] for name in ways}
    for turn in range(1 + rounds):
        for name, function in ways.items():
            start = time.perf_counter(), time.process_time()
            function()
            if turn:
                end = time.perf_counter(), time.process_time()
                times[name].append(np.subtract(end, start))
    return {name: np.array(taken).T for name, taken in times.items()}


def report(title, times):
    """A line for each way but the first, which the others are compared with."""
    (plain, usual), *others = times.items()
    print(title)
    for name, taken in others:
        clock, processor = taken / usual
        print(
            f"  {name:24} {1000 * np.median(taken[0]):7.0f} ms"
            f"   {plain} {1000 * np.median(usual[0]):7.0f} ms"
            f"   {np.median(clock):5.2f} x ({clock.min():.2f} to {clock.max():.2f})"
            f"   processor {np.median(processor):5.2f} x",
            flush=True,
        )


def epochs(network, policy, rounds, count):
    """Epochs of augmented batches against epochs of ready ones."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 101, 101)).astype(np.uint8)
    metrics = CompetitionScore(SYSTEM.transform), MeanTileIoU(SYSTEM.transform)
    model = compiled(network, policy, "bce+dice", metrics)
    changes = {
        "one affine, tone curves": FULL,
        "Olsen's list": OLSEN,
        "everything everywhere": DISTORTED,
    }
    sets = {
        name: TileBatches(images, images > 128, SYSTEM.transform, BATCH, augmentation)
        for name, augmentation in changes.items()
    }
    sets = {"ready": Ready(sets["one affine, tone curves"]), **sets}
    ways = {
        name: lambda batches=batches: model.fit(batches, shuffle=False, verbose=0)
        for name, batches in sets.items()
    }
    report(f"epoch of {count} tiles, {policy}", in_turn(ways, rounds))


def steps(network, policy, rounds, count=4):
    """Steps under one loss against steps under another."""
    rng = np.random.default_rng(0)
    images = rng.random((BATCH, 128, 128, 1), np.float32)
    masks = (images > 0.7).astype(np.float32)

    def several(model):
        for _ in range(count):
            model.train_on_batch(images, masks)

    models = {name: compiled(network, policy, name) for name in LOSSES}
    ways = {name: lambda model=model: several(model) for name, model in models.items()}
    report(f"{count} steps, {policy}", in_turn(ways, rounds))


LOSSES = ("bce", "lovasz", "lovasz-elu")


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=320)
    arguments = parser.parse_args()
    for policy in ("float32", hardware.half_precision()):
        network = training.build_model(SYSTEM, policy)
        epochs(network, policy, arguments.rounds, arguments.tiles)
        steps(network, policy, arguments.rounds)


if __name__ == "__main__":
    main()
