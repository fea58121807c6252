"""How fast the panel answers: 800 tiles, four systems.

Usage: python tests/benchmarks/panel.py [--tiles 800] [--rounds 7]

Moves the controls as a user does, in the kernel, and prints how long each takes to
answer, picture included: median and range. Wanted on two quiet cores: 400 ms each.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from helpers.utils import hardware

hardware.load_keras()
from pretend import labelled, pretend

from helpers import config
from helpers.panel import charts, compare


def clock(name, moves):
    """Do these one after the other, and print what each took."""
    taken = []
    for move in moves:
        start = time.perf_counter()
        move()
        taken.append(1000 * (time.perf_counter() - start))
    print(
        f"{name:34} {np.median(taken):5.0f} ms ({min(taken):.0f} to {max(taken):.0f})"
    )


def setter(control, values):
    """Functions that set a control to these values."""
    return [lambda value=value: setattr(control, "value", value) for value in values]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiles", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    count = options.rounds
    tiles = labelled(options.tiles)
    with tempfile.TemporaryDirectory() as folder:
        made = pretend(Path(folder), tiles, parts=1)
        settings = config.Settings("synthetic", Path(folder), config.PROFILES["smoke"])
        start = time.perf_counter()
        panel = compare(made, tiles, settings)
        print(f"panel made, first tab drawn: {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        panel._repr_mimebundle_()
        print(f"still picture: {time.perf_counter() - start:.1f} s")
        browser, mixer = panel.browser, panel.mixer
        threshold = panel.threshold
        thresholds = np.linspace(0.3, 0.7, count).round(2)
        clock("first tab: threshold", setter(threshold, thresholds))
        seen = panel.comparison, panel.post_process
        clock(
            "first tab: redraw", [lambda: charts.png(charts.show_scores(*seen))] * count
        )
        panel.tabs.selected_index = 1
        clock("tiles: threshold", setter(threshold, thresholds + 0.01))
        clock("tiles: next page", setter(browser.page, range(2, 2 + count)))
        panel.tabs.selected_index = 2
        weights = np.linspace(0.1, 0.9, count).round(2)
        clock("what if: weight", setter(mixer.sliders["wild"], weights))
        clock("what if: threshold", setter(threshold, thresholds))


if __name__ == "__main__":
    main()
