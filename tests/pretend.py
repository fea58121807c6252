"""Runs of systems that nobody has trained: the truth, blurred and disturbed."""

import json
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
from scipy import ndimage

from helpers import data, systems
from helpers.inference import as_bytes
from helpers.metrics import mean_precision
from helpers.training.runs import PLAN, VERSION, Run

NOISE = {"sharp": 0.3, "soft": 0.6, "rough": 1.2, "wild": 2.5}  # name: how disturbed


def labelled(count, seed=0):
    """Tiles with salt below a wavy line, a third of them empty: `data.Tiles`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:101, :101]
    top = rng.uniform(10, 90, (count, 1, 1)) + 10 * np.sin(
        columns / rng.uniform(8, 30, (count, 1, 1))
    )
    masks = rows > top
    masks[rng.random(count) < 1 / 3] = False
    intensity = np.where(masks, 170, 90) + rng.normal(0, 25, masks.shape)
    ids = np.array([f"{number:010x}" for number in rng.permutation(count)])
    depths = rng.integers(50, 960, count)
    return data.Tiles(ids, np.clip(intensity, 0, 255).astype(np.uint8), masks, depths)


def said(masks, noise, rng):
    """Probabilities as a network might give them, uint8."""
    blurred = ndimage.gaussian_filter(masks.astype(np.float32), (0, 2, 2))
    speckle = rng.normal(0, noise, (len(masks), 26, 26)).repeat(4, 1).repeat(4, 2)
    return as_bytes(np.clip(blurred + 0.6 * speckle[:, :101, :101], 0, 1))


def pretend(folder, tiles, names=tuple(NOISE), folds=(0,), parts=5):
    """Write such runs below a folder; returns the list of `Run`."""
    made = []
    for number, name in enumerate(names):
        row = replace(systems.get("salt-net"), name=name)
        for fold in folds:
            rng = np.random.default_rng([number, fold])
            part = tiles.take(np.arange(len(tiles)) % parts == fold)
            plain, mirrored = (said(part.masks, NOISE[name], rng) for _ in range(2))
            path = folder / name / f"fold-{fold}"
            path.mkdir(parents=True)
            np.savez(
                path / "validation.npz", ids=part.ids, plain=plain, mirrored=mirrored
            )
            with zipfile.ZipFile(path / "model.keras", "w") as model:  # no network
                for member in ("config.json", "model.weights.h5"):
                    model.writestr(member, "")
            mean = (plain.astype(float) + mirrored) / 510
            config = dict.fromkeys(PLAN) | {
                "version": VERSION,
                "system": asdict(row),
                "fold": fold,
                "data": "synthetic",
                "score": mean_precision(part.masks, mean > 0.5),
            }
            (path / "config.json").write_text(json.dumps(config))
            epoch = np.arange(6)
            table = {"epoch": epoch, "loss": 1 / (epoch + 1), "score": epoch / 8}
            table |= {"val_loss": 1.2 / (epoch + 1), "val_score": epoch / 9}
            pd.DataFrame(table).to_csv(path / "history.csv", index=False)
            made.append(Run(path))
    return made
