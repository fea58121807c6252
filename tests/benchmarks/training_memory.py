"""Peak memory of a full training run of our U-Net, from reading to the finished run.

Usage: python tests/benchmarks/training_memory.py [--tiles 4000] [--epochs 4]

Prints the peak memory of this process, which should be 3 GiB or less. It grows with
the tiles, hardly with the epochs: a few show it.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from helpers.utils import hardware

hardware.load_keras()
from helpers import config, systems, training
from helpers.data import Tiles
from helpers.synthetic.tiles import make_tiles


def main():
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiles", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--system", default=systems.DEFAULT)
    arguments = parser.parse_args()
    before = peak()
    system = systems.get(arguments.system).with_weights("none")
    system = system.within(config.Budget(arguments.epochs, system.transform.size))
    with tempfile.TemporaryDirectory() as folder:
        settings = config.Settings(
            config.SYNTHETIC, Path(folder), config.PROFILES["full"]
        )
        training.fit(system, tiles(arguments.tiles), 0, settings, verbose=2)
    print(f"peak {peak():.2f} GiB, of which {before:.2f} before anything was done")


def tiles(count, different=400):
    """Synthetic tiles, the same ones again and again: here only their number counts."""
    made = make_tiles(different)
    again = np.arange(count) % different
    ids = np.array([f"{number:010x}" for number in range(count)])
    return Tiles(ids, made.images[again], made.masks[again], made.depths[again])


def peak():
    """GiB that this process has had at most; the kernel counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
