"""Tiles per second of the input pipeline: several augmentations against none.

Usage: python tests/benchmarks/input_pipeline.py
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from helpers import systems
from helpers.augmentation import Augmentation
from helpers.batches import ResizeOrPad, TileBatches

FULL = Augmentation(0.5, 0.1, 0.1, 5.0, 0.1, 0.1, 0.1)
OLSEN = systems.get("olsen-seresnext50").augmentation
DISTORTED = replace(FULL, elastic=0.02, grid=0.3, crop=50 / 101, blur=0.02)


def rate(batches, epochs=3):
    """Tiles per second in the best epoch."""
    times = []
    for _ in range(epochs):
        start = time.perf_counter()
        for index in range(len(batches)):
            batches[index]
        times.append(time.perf_counter() - start)
    return len(batches.images) / min(times)


def main():
    """Print the table."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1600, 101, 101)).astype(np.uint8)
    masks = images > 128
    rates = {
        name: rate(TileBatches(images, masks, ResizeOrPad(), 32, augmentation))
        for name, augmentation in [
            ("none", None),
            ("flips only", Augmentation()),
            ("affine and intensity", FULL),
            ("Olsen's", OLSEN),
            ("everything on every tile", DISTORTED),
        ]
    }
    for name, value in rates.items():
        print(
            f"{name:24} {value:7.0f} tiles/s   {rates['none'] / value:5.2f} x the time"
        )


if __name__ == "__main__":
    main()
