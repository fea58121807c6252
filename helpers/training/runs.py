"""Runs: everything about one finished training, kept in one folder.

A run `runs/<system>/fold-<k>/` holds

| file | content |
|---|---|
| `config.json` | the system's row, fold, seed, precision, versions, score |
| `history.csv` | a row per epoch: loss, score, IoU, learning rate |
| `model.keras` | the network with the weights that were kept |
| `snapshot-<epoch>.keras` | it before each restart of the learning rate, if any |
| `validation.npz` | ids and probabilities (uint8, 255 is 1) of the fold's tiles |

Of each tile there are two predictions: `plain`, and `mirrored`, from its mirror image
and mirrored back. Notebooks, ensembles and comparisons read runs; none needs another's
memory.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers import inference, systems
from helpers.backbones import resnet
from helpers.batches import ResizeOrPad
from helpers.config import Settings
from helpers.data import Tiles
from helpers.utils.files import DataError


@dataclass(frozen=True)
class Run:
    """A finished training, read from its folder.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was trained, and how it ended: dict.

        Raises:
            DataError: if another version of helpers has made the run.
        """
        config = json.loads((self.folder / "config.json").read_text())
        if config.get("version") != VERSION:
            raise DataError(
                f"{self.folder}: this run was made by another version of helpers: "
                "move the folder away, or train it again"
            )
        return config

    @property
    def name(self) -> str:
        """`<system>/fold-<k>`."""
        return f"{self.config['system']['name']}/fold-{self.config['fold']}"

    @property
    def system(self) -> str:
        """Name of the system that was trained."""
        return self.config["system"]["name"]

    @property
    def transform(self) -> ResizeOrPad:
        """The `batches.ResizeOrPad` of its network."""
        return ResizeOrPad(**self.config["system"]["transform"])

    @property
    def score(self) -> float:
        """Competition score of the fold's tiles at threshold 0.5, nothing tuned."""
        return self.config["score"]

    def is_like(self, other: "Run") -> bool:
        """Whether both were made in the same way, whatever their folds."""
        same = (self.config[key] == other.config[key] for key in PLAN if key != "fold")
        return all(same)

    def history(self) -> pd.DataFrame:
        """DataFrame, a row per epoch."""
        return pd.read_csv(self.folder / "history.csv")

    def model(self) -> keras.Model:
        """The trained Keras model."""
        return _load(self.folder / "model.keras")

    def models(self) -> list[keras.Model]:
        """That model, and those kept before each restart of the learning rate: list."""
        files = [self.folder / "model.keras", *self.folder.glob("snapshot-*.keras")]
        return [_load(file) for file in sorted(files)]

    def validation(self, tta: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What the network said of the fold's tiles.

        Args:
            tta: whether averaged with what it said of the mirrored tiles; by default
                as its system does.

        Returns:
            `(ids, probabilities)`: str (n,), float32 (n, 101, 101). They were stored
            with 255 steps, so they are within 0.002 of what the network said.
        """
        tta = self.config["system"]["tta"] if tta is None else tta
        with np.load(self.folder / "validation.npz") as stored:
            ids, total = stored["ids"], stored["plain"].astype(np.float32)
            if tta:
                total = (total + stored["mirrored"]) / 2
        return ids, total / 255

    def predict(
        self,
        images: np.ndarray,
        progress: Callable | None = None,
        tta: bool | None = None,
    ) -> np.ndarray:
        """Probabilities of new tiles, uint8 (n, 101, 101) -> float32, same shape."""
        system = self.config["system"]
        if tta is not None:
            system = {**system, "tta": tta}
        return self.predict_as(system, images, progress)

    def predict_as(
        self,
        system: Mapping[str, Any],
        images: np.ndarray,
        progress: Callable | None = None,
    ) -> np.ndarray:
        """The same before `config.json` is written: `system` is its entry, a dict."""
        transform, batch_size = (
            ResizeOrPad(**system["transform"]),
            4 * system["batch_size"],
        )
        how = transform, system["tta"], batch_size, progress
        return inference.ensemble(
            [inference.predict(model, images, *how) for model in self.models()]
        )


def _load(file: Path) -> keras.Model:
    """A saved network, with the layers that are not Keras' own."""
    own = {layer.__name__: layer for layer in (resnet.BatchNorm, resnet.GroupedConv2D)}
    return keras.models.load_model(file, custom_objects=own, compile=False)


def find_members(settings: Settings, *names: str) -> dict[Run, float]:
    """What is there of some systems: their finished folds, and what each counts.

    Args:
        settings: `config.Settings`: where the runs are, and for which data.
        names: of rows of `systems.SYSTEMS`, ensembles among them, or of other systems
            that have runs; each name counts the same.

    Returns:
        {`Run`: weight}. A system's weight is shared between its folds; all together
        are 1.

    Raises:
        ValueError: for an unknown name.
        DataError: if a system has no finished run for this data, or runs that were
            made in different ways; the message says what to do.
    """
    weights: dict[Run, float] = {}
    for name in names:
        has_runs = (settings.runs_dir / name).is_dir()
        members = ((name, 1.0),) if has_runs else systems.get(name).members
        total = sum(weight for _, weight in members)
        for member, weight in members:
            found = folds_of(settings, member)
            share = weight / total / len(names) / len(found)
            for run in found:
                weights[run] = weights.get(run, 0.0) + share
    return weights


def folds_of(settings: Settings, name: str) -> list[Run]:
    """The finished runs of one system on these data.

    Args:
        settings: `config.Settings`: where the runs are, and for which data.
        name: of a row of `systems.SYSTEMS`, no ensemble.

    Returns:
        List of `Run`, sorted by name, never empty.

    Raises:
        DataError: if there is none, or if they were made in different ways; the
            message says what to do.
    """
    folder = settings.runs_dir
    there = [run for run in find_runs(folder) if run.config["data"] == settings.kind]
    found = [run for run in there if run.system == name]
    plans = [fold / "work" / "plan.json" for fold in (folder / name).glob("fold-*")]
    if not found and any(plan.is_file() for plan in plans):
        raise DataError(
            f"{folder / name}: begun, not finished: go on with the command that began "
            "it"
        )
    if not found:
        raise DataError(
            f"{folder}: no finished run of {name} on {settings.kind} tiles: train one "
            f"with `python -m helpers train {name} --fold 0`, and the same --profile "
            "and folders as here"
        )
    for run in found[1:]:
        if not run.is_like(found[0]):
            raise DataError(
                f"{run.folder}: made with other settings than {found[0].name}: "
                "move one of them away, or train them alike"
            )
    return found


def predict(
    members: Mapping[Run, float],
    images: np.ndarray,
    progress: Callable | None = None,
    tta: bool | None = None,
) -> np.ndarray:
    """Weighted mean of the runs' predictions for new tiles.

    Args:
        members: {`Run`: weight}, see `find_members`.
        images: uint8 (n, 101, 101).
        progress: wraps each run's loop over batches, for example `tqdm.auto.tqdm`.
        tta: whether averaged with mirrored tiles; by default as each system does.

    Returns:
        float32 (n, 101, 101) in [0, 1].
    """
    mean = np.zeros(images.shape, np.float32)
    for run, weight in members.items():
        mean += weight * run.predict(images, progress, tta)
    return mean / sum(members.values())


def out_of_fold(
    members: Mapping[Run, float], tiles: Tiles, tta: bool | None = None
) -> tuple[Tiles, np.ndarray]:
    """What the runs said of tiles that they were not trained on.

    Args:
        members: {`Run`: weight}, see `find_members`.
        tiles: labelled `data.Tiles`.
        tta: whether averaged with mirrored tiles; by default as each system does.

    Returns:
        `(tiles, probabilities)`: those tiles that lie in the fold of a run of every
        system, and the mean of the systems' predictions for them, float32
        (n, 101, 101). A system counts as much as in `predict`, whatever the number of
        its folds. With all folds of all systems these are all tiles.
    """
    place = {name: index for index, name in enumerate(tiles.ids)}
    mean = np.zeros(tiles.images.shape, np.float32)
    chosen = np.ones(len(tiles), bool)
    for system in {run.system for run in members}:
        weight = sum(w for run, w in members.items() if run.system == system)
        seen = np.zeros(len(tiles), bool)
        for run in (run for run in members if run.system == system):
            ids, probabilities = run.validation(tta)
            known = np.array([name in place for name in ids], bool)
            where = np.array([place[name] for name in ids[known]], int)
            mean[where] += weight * probabilities[known]
            seen[where] = True
        chosen &= seen
    return tiles.take(chosen), mean[chosen] / sum(members.values())


VERSION = 5  # of what a run holds; raised when older runs cannot be read any more
PLAN = (
    "version",
    "system",
    "losses",
    "fold",
    "seed",
    "profile",
    "data",
    "tiles",
    "precision",
)


def find_runs(folder: Path | str, like: Run | None = None) -> list[Run]:
    """The finished runs below a folder.

    Args:
        folder: for example `settings.runs_dir`.
        like: a `Run`; only runs that were made as this one, whatever their fold.

    Returns:
        List of `Run`, sorted by name; [] if there is none. Runs that another version
        of helpers has made are left out, with a word about it.
    """
    runs = []
    for file in sorted(Path(folder).glob("*/fold-*/config.json")):
        run = Run(file.parent)
        try:
            run.config  # noqa: B018
        except DataError as error:
            print(f"left out: {error}")
            continue
        if like is None or run.is_like(like):
            runs.append(run)
    return runs
