"""A long comparison of losses: `salt-net`, from random weights and from geology.

Usage: SALT_DATA_DIR=... python tests/benchmarks/compare_losses.py [--part 0/1]

Each fold is a training run with its own seed, evaluated on its own tiles. Finished runs
are read, not repeated; `--part 2/8` makes every eighth, so that several processes share
the work. Writes notebooks/losses_long.csv, of what is finished on all folds.
"""

import argparse
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import keras
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from helpers import config, data, inference, systems, training
from helpers.training import stages, timing
from helpers.utils.files import atomic_write

FOLDS = (0, 1, 2)
STAGES = {
    "bce": ["bce"],
    "bce+dice": ["bce+dice"],
    "bce+dice, then lovasz-elu": ["bce+dice", "lovasz-elu"],
    "lovasz-elu": ["lovasz-elu"],
    "bce, then lovasz-elu": ["bce", "lovasz-elu"],
    "dice": ["dice"],
    "lovasz": ["lovasz"],
    "focal": ["focal"],
    "jain-mix": ["jain-mix"],
}
CASES = [  # (start, epochs, loss); the first of each group is what others are held to
    *product(["random"], [40, 10], STAGES),
    *product(["geology"], [10], list(STAGES)[:4]),
]


def system_of(start, epochs, name):
    """`salt-net` with these losses, the second of them at half the learning rate."""
    base = systems.get("salt-net")
    base = base if start == "geology" else base.with_weights("none")
    first, *rest = STAGES[name]
    parts = [systems.Stage(first, 60)]
    parts += [systems.Stage(loss, 40, 5e-4, warm_up=0) for loss in rest]
    folder = f"long-{start}-{epochs}-{name}".replace(", ", "-").replace(" ", "-")
    row = replace(base, name=folder, tta=False, stages=tuple(parts))
    return row.within(config.Budget(epochs=epochs))


def main():
    """Train this process's part of the missing runs, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="0/1")
    part, parts = map(int, parser.parse_args().part.split("/"))
    timing.choose_precision = lambda *_: "float32"  # for all runs alike
    if keras.backend.backend() == "tensorflow":
        stages.jit_compile = lambda: False  # XLA would take longer than a short run
    settings = config.start()
    tiles = data.load_tiles(settings)
    fold_of_tile = data.make_folds(tiles, seed=settings.seed)
    kept = settings.output_dir / "loss-scores"
    kept.mkdir(parents=True, exist_ok=True)
    for fold, case in list(product(FOLDS, CASES))[part::parts]:
        path = scores_of(kept, case, fold)
        if path.exists():
            continue
        run = training.fit(system_of(*case), tiles, fold, settings, verbose=0)
        masks = tiles.masks[fold_of_tile == fold]
        scores = inference.cross_fit(masks, run.validation()[1])[1]
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, scores)
        print(f"{run.name}: cross-fitted {scores.mean():.4f}", flush=True)
    with atomic_write(ROOT / "notebooks" / "losses_long.csv") as temporary:
        table(kept).to_csv(temporary, index=False, float_format="%.3f")


def scores_of(kept, case, fold):
    """The file of a run's scores, one per tile."""
    return kept / ("-".join(map(str, (*case, fold))) + ".npy")


def table(kept):
    """A row per case: mean, confidence interval, and that of its gain over BCE."""
    rows, reference = [], {}
    for start, epochs, name in CASES:
        paths = [scores_of(kept, (start, epochs, name), fold) for fold in FOLDS]
        if not all(path.exists() for path in paths):
            continue
        folds = [np.load(path) for path in paths]
        pooled, means = np.concatenate(folds), [fold.mean() for fold in folds]
        gain = pooled - reference.setdefault((start, epochs), pooled)
        row = {"start": start, "epochs": epochs, "loss": name, "score": pooled.mean()}
        row |= dict(zip(("low", "high"), inference.bootstrap_ci(pooled), strict=True))
        columns = ("minus bce, low", "minus bce, high")
        row |= dict(zip(columns, inference.bootstrap_ci(gain), strict=True))
        rows.append(row | {"worst fold": min(means), "best fold": max(means)})
    order = ["start", "epochs", "score"]
    return pd.DataFrame(rows).sort_values(order, ascending=False)


if __name__ == "__main__":
    main()
