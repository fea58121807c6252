"""Runs: everything about one finished training, kept in one folder.

A run `runs/<system>/fold-<k>/` holds

| file | content |
|---|---|
| `config.json` | the system's row, fold, seed, precision, versions, score |
| `history.csv` | a row per epoch: loss, score, IoU, learning rate |
| `model.keras` | the network with the weights that were kept |
| `validation.npz` | ids and probabilities (uint8, 255 is 1) of the fold's tiles |

Notebooks, ensembles and comparisons read runs; none needs another's memory.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from helpers import inference
from helpers.pipeline import Frame


@dataclass(frozen=True)
class Run:
    """A finished training, read from its folder.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @cached_property
    def config(self):
        """What was trained, and how it ended: dict."""
        return json.loads((self.folder / "config.json").read_text())

    @property
    def name(self):
        """`<system>/fold-<k>`."""
        return f"{self.config['system']['name']}/fold-{self.config['fold']}"

    @property
    def frame(self):
        """The `pipeline.Frame` of its network."""
        return Frame(**self.config["system"]["frame"])

    @property
    def score(self):
        """Competition score of the fold's tiles at threshold 0.5, nothing tuned."""
        return self.config["score"]

    def history(self):
        """DataFrame, a row per epoch."""
        return pd.read_csv(self.folder / "history.csv")

    def model(self):
        """The trained Keras model."""
        return keras.models.load_model(self.folder / "model.keras", compile=False)

    def validation(self):
        """`(ids, probabilities)` of the fold's tiles: str (n,), float32 (n, 101, 101).

        Stored with 255 steps, so within 0.002 of what the network said.
        """
        with np.load(self.folder / "validation.npz") as stored:
            return stored["ids"], stored["probabilities"] / np.float32(255)

    def predict(self, images, progress=None):
        """Probabilities of new tiles, uint8 (n, 101, 101) -> float32, same shape."""
        flips = self.config["system"]["flips"]
        model = self.model()
        return inference.predict(model, images, self.frame, flips, progress=progress)


PLAN = (
    "system",
    "losses",
    "fold",
    "seed",
    "profile",
    "data",
    "tiles",
    "precision",
)


def find_runs(folder, like=None):
    """The finished runs below a folder.

    Args:
        folder: for example `settings.runs_dir`.
        like: a `Run`; only runs that were made as this one, whatever their fold.

    Returns:
        List of `Run`, sorted by name; [] if there is none.
    """
    files = sorted(Path(folder).glob("*/fold-*/config.json"))
    runs = [Run(file.parent) for file in files]
    alike = [key for key in PLAN if key != "fold"] if like else []
    return [r for r in runs if all(r.config[key] == like.config[key] for key in alike)]
