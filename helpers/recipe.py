"""What a system is made of: network, stages, and everything else that is chosen.

These are the empty forms; `systems` holds the published systems that fill them in.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from helpers.augmentation import Augmentation
from helpers.config import Budget
from helpers.files import DataError, write_beside
from helpers.pipeline import Frame


@dataclass(frozen=True)
class Network:
    """Arguments of `unet.build_unet`; the fields have the same names and meanings.

    `None` leaves a choice to the encoder, which knows what its family does.
    """

    encoder: str = "scratch"
    weights: str | None = None
    filters: int | None = None
    depth: int | None = None
    blocks: int | None = None
    stem: int | None = None
    residual: bool = False
    dropout: float = 0.0
    decoder_filters: tuple[int, ...] | None = None
    frozen: tuple[str, ...] = ()
    up: str = "transpose"
    centre: int = 0
    dilations: tuple[int, ...] = ()
    scse: bool = False
    hypercolumn: tuple[int, ...] = ()
    gate: bool = False
    deep: bool = False

    def options(self) -> dict[str, Any]:
        """What is chosen, as keyword arguments of `build_unet`: dict."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Stage:
    """One stretch of training under one loss.

    Attributes:
        loss: of the mask, a name in `losses.LOSSES`.
        epochs: at most so many.
        learning_rate: at the start.
        schedule: `"cosine"` falls to zero over the stage and keeps the last weights;
            `"plateau"` multiplies the rate by `factor` after `patience` epochs without
            gain in the score, but not below `floor`, stops after `stopping` such
            epochs and keeps the best weights.
        warm_up: steps over which the rate of a cosine rises from zero at first.
        restarts: how often a cosine starts again from `learning_rate`. The weights
            before each restart are kept, and their networks predict together with
            the last one ("snapshots", Huang et al. 2017, arXiv:1704.00109).
        patience, factor, stopping, floor: of the plateau schedule.
        optimizer: `"adam"`, `"adamw"` (Adam with a `weight_decay`), `"rmsprop"`, or
            `"sgd"` (Nesterov's momentum of 0.9).
        weight_decay: share of every weight that a step takes away, times the learning
            rate (Loshchilov and Hutter 2019, arXiv:1711.05101).
        clip: longest gradient, all weights together (its norm is cut to this); 0: any.
        average: share of the old value when each step adds the weights to a running
            mean, such as 0.999, which then takes their place (Polyak and Juditsky 1992,
            https://doi.org/10.1137/0330046); 0: no mean.
        gate: weight of the gate's cross-entropy, in a network that has a gate.
        deep: weight of `loss` on every further mask of a deeply supervised network.
    """

    loss: str
    epochs: int
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warm_up: int = 100
    restarts: int = 0
    patience: int = 5
    factor: float = 0.1
    stopping: int = 10
    floor: float = 0.0
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip: float = 0.0
    average: float = 0.0
    gate: float = 0.0
    deep: float = 0.0

    @property
    def cycles(self) -> tuple[int, ...]:
        """How many epochs are done at the end of each cycle of the cosine: tuple."""
        count = min(self.restarts + 1, self.epochs)
        return tuple(round(self.epochs * (i + 1) / count) for i in range(count))


