"""Kills a training run again and again, and compares its end with an uninterrupted one.

A child process trains a small network in two stages: a cosine, then a plateau that
keeps the best weights. It is killed (SIGKILL) at random moments: in the middle of an
epoch, between two, while a checkpoint is written, in either stage. Started again, it
must end with the same epochs, rates, losses and weights, bit for bit.

    python tests/kill_and_resume.py --kills 20

With `--quick` it is one kill, of a tiny network in the middle of a plateau.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

EPOCH = "epoch finished"
sys.path.insert(0, str(Path(__file__).parents[1]))


def child(folder, quick):
    """Train, or go on, in this folder."""
    from helpers.utils.hardware import load_keras

    load_keras()
    from shapes import labelled

    from helpers import config, systems, training

    stages = (
        systems.Stage("bce+dice", 6, 1e-2, weight_decay=1e-4),
        systems.Stage(
            "lovasz-elu", 6, 1e-2, "plateau", patience=1, optimizer="rmsprop"
        ),
    )
    system = systems.System(
        name="killed",
        title="",
        source="",
        network=systems.Network(filters=8, depth=3, dropout=0.2),
        stages=stages,
        transform=systems.ResizeOrPad(64, "resize"),
        batch_size=8,
    )
    if quick:
        network = systems.Network(filters=4, depth=2, dropout=0.2)
        transform = systems.ResizeOrPad(32, "resize")
        last = replace(stages[1], loss="bce", epochs=4)
        changes = {"network": network, "transform": transform, "stages": (last,)}
        system = replace(system, **changes)
    settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
    training.fit(
        system,
        labelled(60),
        0,
        settings,
        verbose=0,
        show=lambda _: print(EPOCH, flush=True),
    )


def start(folder, quick=False):
    """A child process that trains, or goes on, in this folder."""
    command = [sys.executable, __file__, "--child", str(folder)]
    command += ["--quick"] if quick else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def epochs(process, most=1000):
    """Wait for so many finished epochs or the end; returns when each was finished."""
    times = []
    while len(times) < most and (line := process.stdout.readline()):
        if line.startswith(EPOCH):
            times.append(time.perf_counter())
    return times


def finish(folder):
    """Let a run go to its end; returns the seconds of its last epochs' median."""
    process = start(folder)
    times = epochs(process)
    if process.wait():
        raise SystemExit(f"the child ended with {process.returncode}")
    return statistics.median(b - a for a, b in pairwise(times)) if times[1:] else 0


def kill(folder, done, seconds, quick=False):
    """Kill a run after so many epochs and seconds; says where it was hit.

    Returns:
        str, empty if the run came to its end before.
    """
    process = start(folder, quick)
    epochs(process, done)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.read()
    if process.wait() == 0:
        return ""
    run = folder / "runs" / "killed" / "fold-0"
    names = sorted(path.name for path in run.glob("work/epoch-*"))
    begun = 1 + int(names[-1][-4:]) if names else 0
    beside = [path.name for path in run.glob("**/.*-????????")]
    return f"epoch {begun}" + (f", writing {beside[0][1:-9]}" if beside else "")


def differences(one, other):
    """What differs between two finished runs: list of words, empty if nothing."""
    from helpers.utils.hardware import load_keras

    load_keras()
    import numpy as np

    from helpers.training.runs import Run

    one, other = (Run(f / "runs" / "killed" / "fold-0") for f in (one, other))
    found = []
    histories = [run.history().drop(columns="seconds") for run in (one, other)]
    if not histories[0].equals(histories[1]):
        found.append(f"history\n{histories[0]}\n{histories[1]}")
    weights = [run.model().get_weights() for run in (one, other)]
    far = max(float(np.abs(x - y).max()) for x, y in zip(*weights, strict=True))
    if far:
        found.append(f"weights by {far}")
    if one.score != other.score:
        found.append(f"score {one.score} and {other.score}")
    return found


def main(kills, seed):
    """Kill so many times, in as many runs as that takes."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        epoch = finish(folder / "whole")
        print(f"uninterrupted: {epoch:.2f} s an epoch", flush=True)
        count = runs = 0
        while count < kills:
            runs += 1
            again, hit = folder / f"again-{runs}", True
            for _ in range(6):  # then it may come to its end
                if hit and count < kills:
                    moment = chance.randint(0, 3), chance.uniform(0, 1.5 * epoch)
                    if hit := kill(again, *moment):
                        count += 1
                        print(f"kill {count}: in {hit}", flush=True)
            finish(again)
            found = differences(folder / "whole", again)
            print(f"run {runs}: " + ("; ".join(found) or "no difference"))
            if found:
                return 1
    return 0


def quickly():
    """One kill after two epochs."""
    with tempfile.TemporaryDirectory() as folder:
        whole, again = Path(folder, "whole"), Path(folder, "again")
        print(f"kill 1: in {kill(again, 2, 0.0, quick=True)}", flush=True)
        for run in (whole, again):
            child(run, quick=True)
        found = differences(whole, again)
        print("; ".join(found) or "no difference")
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.quick)
    elif options.quick:
        sys.exit(quickly())
    else:
        sys.exit(main(options.kills, options.seed))
