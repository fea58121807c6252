"""Small tiles that several tests share."""

import numpy as np


def blobs(count=16, size=101):
    """One lopsided ellipse per tile."""
    rng = np.random.default_rng(4)
    row, col = np.mgrid[:size, :size] / size - 0.5
    dy, dx = rng.uniform(-0.15, 0.15, (2, count, 1, 1))
    return 4 * (row - dy) ** 2 + (col - dx) ** 2 + row * col < 0.05


def noise(count=3, size=101):
    return np.random.default_rng(5).integers(0, 256, (count, size, size), np.uint8)


def labelled(count=40):
    """Synthetic tiles with ids, as if read from files: `data.Tiles`."""
    from helpers import data, synthetic

    made = synthetic.make_tiles(count, seed=5)
    ids = np.array([f"{index:010x}" for index in range(count)])
    return data.Tiles(ids, made.images, made.masks, made.depths)
