"""The score of every fold of a system, from its finished runs, as in notebook 05.

Usage: python -m helpers train salt-net --fold 0 1 2 3 4 --epochs 6 --profile full
       python tests/benchmarks/five_folds.py outputs/runs/salt-net --data-dir data/tgs
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from helpers.utils.hardware import load_keras

load_keras()
import numpy as np
import pandas as pd

from helpers import data, inference, metrics
from helpers.config import Settings
from helpers.training import runs
from helpers.utils.files import atomic_write


def summarize(folds):
    """Means and 95 % intervals, of each fold and of all tiles: DataFrame.

    `folds`: {number: (score of each tile, whether it is empty)}.
    """
    together = [np.concatenate(parts) for parts in zip(*folds.values(), strict=True)]
    rows = []
    for name, (scores, empty) in (folds | {"all": together}).items():
        low, high = inference.bootstrap_ci(scores)
        row = {"fold": name, "tiles": len(scores), "score": scores.mean()}
        row |= {"low": low, "high": high, "always empty": empty.mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def main():
    """Score the tiles that each run left out, and all of them together."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of the system's runs")
    parser.add_argument("--data-dir", default="data/tgs")
    parser.add_argument("--out", type=Path, help="a .csv to write")
    options = parser.parse_args()
    tiles = data.load_tiles(Settings.from_env({"SALT_DATA_DIR": options.data_dir}))
    found = runs.find_runs(options.folder.parent, name=options.folder.name)
    folds = {}
    for run in sorted(found, key=lambda run: run.config["fold"]):
        left_out, guess = runs.out_of_fold({run: 1.0}, tiles)
        scores = metrics.precision_per_image(left_out.masks, guess > 0.5)
        folds[run.config["fold"]] = scores, left_out.coverage == 0
    table = summarize(folds)
    if options.out:
        with atomic_write(options.out) as draft:
            table.to_csv(draft, index=False, float_format="%.4f")
    print(table)


if __name__ == "__main__":
    main()
