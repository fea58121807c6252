"""Whether 16 bits score as well as 32, and how much faster they are.

Trains salt-net on synthetic tiles with three seeds in float32 and in this machine's
16-bit format, with the same tiles in the same order, and prints the scores of the fold
that was left out, their differences, and the ratio of the times.

    python tests/benchmarks/precision.py [--epochs 12] [--seeds 3]
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from helpers.utils.hardware import load_keras

load_keras()
import numpy as np

from helpers import config, data, inference, metrics, systems, training
from helpers.training import timing
from helpers.utils import hardware


def main(epochs, seeds):
    """Train, compare, print."""
    budget = config.Budget(epochs, tiles=800, batch_size=16)
    system = systems.get("salt-net").within(budget)
    policy = hardware.half_precision()
    print(f"{hardware.accelerator() or 'CPU'}: {policy}")
    with tempfile.TemporaryDirectory() as folder:
        settings = config.Settings(
            "synthetic", Path(folder), config.PROFILES["quick"], seed=0
        )
        tiles = data.load_tiles(settings)
        differences, minutes = [], {"float32": 0.0, policy: 0.0}
        for seed in range(seeds):
            scores = {}
            for name in minutes:
                timing.choose_precision = lambda *_, name=name: name
                here = replace(
                    settings, seed=seed, output_dir=Path(folder) / f"{name}-{seed}"
                )
                run = training.fit(system, tiles, 0, here, verbose=0)
                held_out = tiles.take(data.make_folds(tiles, seed=seed) == 0)
                guess = run.validation()[1] > 0.5
                scores[name] = metrics.precision_per_image(held_out.masks, guess)
                minutes[name] += run.config["minutes"]
                print(f"seed {seed}, {name}: score {scores[name].mean():.4f}")
            differences.append(scores[policy] - scores["float32"])
        low, high = inference.bootstrap_ci(np.concatenate(differences))
        mean = np.mean([difference.mean() for difference in differences])
        print(f"{policy} less float32: {mean:+.4f} (95 % {low:+.4f} to {high:+.4f})")
        ratio = minutes["float32"] / minutes[policy]
        print(f"time of float32 / time of {policy}: {ratio:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    main(options.epochs, options.seeds)
