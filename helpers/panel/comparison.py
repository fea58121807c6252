"""Runs side by side: the numbers behind the figures and sliders of `explore`.

Probabilities are kept as bytes. Nothing is computed twice: scores are remembered for
every rule, and the connected groups of a threshold for every smallest size.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np

from helpers import inference, metrics
from helpers.config import Settings
from helpers.data import Tiles, coverage_class
from helpers.inference import PostProcess
from helpers.training import runs
from helpers.training.runs import Run
from helpers.utils.files import DataError, atomic_write

BINS = 10  # of probability, in a calibration


class Prediction:
    """What a system, or a mean of several, says of some tiles.

    Args:
        truth: bool (n, height, width).
        probabilities: uint8 (n, height, width), 255 is 1.
    """

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray) -> None:
        self.truth, self.probabilities = truth, probabilities
        self.salt = np.count_nonzero(truth, axis=(1, 2))
        self.counts = lru_cache(maxsize=64)(self._counts)
        self._groups = lru_cache(maxsize=1)(self._find_groups)
        self.calibration = lru_cache(maxsize=1)(self._calibration)

    def _counts(self, rule: PostProcess) -> tuple[np.ndarray, np.ndarray]:
        """Pixels in the intersection and the union of each tile: two int (n,)."""
        if rule.min_component_size > 1:
            tile, area, both = self._groups(rule.threshold)
            kept = area >= rule.min_component_size
            area = np.bincount(tile[kept], area[kept], len(self.truth)).astype(int)
            both = np.bincount(tile[kept], both[kept], len(self.truth)).astype(int)
        else:
            masks = inference.above(self.probabilities, rule.threshold)
            area = np.array([np.count_nonzero(mask) for mask in masks])
            masks &= self.truth
            both = np.array([np.count_nonzero(mask) for mask in masks])
        few = area < rule.min_mask_size
        area, both = np.where(few, 0, area), np.where(few, 0, both)
        return both, area + self.salt - both

    def _find_groups(self, threshold: float) -> tuple[np.ndarray, ...]:
        """Of each connected group: its tile, its pixels, those that are truly salt."""
        masks = inference.above(self.probabilities, threshold)
        labels, sizes = inference.components(masks)
        inside = labels[masks]
        both = np.bincount(inside, self.truth[masks], len(sizes)).astype(int)
        first = np.empty(len(sizes), int)
        first[inside] = np.repeat(
            np.arange(len(masks)), np.count_nonzero(masks, axis=(1, 2))
        )
        return first[1:], sizes[1:], both[1:]

    def scores(self, rule: PostProcess) -> np.ndarray:
        """The competition's score of each tile: float (n,)."""
        return metrics.precision_of_counts(*self.counts(rule))

    def passed(self, rule: PostProcess) -> np.ndarray:
        """Share of the tiles that exceed each of the ten IoU thresholds: (10,)."""
        return metrics.passed(*self.counts(rule)).mean(axis=0)

    def confusion(self, rule: PostProcess) -> np.ndarray:
        """Tiles by truth (row: empty, salt) and prediction (column): int (2, 2)."""
        both, union = self.counts(rule)
        said = (union - self.salt + both) > 0
        table = np.zeros((2, 2), int)
        np.add.at(table, ((self.salt > 0).astype(int), said.astype(int)), 1)
        return table

    def _calibration(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean probability and true share of salt in ten bins: two float (10,).

        A bin that holds less than a thousandth of the pixels says NaN.
        """
        pixels = np.bincount(self.probabilities.ravel(), minlength=256)
        salt = np.bincount(self.probabilities[self.truth], minlength=256)
        values = np.arange(256) / 255
        bins = np.minimum((BINS * values).astype(int), BINS - 1)
        total = np.bincount(bins, pixels)
        total[total < pixels.sum() / 1000] = np.nan
        said = np.bincount(bins, pixels * values)
        return said / total, np.bincount(bins, salt) / total


class Comparison:
    """Some systems' predictions of tiles that none of them was trained on.

    Args:
        chosen: `runs.Run`s; folds of one system speak together.
        tiles: labelled `data.Tiles`.

    Attributes:
        runs: {system: its runs}.
        tiles: those of the tiles that every system has left out, `data.Tiles`.
        systems: {system: `Prediction`}.

    Raises:
        DataError: if there is no run, or no such tile.
    """

    def __init__(self, chosen: Iterable[Run], tiles: Tiles) -> None:
        self.runs: dict[str, list[Run]] = {}
        for run in chosen:
            self.runs.setdefault(run.system, []).append(run)
        if not self.runs:
            raise DataError("there is no finished run to compare: train a system first")
        every = {run: 1 / len(same) for same in self.runs.values() for run in same}
        self.tiles, _ = runs.out_of_fold(every, tiles)
        if not len(self.tiles):
            raise DataError(
                "no tile was left out by all of these systems: choose the same folds"
            )
        self._said = lru_cache(maxsize=None)(self._read)
        self.systems = {name: self.prediction(name) for name in self.runs}

    def prediction(self, name: str, tta: bool | None = None) -> Prediction:
        """`Prediction` of a system, averaged with mirrored tiles or not."""
        return self._said(name, tta)

    def _read(self, name: str, tta: bool | None) -> Prediction:
        members = dict.fromkeys(self.runs[name], 1.0)
        _, probabilities = runs.out_of_fold(members, self.tiles, tta)
        return Prediction(self.tiles.masks, inference.as_bytes(probabilities))

    def mix(self, weights: Mapping[str, float], tta: bool | None = None) -> Prediction:
        """`Prediction` of a weighted mean: {system: weight}, not all of them 0."""
        total = np.float32(0)
        for name, weight in weights.items():
            if weight:
                part = self.prediction(name, tta).probabilities
                total = total + np.float32(weight / sum(weights.values())) * part
        return Prediction(self.tiles.masks, np.rint(total).astype(np.uint8))

    def disagreement(self) -> np.ndarray:
        """How far the systems' probabilities lie apart, mean over pixels: (n,)."""
        said = [prediction.probabilities for prediction in self.systems.values()]
        apart = np.maximum.reduce(said) - np.minimum.reduce(said)
        return apart.mean(axis=(1, 2)) / 255

    def order(self, by: str, rule: PostProcess) -> np.ndarray:
        """Positions of the tiles, the ones to look at first coming first.

        Args:
            by: one of `ORDERS`.
            rule: under which tiles are scored.

        Returns:
            int (n,).
        """
        if by == "worst score":
            scores = [one.scores(rule) for one in self.systems.values()]
            key = np.mean(scores, axis=0)
        elif by == "disagreement":
            key = -self.disagreement()
        elif by == "coverage":
            key = -self.tiles.coverage
        else:
            key = self.tiles.depths if by == "depth" else self.tiles.ids
        return np.argsort(key, kind="stable")

    def by_coverage(self, scores: np.ndarray) -> tuple[list[str], np.ndarray]:
        """`(names, means)` of scores by coverage class; NaN where there is no tile.

        A class is called by the highest share of salt in it, in per cent.
        """
        names = [f"{10 * i}" for i in range(11)]
        return names, _means(scores, coverage_class(self.tiles.coverage), len(names))

    def by_depth(
        self, scores: np.ndarray, parts: int = 5
    ) -> tuple[list[str], np.ndarray]:
        """`(names, means)` of scores by depth, in parts of as many tiles each."""
        rank = np.argsort(np.argsort(self.tiles.depths, kind="stable"), kind="stable")
        part = rank * parts // len(rank)
        depths = [self.tiles.depths[part == number] for number in range(parts)]
        names = [f"{d.min()}-{d.max()}" if len(d) else "" for d in depths]
        return names, _means(scores, part, parts)


ORDERS = ("worst score", "disagreement", "coverage", "depth", "id")


def _means(scores: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Mean score of each group, NaN for an empty one: float (count,)."""
    tiles = np.bincount(groups, minlength=count).astype(float)
    tiles[tiles == 0] = np.nan
    return np.bincount(groups, scores, count) / tiles


@dataclass(frozen=True)
class Choice:
    """What somebody has chosen to submit with.

    Attributes:
        weights: ((system, weight), ...), positive.
        tta: whether predictions are averaged with those of mirrored tiles.
        rule: `inference.PostProcess`.
    """

    weights: tuple[tuple[str, float], ...]
    tta: bool
    rule: PostProcess

    def __str__(self) -> str:
        mix = " + ".join(f"{weight:g} x {name}" for name, weight in self.weights)
        rule = self.rule
        return (
            f"{mix}, threshold {rule.threshold:g}, component {rule.min_component_size}, "
            f"smallest mask {rule.min_mask_size}, flips {'on' if self.tta else 'off'}"
        )

    def save(self, settings: Settings) -> Path:
        """Keep it in the output folder; returns the path."""
        path = settings.output_dir / CHOICE
        with atomic_write(path) as beside:
            made_for = {"data": settings.kind, "profile": settings.profile.name}
            kept = {**made_for, **asdict(self)}
            beside.write_text(json.dumps(kept, indent=1))
        return path

    @classmethod
    def load(cls, settings: Settings) -> Self | None:
        """What is kept in the output folder.

        Args:
            settings: `config.Settings`.

        Returns:
            `Choice`, or `None` if nothing is kept for these data and this profile.
            What is used, or not, is printed, with the way to undo it.

        Raises:
            DataError: for a file that is no choice, or does not say for what.
        """
        choice, told = cls.read(settings)
        if told:
            print(told)
        return choice

    @classmethod
    def read(cls, settings: Settings) -> tuple[Self | None, str]:
        """The same, with what would be printed: `(choice, told)`.

        Raises:
            DataError: as `load`.
        """
        path = settings.output_dir / CHOICE
        if not path.exists():
            return None, ""
        try:
            kept = json.loads(path.read_text())
            weights = tuple((str(name), float(w)) for name, w in kept["weights"])
            if not weights or min(weight for _, weight in weights) <= 0:
                raise ValueError("weights are positive")
            choice = cls(weights, bool(kept["tta"]), PostProcess(**kept["rule"]))
            data, profile = kept["data"], kept["profile"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not a choice ({error}): delete it, or keep one again"
            ) from error
        if data != settings.kind:
            return None, f"{path.name}: kept for {data} tiles, not used for these"
        if profile != (now := settings.profile.name):
            told = f"{path.name}: kept under profile {profile}, not used under {now}"
            return None, told
        told = f"{path.name}: what you chose in the panel is used; delete it to undo"
        return choice, told

    def members(self, settings: Settings) -> dict[Run, float]:
        """{`runs.Run`: weight} of the runs that are there, see `runs.folds_of`."""
        members: dict[Run, float] = {}
        total = sum(weight for _, weight in self.weights)
        for name, weight in self.weights:
            folds = runs.folds_of(settings, name)
            members |= dict.fromkeys(folds, weight / total / len(folds))
        return members


CHOICE = "choice.json"
