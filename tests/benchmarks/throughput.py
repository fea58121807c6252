"""How fast surveys are marked: in one process, and by one and by two workers of Dask.

Usage: python tests/benchmarks/throughput.py [--run FOLDER] [--inlines 24]

A synthetic survey of (inlines, 300 traces, 200 samples) is marked by the geology
weights, or by a run's network. Prints windows per second and, because the machine may
be busy, processor seconds per window; then inlines per second of workers, without their
start; and what 1,000 km² would take in windows (bins of 25 m, 6 s at 4 ms).
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from survey import write_survey

from helpers.utils import segy, workers

WINDOWS = 16  # in an inline of 300 x 200: 12, and the batch is filled up
AREA = 1000 * 1000**2 / 25**2 * (6 / 0.004) / 64**2  # windows: each brings 64 x 64 new


def rate(task, numbers, scheduler):
    """Inlines per second from the first result on, and processor seconds here."""
    results = workers.run_tasks(task, numbers, scheduler)
    next(results)
    wall, processor = time.perf_counter(), time.process_time()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - wall), time.process_time() - processor


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", help="folder of a run; default: the geology weights")
    parser.add_argument("--inlines", type=int, default=24)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.sgy")
        write_survey(source, Path(folder, "truth.sgy"), arguments.inlines)
        numbers = range(1, arguments.inlines + 1)
        task = partial(segy._mark, source, segy.LINES, arguments.run, 1.0)
        alone, processor = rate(task, numbers, None)
        cost = processor / WINDOWS / (arguments.inlines - 1)
        print(f"one process {alone:8.2f} inlines/s, {WINDOWS * alone:.0f} windows/s")
        print(f"{1000 * cost:.1f} ms of processor a window, start not counted")
        hours = AREA * cost / 3600
        print(f"1,000 km2: {AREA:,.0f} windows, {hours:.1f} core hours")
        for scheduler in ("local:1", "local:2"):
            value = rate(task, numbers, scheduler)[0]
            print(f"{scheduler:11} {value:8.2f} inlines/s, {value / alone:.2f} x")


if __name__ == "__main__":
    main()
