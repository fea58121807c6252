"""What a 3 x 3 convolution of 32 groups costs on a CPU, computed in different ways.

Usage: python tests/benchmarks/grouped_convolution.py [--batch 4] [--native]

Forward and backward, as in training, at the sizes that SE-ResNeXt has with
`stem_stride=1` on tiles of 128 pixels. A bundle puts several groups into one ordinary
convolution whose kernel is zero between them: "split" is one group each, "whole" puts
all groups into one. `--native` adds TensorFlow's own convolution (takes minutes).
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
import tensorflow as tf  # its kernels are what is measured

from helpers.backbones.layers import GroupedConv2D

SHAPES = ((128, 128), (64, 256), (32, 512), (16, 1024))  # side, channels
WAYS = {"split": 1, "16": 16, "32": 32, "64": 64, "128": 128, "whole": 1 << 20}


def measure(side, channels, batch, policy, bundle, repeats=5):
    """Milliseconds of one forward and backward pass, the least of some."""
    layer = GroupedConv2D(channels, 3, 1, "same", groups=32, dtype=policy)
    if bundle:
        layer.convolution_op = lambda x, kernel: layer.in_bundles(x, kernel, bundle)
    else:
        layer.convolution_op = super(GroupedConv2D, layer).convolution_op
    x = np.random.default_rng(0).normal(size=(batch, side, side, channels))
    x = tf.cast(x, layer.compute_dtype)
    layer.build(x.shape)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, [x, layer.kernel.value], output_gradients=y)

    step(x)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step(x)[0].numpy()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def main():
    """Print a table: milliseconds, and in brackets how many times the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--native", action="store_true")
    arguments = parser.parse_args()
    ways = WAYS | ({"native": 0} if arguments.native else {})
    for policy in ("float32", "mixed_bfloat16"):
        print(f"{policy:16}" + "".join(f"{way:>16}" for way in ways), flush=True)
        for side, channels in SHAPES:
            times = [
                measure(side, channels, arguments.batch, policy, size)
                for size in ways.values()
            ]
            cells = [f"{t:9.1f} ({t / min(times):4.1f})" for t in times]
            print(f"{side:4}² x {channels:<7} " + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
