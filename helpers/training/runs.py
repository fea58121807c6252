"""Runs: everything about one training run, kept in the folder `<system>/fold-<k>`.

| file | content |
|---|---|
| `config.json` | the system's row, fold, seed, versions, score; written last |
| `history.csv` | losses, scores, learning rate and seconds of every epoch |
| `model.keras` | the network with the weights that were kept |
| `validation.npz` | ids and probabilities, `plain` and `mirrored` (uint8, 255 is 1) |
| `work/plan.json` | what is being trained, until that is finished |
"""

import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers import inference, systems
from helpers.batches import ResizeOrPad
from helpers.config import TILE, Settings
from helpers.data import Tiles
from helpers.systems import System
from helpers.training.plans import PLAN, VERSION, as_system, check_name, make_plan
from helpers.utils.files import DataError

PLAN_FILE = "work/plan.json"


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Name a file that cannot be read in a `with` block, whatever its damage is."""
    try:
        yield path
    except Exception as error:  # Keras and NumPy raise all kinds
        text = getattr(error, "strerror", None) or re.split(r"\n|\. ", str(error))[0]
        fault = f"cannot be read ({type(error).__name__}: {text[:150]})"
        remedy = "move the run away, or train it again"
        raise DataError(f"{path}: {fault}: {remedy}") from error


def _refuse(fault: str) -> None:
    raise ValueError(fault)


@dataclass(frozen=True)
class Run:
    """A training run, read from its folder `<system>/fold-<k>`.

    All that reads a damaged file raises a `DataError`, which names the file.
    """

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was trained, and with which score: dict."""
        with _reading(self.folder / "config.json") as path:
            config = json.loads(path.read_text())
            if config["version"] != VERSION:
                _refuse("made by another version of helpers")
            check_name(as_system(config["system"]).name)
            if lacking := {*PLAN, "score"} - config.keys():
                _refuse(f"lacks {min(lacking)}")
            if not (config["fold"] >= 0 and 0 <= config["score"] <= 1):
                _refuse("is no score of a fold")
        return config

    @property
    def system(self) -> str:
        """Name of the system that was trained."""
        return self.config["system"]["name"]

    @property
    def name(self) -> str:
        """`<system>/fold-<k>`."""
        return f"{self.system}/fold-{self.config['fold']}"

    @property
    def score(self) -> float:
        """Competition score of the fold's tiles at threshold 0.5."""
        return self.config["score"]

    def is_like(self, other: "Run") -> bool:
        """Whether both were trained in the same way, whatever their folds."""
        return all(self.config[x] == other.config[x] for x in {*PLAN} - {"fold"})

    def history(self) -> pd.DataFrame:
        """DataFrame, one row per epoch."""
        with _reading(self.folder / "history.csv") as path:
            return pd.read_csv(path, dtype=float).astype({"epoch": int})

    def model(self) -> keras.Model:
        """The trained network, see `build_unet`; code in the file is not run."""
        size = self.config["system"]["transform"]["size"]
        with _reading(self.folder / "model.keras") as path:
            model = keras.models.load_model(path, compile=False, safe_mode=True)
            if (shape := model.input_shape) != (None, size, size, 1):
                _refuse(f"its input is {shape}, {size} pixels wanted")
        return model

    def validation(self, tta: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`(ids, probabilities)` of the fold's tiles: str (n,), float32 (n, 101, 101).

        `tta` averages with the mirrored tiles, by default if its system does.
        """
        tta = self.config["system"]["tta"] if tta is None else tta
        with _reading(self.folder / "validation.npz") as path, np.load(path) as stored:
            ids, *both = (stored[x] for x in ("ids", "plain", "mirrored"))
            for x in both:
                if x.shape != (len(ids), TILE, TILE) or x.dtype != np.uint8:
                    _refuse(f"{x.dtype} {x.shape} of {len(ids)} tiles")
        used = np.asarray(both if tta else both[:1])
        return ids.astype(str), used.mean(axis=0, dtype=np.float32) / 255

    def check(self, moved: bool = False) -> None:
        """Read all files but the network.

        Raises:
            DataError: if one is damaged, or, unless `moved`, if this is a copy.
        """
        if not moved and self.name != "/".join(self.folder.absolute().parts[-2:]):
            fault = f"its config.json is that of {self.name}"
            raise DataError(f"{self.folder}: {fault}: move this copy out of runs/")
        self.history(), self.validation()
        network = self.folder / "model.keras"
        with _reading(network), zipfile.ZipFile(network) as file:
            file.getinfo("config.json"), file.getinfo("model.weights.h5")

    def predict(
        self, images: np.ndarray, progress: Any = None, tta: bool | None = None
    ) -> np.ndarray:
        """Probabilities of new tiles, uint8 (n, 101, 101) -> float32, same shape."""
        system = self.config["system"]
        transform, size = ResizeOrPad(**system["transform"]), 4 * system["batch_size"]
        tta = system["tta"] if tta is None else tta
        return inference.predict(self.model(), images, transform, tta, size, progress)


def look_up(
    system: System, tiles: Tiles, fold: int, settings: Settings
) -> tuple[Run, dict[str, Any], str]:
    """`(run, plan, state)`: a run, what identifies it, and how far it has come.

    The state is "finished", "begun" (both may lie aside), "", or what is wrong.
    """
    plan = make_plan(system, tiles, fold, settings)
    home = settings.runs_dir / check_name(system.name) / f"fold-{fold}"
    aside = sorted(home.parent.glob(f"[0-9]*-{home.name}"), reverse=True)
    found = [(Run(folder), *_state(Run(folder), plan)) for folder in (home, *aside)]
    return next((x for x in found if x[2] in ("finished", "begun")), found[0])


def _state(run: Run, plan: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """`(plan, state)` of what a folder holds; the plan as it is stored there."""
    found, state = plan, "incomplete" if run.folder.exists() else ""
    try:
        if (run.folder / "config.json").exists():
            found, state = run.config, "finished"
            run.check(moved=True)
        elif (run.folder / PLAN_FILE).exists():
            with _reading(run.folder / PLAN_FILE) as path:
                found, state = {**json.loads(path.read_text())}, "begun"
    except DataError as error:
        return plan, f"unusable ({error})"
    same = plan.items() <= found.items()
    return (found, state) if same else (plan, "made with other settings")


def find_runs(
    folder: Path | str, like: Run | None = None, name: str = "*"
) -> list[Run]:
    """The finished runs below a folder, sorted; only those `like` another if given.

    Runs that are damaged, or copies of others, are left out with a line that says so.
    """
    found = []
    for file in sorted(Path(folder).glob(f"{name}/fold-*/config.json")):
        try:
            (run := Run(file.parent)).check()
        except DataError as error:
            print(f"left out: {error}")
        else:
            found += [run] if like is None or run.is_like(like) else []
    return found


def folds_of(settings: Settings, name: str) -> list[Run]:
    """The finished runs of the system `name` on the settings' data, at least one.

    Raises:
        DataError: if there is none, or if they were trained in different ways.
    """
    found = find_runs(settings.runs_dir, name=check_name(name))
    found = [run for run in found if run.config["data"] == settings.kind]
    if not found:
        fault = f"no finished run of {name} on {settings.kind} tiles"
        if [*settings.runs_dir.glob(f"{name}/fold-*/{PLAN_FILE}")]:
            fault = f"{name} is begun, not finished (call again what began it)"
        remedy = f"train it by `python -m helpers train {name} --fold 0`"
        raise DataError(f"{settings.runs_dir}: {fault}: {remedy}")
    for run in found:
        if not run.is_like(found[0]):
            fault = f"made with other settings than {found[0].name}"
            remedy = "move one away, or train them alike"
            raise DataError(f"{run.folder}: {fault}: {remedy}")
    return found


def find_members(settings: Settings, *names: str) -> dict[Run, float]:
    """`{Run: weight}` of the finished folds of systems or ensembles of equal weight."""
    pairs = []
    for name in names:
        has_runs = (settings.runs_dir / check_name(name)).is_dir()
        members = ((name, 1.0),) if has_runs else systems.get(name).members
        total = sum(weight for _, weight in members)
        pairs += [(member, weight / total) for member, weight in members]
    return share(settings, pairs)


def share(settings: Settings, pairs: Sequence[tuple[str, float]]) -> dict[Run, float]:
    """`{Run: weight}`, summing to 1, of all folds of (system, weight) pairs."""
    weights: dict[Run, float] = {}
    for name, weight in pairs:
        found, part = folds_of(settings, name), weight / sum(x for _, x in pairs)
        for run in found:
            weights[run] = weights.get(run, 0.0) + part / len(found)
    return weights


def predict(
    members: Mapping[Run, float],
    images: np.ndarray,
    progress: Callable | None = None,
    tta: bool | None = None,
) -> np.ndarray:
    """Weighted mean of the runs' probabilities, float32 (n, 101, 101)."""
    total, mean = _total(members), np.zeros(images.shape, np.float32)
    for run, weight in members.items():
        mean += weight * run.predict(images, progress, tta)
    return mean / total


def _total(members: Mapping[Run, float]) -> float:
    total = sum(members.values())
    if 0 < total < math.inf and min(members.values()) >= 0:
        return total
    raise ValueError(f"weights must be positive, at least one: {[*members.values()]}")


def out_of_fold(
    members: Mapping[Run, float], tiles: Tiles, tta: bool | None = None
) -> tuple[Tiles, np.ndarray]:
    """`(tiles, mean)`: the tiles that all systems left out, float32 (n, 101, 101)."""
    total, mean = _total(members), np.zeros(tiles.images.shape, np.float32)
    place = pd.Index(tiles.ids)
    left_out = {run.system: np.zeros(len(tiles), bool) for run in members}
    for run in members:
        ids, probabilities = run.validation(tta)
        where = place.get_indexer(ids)
        known = where >= 0  # the others are not among the tiles
        weight = sum(w for fold, w in members.items() if fold.system == run.system)
        mean[where[known]] += weight * probabilities[known]
        left_out[run.system][where[known]] = True
    chosen = np.all([*left_out.values()], axis=0)
    return tiles.take(chosen), mean[chosen] / total
