"""Score against minutes: every system from where it can start here, at equal time.

Usage: python tests/benchmarks/time_to_quality.py --data-dir data/tgs --minutes 30
       python tests/benchmarks/time_to_quality.py --draw

A few steps of each row are timed, and it is trained for as many epochs as then fit into
the minutes, on grouped fold 0, with a cosine. `--epochs` gives their number instead,
for a small network, which waits for its augmented tiles longer than for its steps. The
big encoders see 64 x 64 pixels, and what starts from random weights has a rate of 1e-3.
Run it on a quiet machine. Lines are added to `time_to_quality.csv`; an interrupted call
is resumed by the same one.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from helpers.utils.hardware import load_keras

load_keras()
import matplotlib.pyplot as plt
import pandas as pd

from helpers import data, plotting, systems, training
from helpers.batches import ResizeOrPad
from helpers.config import PROFILES, Settings
from helpers.utils.files import atomic_write

TABLE, FIGURE = HERE / "time_to_quality.csv", HERE / "time_to_quality.png"
FOLDS = HERE.parents[1] / "notebooks" / "five_folds.csv"
STARTS = (  # row, weights, pixels of the network's input
    ("salt-net", "geology", 128),
    ("salt-net", "none", 128),
    ("lavinama-unet", "none", 128),
    ("jain-scratch", "none", 64),
    ("jain-vgg16", "photographs", 64),
    ("jain-resnet34", "none", 64),
    ("jain-vgg19", "none", 64),
    ("bronze-inceptionresnet", "none", 64),
    ("olsen-seresnext50", "none", 64),
    ("olsen-seresnext101", "none", 64),
)


def row_for(name, weights, size, epochs):
    """A row that starts from these weights and trains for so many epochs."""
    row = systems.get(name)
    budget = replace(PROFILES["full"].main, epochs=epochs, size=size)
    row = row.with_weights(weights).within(budget)
    if size == 128:
        row = replace(row, transform=systems.get(name).transform)
    else:
        row = replace(row, transform=ResizeOrPad(size, "resize"), batch_size=16)
    if weights == "none" and name != "salt-net":
        stages = tuple(replace(x, learning_rate=1e-3) for x in row.stages)
        row = replace(row, stages=stages)
    return replace(row, name=f"{name}-{weights}-{epochs}")


def measure(settings, tiles, start, minutes, epochs=None):
    """Train one row for some minutes, or epochs: a line of the table."""
    name, weights, size = start
    least = len(systems.get(name).stages)
    if epochs is None:
        one = training.estimate([row_for(*start, least)], tiles, settings) / least
        epochs = max(round(60 * minutes / one), least)
    run = training.fit(row_for(*start, epochs), tiles, 0, settings, verbose=2)
    low, high = run.config["confidence_interval"]
    history = run.history()
    return {
        "system": name,
        "start": weights.replace("none", "random"),
        "pixels": size,
        "epochs": len(history),
        "minutes": round(history["seconds"].sum() / 60, 1),
        "asked": minutes,
        "score": round(run.score, 4),
        "low": round(low, 3),
        "high": round(high, 3),
    }


def draw(table):
    """Score against minutes, a line per system and start."""
    plotting.use_style()
    figure, axis = plt.subplots(figsize=(8, 4.5))
    groups = table.groupby(["system", "start"], sort=False)
    for number, (name, part) in enumerate(groups):
        part = part.sort_values("minutes")
        color, marker = plotting.look(number)
        bars = (part["score"] - part["low"], part["high"] - part["score"])
        options = {"marker": marker, "color": color, "capsize": 3}
        label = f"{name[0]}, from {name[1]}"
        axis.errorbar(part["minutes"], part["score"], bars, label=label, **options)
    empty = pd.read_csv(FOLDS, index_col="fold").loc["0", "always empty"]
    axis.axhline(empty, color="gray", linestyle=":", label="all tiles called empty")
    axis.set(xscale="log", xlabel="minutes on two cores", ylabel="score of fold 0")
    ticks = [4, 8, 15, 30, 60]
    axis.set_xticks(ticks, ticks)
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(FIGURE, bbox_inches="tight", dpi=120)


def main():
    """Train, or draw what is in the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", default="data/tgs")
    parser.add_argument("--output-dir", default=tempfile.gettempdir())
    parser.add_argument("--minutes", type=float, nargs="+", default=[30])
    parser.add_argument("--epochs", type=int, help="of each run, instead of timing")
    names = sorted({name for name, _, _ in STARTS})
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame()
    if options.draw:
        return draw(table)
    settings = Settings.from_env(
        {
            "SALT_DATA_DIR": options.data_dir,
            "SALT_OUTPUT_DIR": options.output_dir,
            "SALT_PROFILE": "full",
        }
    )
    tiles = data.load_tiles(settings)
    for minutes in options.minutes:
        for start in STARTS:
            if start[0] in options.only:
                line = measure(settings, tiles, start, minutes, options.epochs)
                print(line, flush=True)
                table = pd.concat([table, pd.DataFrame([line])])
                table = table.drop_duplicates(["system", "start", "asked"], keep="last")
                with atomic_write(TABLE) as draft:
                    table.to_csv(draft, index=False)


if __name__ == "__main__":
    main()
