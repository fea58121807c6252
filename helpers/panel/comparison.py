"""The numbers behind the panel: predictions, scores, and the choice that is kept."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np

from helpers import inference
from helpers.config import Settings
from helpers.data import Tiles
from helpers.inference import PostProcess, bootstrap_ci
from helpers.metrics import precision_per_image
from helpers.training import runs
from helpers.training.runs import Run
from helpers.utils.files import DataError, atomic_write

CHOICE = "choice.json"
Weights = tuple[tuple[str, float], ...]  # (name of a system, weight) pairs


class Comparison:
    """Predictions of the tiles that all systems of the `chosen` runs have held out.

    Raises:
        DataError: if there is no run, or if no tile was held out by every system.
    """

    def __init__(self, chosen: Collection[Run], tiles: Tiles) -> None:
        if not chosen:
            raise DataError("no run to compare: select one, or train a system first")
        self.tiles, _ = runs.out_of_fold(dict.fromkeys(chosen, 1.0), tiles)
        if not len(self.tiles):
            raise DataError("no tile is held out by all systems: choose the same folds")
        # All is read at once: runs may be deleted while they are shown.
        self.systems, self._tta = {}, {}  # probabilities, uint8 (n, 101, 101), by name
        for name in dict.fromkeys(run.system for run in chosen):
            folds = [run for run in chosen if run.system == name]
            members = dict.fromkeys(folds, 1.0)
            both = [runs.out_of_fold(members, self.tiles, x)[1] for x in (False, True)]
            self._tta[name] = [inference.as_bytes(values) for values in both]
            self.systems[name] = self._tta[name][folds[0].config["system"]["tta"]]
        self.results = lru_cache(maxsize=8)(self._evaluate)

    def _evaluate(self, post_process: PostProcess) -> dict[str, np.ndarray]:
        """{name of a system: the score of each tile, float (n,)}, the best first."""
        masks = {name: post_process(x) for name, x in self.systems.items()}
        scores = {x: precision_per_image(self.tiles.masks, masks[x]) for x in masks}
        return dict(sorted(scores.items(), key=lambda item: -item[1].mean()))

    def headline(self, post_process: PostProcess) -> str:
        """Which system is best, and is its lead more than luck: one sentence."""
        (best, scores), *others = self.results(post_process).items()
        text = f"{best} scores {scores.mean():.4f} on {len(scores)} tiles"
        for second, lower in others[:1]:
            low, high = bootstrap_ci(scores - lower)
            text += f", {(scores - lower).mean():.4f} more than {second} (95 % interval"
            verdict = "a clear lead" if low > 0 else "too close to call"
            text += f" {low:.3f} to {high:.3f}): {verdict}"
        return text

    def mix(self, weights: Weights, tta: bool) -> np.ndarray:
        """Weighted mean of the systems' probabilities, uint8 (n, 101, 101)."""
        total = sum(weight for _, weight in weights)
        mean = np.zeros(self.tiles.images.shape, np.float32)
        for name, weight in weights:
            mean += np.float32(weight / total) * self._tta[name][tta]
        return np.rint(mean).astype(np.uint8)

    def order(self, post_process: PostProcess) -> np.ndarray:
        """Positions of the tiles, int (n,), sorted by how much the systems differ.

        First are tiles with salt, and of these those that one of them finds.
        """
        scores = np.array([*self.results(post_process).values()])
        best, gap = scores.max(axis=0), np.ptp(scores, axis=0)
        empty = self.tiles.coverage == 0
        return np.lexsort((-best, -gap, empty))  # by the last key first


@dataclass(frozen=True)
class Choice:
    """What the reader has chosen to submit with: an ensemble, TTA, post-processing.

    Raises:
        ValueError: if no system has a weight, or if one is not a positive number.
    """

    weights: Weights
    tta: bool
    post_process: PostProcess

    def __post_init__(self) -> None:
        if not self.weights or not all(0 < x < np.inf for _, x in self.weights):
            raise ValueError("give at least one system a weight above 0")

    def save(self, settings: Settings) -> Path:
        """Write `choice.json` into the output folder; returns its path."""
        path = settings.output_dir / CHOICE
        made_for = {"data": settings.kind, "profile": settings.profile.name}
        with atomic_write(path) as draft:
            draft.write_text(json.dumps(made_for | asdict(self), indent=1))
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
            choice = cls(weights, kept["tta"], PostProcess(**kept["post_process"]))
            made_for = str(kept["data"]), str(kept["profile"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a choice ({error}): delete it") from error
        if made_for != (settings.kind, settings.profile.name):
            print(f"{CHOICE}: not used; kept for {' tiles, profile '.join(made_for)}")
            return None
        print(f"{CHOICE}: using what you chose in the panel; delete it to undo")
        return choice

    def members(self, settings: Settings) -> dict[Run, float]:
        """{`runs.Run`: weight}, summing to 1; `DataError` if a system has no run."""
        return runs.share(settings, self.weights)
