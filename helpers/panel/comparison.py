"""The numbers behind the panel: predictions, scores, and the choice that is kept."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd

from helpers import inference, metrics
from helpers.config import Settings
from helpers.data import Tiles
from helpers.inference import PostProcess
from helpers.training import runs
from helpers.training.runs import Run
from helpers.utils.files import DataError, atomic_write

ORDERS = ("worst score", "disagreement", "coverage")
CHOICE = "choice.json"
Weights = tuple[tuple[str, float], ...]  # (name of a system, weight) pairs


class Result(NamedTuple):
    """How good masks are, from `evaluate`."""

    scores: np.ndarray  # the competition's score of each tile: float (n,)
    passed: np.ndarray  # the share of tiles above each IoU threshold: float (10,)
    mistakes: np.ndarray  # shares: empty tiles with false salt, salt tiles left empty


def evaluate(truth: np.ndarray, masks: np.ndarray) -> Result:
    """Compare masks with the truth, both bool (n, height, width): `Result`."""
    counted = (map(np.count_nonzero, x) for x in (truth, masks, truth & masks))
    true, guess, both = (np.array([*counts]) for counts in counted)
    passed = metrics.passed(both, true + guess - both)
    false, missed = guess[true == 0] > 0, guess[true > 0] == 0
    mistakes = [one.sum() / max(len(one), 1) for one in (false, missed)]
    return Result(passed.mean(axis=1), passed.mean(axis=0), np.array(mistakes))


class Comparison:
    """Several systems' predictions of the same held-out tiles.

    Args:
        chosen: `runs.Run`s; the folds of one system are taken together.
        tiles: labelled `data.Tiles`.

    Raises:
        DataError: if there is no run, or if no tile was held out by every system.
    """

    def __init__(self, chosen: Collection[Run], tiles: Tiles) -> None:
        if not chosen:
            raise DataError("no run to compare: select one, or train a system first")
        self.tiles, _ = runs.out_of_fold(dict.fromkeys(chosen, 1.0), tiles)
        if not len(self.tiles):
            raise DataError("no tile is held out by all systems: choose the same folds")
        self.runs: dict[str, list[Run]] = {}  # by name of their system
        for run in chosen:
            self.runs.setdefault(run.system, []).append(run)
        self.probabilities = lru_cache(maxsize=None)(self._read)
        self.systems = {name: self.probabilities(name) for name in self.runs}
        self.results = lru_cache(maxsize=8)(self._evaluate)

    def _read(self, name: str, tta: bool | None = None) -> np.ndarray:
        """Probabilities, uint8 (n, 101, 101); by default with the TTA of its row."""
        members = dict.fromkeys(self.runs[name], 1.0)
        return inference.as_bytes(runs.out_of_fold(members, self.tiles, tta)[1])

    def _evaluate(self, post_process: PostProcess) -> dict[str, Result]:
        """{name of a system: its `Result`}."""
        truth, systems = self.tiles.masks, self.systems.items()
        return {name: evaluate(truth, post_process(values)) for name, values in systems}

    def mix(self, weights: Weights, tta: bool | None = None) -> np.ndarray:
        """Weighted mean of the systems' probabilities, uint8 (n, 101, 101)."""
        total = sum(weight for _, weight in weights)
        mean = np.zeros(self.tiles.images.shape, np.float32)
        for name, weight in weights:
            mean += np.float32(weight / total) * self.probabilities(name, tta)
        return np.rint(mean).astype(np.uint8)

    def order(self, by: str, post_process: PostProcess) -> np.ndarray:
        """Positions of the tiles, int (n,), sorted by one of `ORDERS`.

        Disagreement is the range of the systems' probabilities, averaged over pixels.
        """
        if by == "coverage":
            key = -self.tiles.coverage
        elif by == "disagreement":
            key = -np.ptp([*self.systems.values()], axis=0).mean(axis=(1, 2))
        else:
            results = self.results(post_process).values()
            key = np.mean([result.scores for result in results], axis=0)
        return np.argsort(key, kind="stable")

    def table(self, post_process: PostProcess) -> pd.DataFrame:
        """Each system's score and costs, formatted: DataFrame of str."""
        scores = [one.scores.mean() for one in self.results(post_process).values()]
        configs = [self.runs[name][0].config for name in self.systems]
        columns = {
            "system": list(self.systems),
            "score": [f"{score:.4f}" for score in scores],
            "parameters": [f"{one['parameters'] / 1e6:.2f} M" for one in configs],
            "per tile": [f"{1000 * one['seconds_per_tile']:.1f} ms" for one in configs],
        }
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class Choice:
    """What the reader has chosen to submit with."""

    weights: Weights  # all of them positive
    tta: bool  # average with the predictions of the mirrored tiles
    post_process: PostProcess

    def save(self, settings: Settings) -> Path:
        """Write `choice.json` into the output folder and return its path."""
        path = settings.output_dir / CHOICE
        made_for = {"data": settings.kind, "profile": settings.profile.name}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(made_for | asdict(self), indent=1))
        return path

    @classmethod
    def load(cls, settings: Settings) -> Self | None:
        """Read `choice.json`; `None` without one for these data and this profile.

        Raises:
            DataError: if the file does not hold a choice.
        """
        path = settings.output_dir / CHOICE
        if not path.exists():
            return None
        try:
            kept = json.loads(path.read_text())
            weights = tuple((str(name), float(w)) for name, w in kept["weights"])
            if not weights or min(weight for _, weight in weights) <= 0:
                raise ValueError("weights must be positive")
            choice = cls(weights, kept["tta"], PostProcess(**kept["post_process"]))
            made_for = str(kept["data"]), str(kept["profile"])
        except (ValueError, KeyError, TypeError) as error:
            fault = f"not a choice ({error}): delete it, or keep one again"
            raise DataError(f"{path}: {fault}") from error
        if made_for != (settings.kind, settings.profile.name):
            print(f"{CHOICE}: not used; kept for {' tiles, profile '.join(made_for)}")
            return None
        print(f"{CHOICE}: using what you chose in the panel; delete it to undo")
        return choice

    def members(self, settings: Settings) -> dict[Run, float]:
        """{`runs.Run`: weight}, summing to 1; `DataError` if a system has no run."""
        members: dict[Run, float] = {}
        total = sum(weight for _, weight in self.weights)
        for name, weight in self.weights:
            folds = runs.folds_of(settings, name)
            members |= dict.fromkeys(folds, weight / total / len(folds))
        return members
