"""Prediction of many tiles with flips against the bare network on ready batches.

Usage: python tests/benchmarks/prediction.py [--tiles 1024] [--system salt-net]

The bare network predicts batches that are in memory, of several sizes; the best size
counts. Ours starts with native uint8 tiles and ends with native probabilities, each
tile and its flip. Both in turn, in the precision that we choose for the machine.
Prints network passes a second and, from each round, our rate over the bare network's
best. Promised: 0.95 or more, for the competition's 18,000 tiles as for fewer.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from helpers.utils import hardware

hardware.load_keras()
from helpers import inference, systems, training

SIZES = (8, 16, 32, 64, 128)  # of a batch


def rate(passes, function):
    """Network passes a second."""
    start = time.perf_counter()
    function()
    return passes / (time.perf_counter() - start)


def bare(model, size, count):
    """A function that predicts ready batches, `count` tiles in all."""
    batch = np.random.default_rng(0).random((size, *model.input_shape[1:]), np.float32)

    def run():
        for _ in range(count // size):
            model.predict_on_batch(batch)

    return run


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiles", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--system", default="salt-net")
    arguments = parser.parse_args()
    system = systems.get(arguments.system).with_weights("none")
    policy = hardware.choose_precision()[0]
    model = training.build_model(system, policy)
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (arguments.tiles, 101, 101)).astype(np.uint8)
    few = max(SIZES)
    ways = {f"bare, batch {size}": (few, bare(model, size, few)) for size in SIZES}
    for _, function in ways.values():  # traces the network for this size
        function()
    inference.predict(model, tiles[:few], system.transform)
    ways["ours, with flips"] = (
        2 * len(tiles),
        lambda: inference.predict(model, tiles, system.transform),
    )
    rates = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (passes, function) in ways.items():
            rates[name].append(rate(passes, function))
    print(f"{system.name} in {policy}, {len(tiles)} tiles, {arguments.rounds} rounds")
    for name, values in rates.items():
        print(f"{name:20} {np.median(values):7.1f} passes/s")
    *others, ours = (np.array(values) for values in rates.values())
    ratios = ours / max(others, key=np.median)
    print(
        f"ours over the best: {np.median(ratios):.2f}"
        f" ({ratios.min():.2f} to {ratios.max():.2f})"
    )


if __name__ == "__main__":
    main()
