"""A long comparison of losses: each on the same folds, seeds and budget.

Usage: SALT_DATA_DIR=... python tests/benchmarks/compare_losses.py [--folds 2]

Each fold is a training run with its own seed, evaluated on its own tiles. Writes
notebooks/losses_long.csv; finished runs are read, not repeated.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from helpers import config, data, inference, systems, training
from helpers.utils.files import atomic_write

BUDGET = config.Budget(epochs=10, size=64, tiles=1600, batch_size=16)
NAMES = ("bce", "focal", "dice", "bce+dice", "lovasz", "lovasz-elu", "jain-mix")
STAGES = {name: [name] for name in NAMES} | {"bce-then-lovasz": ["bce", "lovasz-elu"]}


def system_of(name):
    """Notebook 04's small U-Net with this loss."""
    network = systems.Network(filters=8, depth=4, residual=True)
    epochs = BUDGET.epochs // len(STAGES[name])
    stages = tuple(systems.Stage(loss, epochs) for loss in STAGES[name])
    base = replace(systems.get("salt-net"), network=network, tta=False, stages=stages)
    return replace(base, name=f"long-{name}").within(BUDGET)


def main():
    """Train the missing runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=2)
    folds = range(parser.parse_args().folds)
    settings = config.start()
    tiles = data.load_tiles(settings)
    fold_of_tile = data.make_folds(tiles, seed=settings.seed)
    scores = {name: [] for name in STAGES}
    for fold in folds:
        for name in STAGES:
            run = training.fit(system_of(name), tiles, fold, settings, verbose=0)
            _, probabilities = run.validation()
            masks = tiles.masks[fold_of_tile == fold]
            scores[name].append(inference.cross_fit(masks, probabilities)[1])
            print(f"{name:16} fold {fold}: {scores[name][-1].mean():.4f}", flush=True)
    with atomic_write(ROOT / "notebooks" / "losses_long.csv") as path:
        table(scores).to_csv(path, index=False, float_format="%.3f")


def table(scores):
    """A row per loss: mean, confidence interval, and that of its gain over BCE."""
    rows = []
    reference = np.concatenate(scores["bce"])
    for name, folds in scores.items():
        pooled = np.concatenate(folds)
        low, high = inference.bootstrap_ci(pooled)
        below, above = inference.bootstrap_ci(pooled - reference)
        means = [fold.mean() for fold in folds]
        rows.append(
            {"loss": name, "score": pooled.mean(), "low": low, "high": high}
            | {"minus bce, low": below, "minus bce, high": above}
            | {"worst fold": min(means), "best fold": max(means)}
        )
    return pd.DataFrame(rows).sort_values("score", ascending=False)


if __name__ == "__main__":
    main()