@dataclass(frozen=True)
class System:
    """One row of the registry.

    Attributes:
        name: short name, also the folder of its runs.
        title: one line for people.
        source: where it is published.
        network, frame, stages, augmentation: see the classes.
        batch_size: tiles a step.
        flips: whether predictions are averaged with those of the flipped tile.
        search: whether threshold and smallest mask are chosen, by cross-fitting, on
            the folds' tiles; otherwise the threshold is 0.5.
        stratify, folds: what the folds are made alike in, and their number, see
            `data.make_folds`.
        smallest: masks of fewer pixels, but not empty ones, are not trained on.
        tiles: training tiles at most, `None` for all.
        published: what the authors report, in words.
    """

    name: str
    title: str
    source: str
    network: Network
    stages: tuple[Stage, ...]
    frame: Frame = Frame(128, "pad")
    augmentation: Augmentation = Augmentation()
    batch_size: int = 32
    flips: bool = True
    search: bool = False
    stratify: str = "coverage+depth"
    folds: int = 5
    smallest: int = 0
    tiles: int | None = None
    published: str = ""

    @property
    def watched(self) -> int:
        """Validation tiles looked at after each epoch: enough for a curve.

        The score of a run is always that of all tiles of its fold.
        """
        return 320 if self.tiles is None else max(self.tiles // 4, 1)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def members(self) -> tuple[tuple[str, float], ...]:
        """A system alone is an ensemble of one: its name and weight 1."""
        return ((self.name, 1.0),)

    def with_weights(self, weights: Path | str) -> Self:
        """The same system with other weights in its encoder.

        Args:
            weights: `"imagenet"`, the path of a file, or `"none"`: random weights, of
                which none are frozen, because they must learn.

        Returns:
            A new `System`.
        """
        network = replace(self.network, weights=str(weights))
        if weights == "none":
            network = replace(network, weights=None, frozen=())
        return replace(self, network=network)

    def within(self, budget: Budget) -> Self:
        """The same system cut to a `config.Budget`, to be compared with others.

        Stages keep their share of the epochs (at least one each). Waiting for a plateau
        needs more epochs than a budget has, so every stage becomes a cosine; and all
        systems get the same folds.

        Args:
            budget: epochs, size, tiles and batch size; `None` is no limit.

        Returns:
            A new `System`; equal to this one if the budget has no limits.
        """
        frame, stages = self.frame, self.stages
        stratify, folds = self.stratify, self.folds
        if budget.size != frame.size:
            frame = Frame(budget.size, "resize")
        if budget.epochs is not None:
            counts = _shares([stage.epochs for stage in stages], budget.epochs)
            stages = tuple(
                replace(stage, epochs=count, schedule="cosine")
                for stage, count in zip(stages, counts, strict=True)
            )
            stratify, folds = System.stratify, System.folds
        return replace(
            self,
            frame=frame,
            stages=stages,
            stratify=stratify,
            folds=folds,
            batch_size=budget.batch_size or self.batch_size,
            tiles=budget.tiles,
        )


def _shares(epochs: list[int], budget: int) -> list[int]:
    """Shares of a budget in proportion to these epochs, whole and at least one each."""
    ends = np.rint(budget * np.cumsum(epochs) / sum(epochs)).astype(int).tolist()
    counts = [max(b - a, 1) for a, b in zip([0, *ends], ends, strict=False)]
    longest = counts.index(max(counts))
    counts[longest] = max(counts[longest] - (sum(counts) - budget), 1)
    return counts


@dataclass(frozen=True)
class Ensemble:
    """A row that trains nothing itself: a weighted mean of other rows' predictions.

    Attributes:
        name, title, source, published: as in `System`.
        members: (name of a row, weight) each.
    """

    name: str
    title: str
    source: str
    members: tuple[tuple[str, float], ...]
    published: str = ""


def write(system: System, path: Path | str) -> None:
    """Write a `System` into a JSON file, for `read`."""
    with write_beside(path) as beside:
        beside.write_text(json.dumps(asdict(system), indent=1))


def read(path: Path | str) -> System:
    """Read a `System` from a JSON file.

    Args:
        path: of a file that `write` has made, or of a run's `config.json`.

    Returns:
        `System`, equal to the one that was written.

    Raises:
        DataError: for a file that is missing or holds something else.
    """
    try:
        entry = json.loads(Path(path).read_text())
        entry = _frozen(entry.get("system", entry))
        parts = {"network": Network, "frame": Frame, "augmentation": Augmentation}
        parts = {name: kind(**entry[name]) for name, kind in parts.items()}
        stages = tuple(Stage(**stage) for stage in entry["stages"])
        return System(**{**entry, **parts, "stages": stages})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: no row of a system ({error}): give a run's config.json, or a "
            "file of its kind"
        ) from error


def _frozen(value: Any) -> Any:
    """Lists as tuples, at any depth: what JSON has made of a row, made good."""
    if isinstance(value, dict):
        return {key: _frozen(part) for key, part in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
