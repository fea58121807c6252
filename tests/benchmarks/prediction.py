"""`inference.predict` with TTA against the bare network on prepared batches.

Usage: python tests/benchmarks/prediction.py [--tiles 1024] [--system salt-net]

The bare network predicts batches in memory, of several sizes, of which the fastest
counts. `predict` goes from native uint8 tiles to native probabilities, for each tile
and its flip. Both take turns. Prints forward passes per second and the ratio of
`predict` to the bare network, which should be at least 0.95 for the competition's
18,000 tiles and for fewer.
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

BATCH_SIZES = (8, 16, 32, 64, 128)


def rate(passes, function):
    """Forward passes per second."""
    start = time.perf_counter()
    function()
    return passes / (time.perf_counter() - start)


def bare(model, size, count):
    """A function that predicts prepared batches, `count` tiles in all."""
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
    parser.add_argument("--policy", default="float32", help="a Keras dtype policy")
    arguments = parser.parse_args()
    system = systems.get(arguments.system).with_weights("none")
    model = training.build_model(system, arguments.policy)
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (arguments.tiles, 101, 101)).astype(np.uint8)
    few = max(BATCH_SIZES)
    ways = {
        f"bare, batch {size}": (few, bare(model, size, few)) for size in BATCH_SIZES
    }
    for _, function in ways.values():  # traces the network for this batch size
        function()
    inference.predict(model, tiles[:few], system.transform)
    ways["predict, with TTA"] = (
        2 * len(tiles),
        lambda: inference.predict(model, tiles, system.transform),
    )
    rates = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, (passes, function) in ways.items():
            rates[name].append(rate(passes, function))
    print(f"{system.name} in {arguments.policy}, {len(tiles)} tiles")
    for name, values in rates.items():
        print(f"{name:20} {np.median(values):7.1f} passes/s")
    *bare_rates, predict_rates = (np.array(values) for values in rates.values())
    ratios = predict_rates / max(bare_rates, key=np.median)
    print(
        f"predict over the fastest bare network: {np.median(ratios):.2f}"
        f" ({ratios.min():.2f} to {ratios.max():.2f})"
    )


if __name__ == "__main__":
    main()
