"""Training speed of the U-Nets against the same layers in plain PyTorch.

Usage: python tests/benchmarks/against_pytorch.py [--systems salt-net jain-vgg19]

PyTorch's network is made from the Keras model's own list of layers, with its weights,
and must give the same logits to 1e-4 before anything is timed. Then both train on the
same batch, in turn, each in a process of its own with two threads: binary
cross-entropy, Adam, no frozen layers; PyTorch with its tensors in channels-last order.
Prints the median time of a step and, from each round, PyTorch's time over ours, by the
clock and by the processor's time. Threads that wait for each other spend that too, so
that on a machine with other work only `--threads 1` is fair to PyTorch.
Promised: in float32 1.0 or more; in the precision that we choose for the machine 1.5
or more for a scratch U-Net.

Needs `torch`, which nothing else here does.
"""

import argparse
import importlib.util
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

BATCHES = {"salt-net": 32, "jain-scratch": 8, "jain-resnet34": 16, "jain-vgg19": 4}


def tiles(batch):
    """Noise, and whether it is bright: (batch, 128, 128, 1) each."""
    images = np.random.default_rng(0).random((batch, 128, 128, 1), np.float32)
    return images, (images > 0.7).astype(np.float32)


def serve(pipe, step, answer):
    """Send the answer, then train whenever asked: so many steps, seconds for each."""
    pipe.send(answer)
    while steps := pipe.recv():
        start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        end = time.perf_counter(), time.process_time()
        pipe.send(np.subtract(end, start) / steps)


def work_keras(pipe, threads, name, batch, chosen):
    """Keras on TensorFlow: sends its precision, layers, weights and logits."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from helpers.utils import hardware

    keras = hardware.load_keras()
    import tensorflow as tf

    from helpers import losses, systems, training

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    system = systems.get(name).with_weights("none")
    policy = hardware.choose_precision()[0] if chosen else "float32"
    model = training.build_model(system, policy)
    with hardware.precision(policy):
        model.compile(
            keras.optimizers.Adam(1e-4),
            losses.get("bce"),
            jit_compile=hardware.jit_compile(),
        )
    images, masks = tiles(batch)
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    answer = policy, model.get_config()["layers"], weights, model(images).numpy()
    serve(pipe, lambda: model.train_on_batch(images, masks), answer)


def work_torch(pipe, threads, entries, weights, batch):
    """Plain PyTorch: sends its logits."""
    import torch
    from torch_layers import TorchNetwork

    torch.set_num_threads(threads)
    order = {"memory_format": torch.channels_last}
    model = TorchNetwork(entries, weights, "logits").to(**order)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    loss = torch.nn.BCEWithLogitsLoss()
    images, masks = (
        torch.from_numpy(part).permute(0, 3, 1, 2).contiguous(**order)
        for part in tiles(batch)
    )

    def step():
        optimizer.zero_grad()
        loss(model(images), masks).backward()
        optimizer.step()

    with torch.no_grad():
        logits = model.eval()(images).permute(0, 2, 3, 1).numpy()
    model.train()
    serve(pipe, step, logits)


def start(work, *arguments):
    """A process of its own: the pipe to it, and what it sends first."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=work, args=(other, *arguments), daemon=True)
    process.start()
    other.close()
    return pipe, pipe.recv()


def seconds(pipe, steps):
    """Train so many steps there."""
    pipe.send(steps)
    return pipe.recv()


def compare(name, batch, threads, rounds, steps):
    """Print one line a precision."""
    ours = {}
    pipe, (policy, entries, weights, expected) = start(
        work_keras, threads, name, batch, False
    )
    ours[policy] = pipe
    other, (policy, *_) = start(work_keras, threads, name, batch, True)
    ours[policy] = other
    theirs, logits = start(work_torch, threads, entries, weights, batch)
    away = np.abs(logits - expected).max()
    if away > 1e-4:
        raise SystemExit(f"{name}: PyTorch's logits differ by {away:.1e}")
    times = {key: [] for key in ("pytorch", *ours)}
    for turn in range(rounds + 1):
        for key, pipe in {"pytorch": theirs, **ours}.items():
            taken = seconds(pipe, steps if turn else 2)
            if turn:
                times[key].append(taken)
    for pipe in (theirs, *ours.values()):
        pipe.send(0)
    report(name, batch, times)


def report(name, batch, times):
    """A line for each precision of ours."""
    times = {key: np.array(taken).T for key, taken in times.items()}
    theirs = times.pop("pytorch")
    for policy, ours in times.items():
        clock, processor = theirs / ours
        print(
            f"{name:14} batch {batch:<2} {policy:15}{1000 * np.median(ours[0]):6.0f} ms"
            f"   PyTorch {1000 * np.median(theirs[0]):6.0f} ms"
            f"   {np.median(clock):5.2f} x ({clock.min():.2f} to {clock.max():.2f})"
            f"   processor {np.median(processor):5.2f} x",
            flush=True,
        )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", default=list(BATCHES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: nothing to compare with")
        return
    for name in arguments.systems:
        compare(
            name, BATCHES[name], arguments.threads, arguments.rounds, arguments.steps
        )


if __name__ == "__main__":
    main()
