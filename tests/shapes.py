"""Small tiles that several tests share."""

import numpy as np


def blobs(count=16, size=101):
    """One lopsided ellipse a tile."""
    rng = np.random.default_rng(4)
    row, col = np.mgrid[:size, :size] / size - 0.5
    dy, dx = rng.uniform(-0.15, 0.15, (2, count, 1, 1))
    return 4 * (row - dy) ** 2 + (col - dx) ** 2 + row * col < 0.05


def noise(count=3, size=101):
    return np.random.default_rng(5).integers(0, 256, (count, size, size), np.uint8)
