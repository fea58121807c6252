"""Score and RLE of 18,000 tiles against the usual loops: ratios from one run.

Usage: python tests/benchmarks/score_and_rle.py
"""

import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[2]))
from helpers.metrics import precision_per_image
from helpers.rle import rle_decode, rle_encode

COUNT, SLOW = 18_000, 500  # the slow loops are timed on fewer tiles


def masks(count, seed):
    """Smooth blobs of many sizes; 40 % are empty."""
    rng = np.random.default_rng(seed)
    some = ndimage.gaussian_filter(rng.normal(size=(200, 101, 101)), (0, 12, 12))
    some = some > np.quantile(some, rng.uniform(0.2, 0.99, 200))[:, None, None]
    some[rng.random(200) < 0.4] = False
    return some[rng.integers(0, 200, count)]


def histogram_score(truth, guess):
    """The loop of most public kernels, with the correct range."""
    cells = np.histogram2d(
        truth.ravel(), guess.ravel(), bins=2, range=[[0, 1], [0, 1]]
    )[0]
    union = cells[0, 1] + cells[1, 0] + cells[1, 1]
    if union == 0:
        return 1.0
    return np.mean(cells[1, 1] / union > np.arange(0.5, 1.0, 0.05))


def loop_encode(mask):
    """The pixel loop of public kernels."""
    runs, last = [], -2
    for pixel in np.flatnonzero(mask.ravel(order="F")):
        if pixel > last + 1:
            runs.extend((pixel + 1, 0))
        runs[-1] += 1
        last = pixel
    return " ".join(map(str, runs))


def loop_decode(text):
    """Pixel by pixel."""
    pixels, numbers = np.zeros(101 * 101, bool), text.split()
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(int(start) - 1, int(start) - 1 + int(length)):
            pixels[pixel] = True
    return pixels.reshape(101, 101).T


def seconds(function):
    """Best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    """Print the table."""
    truth, guess = masks(COUNT, 0), masks(COUNT, 1)
    few = list(zip(truth[:SLOW], guess[:SLOW], strict=True))
    texts = [rle_encode(mask) for mask in truth]
    rows = [
        (
            "score",
            seconds(lambda: precision_per_image(truth, guess)),
            seconds(lambda: [histogram_score(a, b) for a, b in few]) * COUNT / SLOW,
        ),
        (
            "encode",
            seconds(lambda: [rle_encode(mask) for mask in truth]),
            seconds(lambda: [loop_encode(a) for a, _ in few]) * COUNT / SLOW,
        ),
        (
            "decode",
            seconds(lambda: [rle_decode(text) for text in texts]),
            seconds(lambda: [loop_decode(text) for text in texts[:SLOW]])
            * COUNT
            / SLOW,
        ),
    ]
    print(f"{COUNT} tiles of 101 x 101")
    for name, ours, usual in rows:
        ratio = f"usual loop {usual:6.2f} s   {usual / ours:5.1f} x"
        print(f"{name:7} {ours:6.2f} s   {ratio}")


if __name__ == "__main__":
    main()
