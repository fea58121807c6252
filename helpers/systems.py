"""Systems: what makes two training runs differ, one frozen row for each.

A row holds the network, how a tile becomes its input, the stages (losses, optimizer,
epochs, learning rate), the augmentation, the folds and the inference. Rows are compared
by value and written into every run, so that a run says how it was made. Where a
published system has a fault, the row does the right thing and says beside it what was
wrong; what its authors do not tell is our choice.
"""

import json
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from helpers.augmentation import Augmentation
from helpers.batches import ResizeOrPad
from helpers.config import Budget
from helpers.utils.files import DataError, atomic_write


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
    stem_stride: int | None = None
    residual: bool = False
    dropout: float = 0.0
    decoder_filters: tuple[int, ...] | None = None
    frozen: tuple[str, ...] = ()
    upsampling: str = "transpose"
    center_block: int = 0
    dilations: tuple[int, ...] = ()
    scse: bool = False
    hypercolumn: tuple[int, ...] = ()
    gate: bool = False
    deep_supervision: bool = False

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
    deep_supervision: float = 0.0

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
        network, transform, stages, augmentation: see the classes.
        batch_size: tiles a step.
        tta: whether predictions are averaged with those of the flipped tile.
        search: whether threshold and smallest mask are chosen, by cross-fitting, on
            the folds' tiles; otherwise the threshold is 0.5.
        stratify, folds: what the folds are made alike in, and their number, see
            `data.make_folds`.
        min_mask_size: masks of fewer pixels, but not empty ones, are not trained on.
        tiles: training tiles at most, `None` for all.
        published: what the authors report, in words.
    """

    name: str
    title: str
    source: str
    network: Network
    stages: tuple[Stage, ...]
    transform: ResizeOrPad = ResizeOrPad(128, "pad")
    augmentation: Augmentation = Augmentation()
    batch_size: int = 32
    tta: bool = True
    search: bool = False
    stratify: str = "coverage+depth"
    folds: int = 5
    min_mask_size: int = 0
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
        transform, stages = self.transform, self.stages
        stratify, folds = self.stratify, self.folds
        if budget.size != transform.size:
            transform = ResizeOrPad(budget.size, "resize")
        if budget.epochs is not None:
            counts = _shares([stage.epochs for stage in stages], budget.epochs)
            stages = tuple(
                replace(stage, epochs=count, schedule="cosine")
                for stage, count in zip(stages, counts, strict=True)
            )
            stratify, folds = System.stratify, System.folds
        return replace(
            self,
            transform=transform,
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
    with atomic_write(path) as beside:
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
        parts = {
            "network": Network,
            "transform": ResizeOrPad,
            "augmentation": Augmentation,
        }
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


_JAIN = "Aditya Jain, TGS_Salt_Identify_Kaggle-ImgSeg-DL (GitHub)"
_JAIN_STAGES = (
    Stage("jain-mix", 60, 1e-3, "plateau", patience=5, stopping=15, floor=1e-4),
)


def _jain(encoder: str, title: str, published: str = "", **network: Any) -> System:
    """Jain's row; the encoder is what differs.

    Faults of the published code that are not repeated: its Lovasz term got labels and
    logits in swapped places and so had no gradient; its augmentation moved the image
    but not the mask; it flipped tiles before they were split, so that a tile and its
    flip could lie on both sides; and it reported the score of the tiles on which it
    had searched the threshold. His brightness is a factor from 0.9 to 1.1; here it is
    a tenth of the grey range that is added or taken away.
    """
    return System(
        name=f"jain-{encoder}",
        title=title,
        source=_JAIN,
        network=Network(encoder=encoder, dropout=0.1, **network),
        stages=_JAIN_STAGES,
        transform=ResizeOrPad(128, "resize"),
        augmentation=Augmentation(zoom=0.1, brightness=0.1),
        tta=False,
        stratify="depth",
        published=published,
    )


def _jain_pretrained(
    encoder: str, title: str, frozen: tuple[str, ...], published: str = ""
) -> System:
    """Jain's decoder on an encoder that is frozen but for its last stage."""
    network = {"weights": "imagenet", "frozen": frozen, **_JAIN_DECODER}
    return _jain(encoder, title, published, **network)


_JAIN_DECODER: dict[str, Any] = {"decoder_filters": (512, 256, 128, 64)}
_VGG_FROZEN = ("block1", "block2", "block3", "block4")
_RESNET_FROZEN = ("stem", "layer1", "layer2", "layer3")


def _olsen(depth: int, published: str) -> System:
    """Olsen's row; the depth of the encoder is what differs.

    His weight decay is Adam's of PyTorch, which adds it to the gradient; here it is
    taken from the weights themselves. Of his five decoder blocks the first is the
    stage below the encoder (`centre`), which has no features beside it.
    """
    plateau: dict[str, Any] = {
        "learning_rate": 1e-4,
        "schedule": "plateau",
        "patience": 10,
        "factor": 0.5,
        "weight_decay": 1e-4,
        "gate": 0.1,
    }
    return System(
        name=f"olsen-seresnext{depth}",
        title=f"Gated SE-ResNeXt-{depth} with scSE and hypercolumn",
        source="Terkel Bo Olsen, 127th place (GitHub)",
        network=Network(
            encoder=f"seresnext{depth}",
            weights="imagenet",
            stem_stride=1,
            upsampling="bilinear",
            center_block=256,
            decoder_filters=(64, 64, 64, 64),
            scse=True,
            hypercolumn=(2, 4, 8, 16),
            gate=True,
        ),
        stages=(
            Stage("dice+0.2bce", 20, **plateau, stopping=20),
            Stage("lovasz-elu", 100, **plateau, stopping=100),
        ),
        augmentation=_OLSEN_AUGMENTATION,
        batch_size=10,
        stratify="type",
        min_mask_size=10,
        published=published,
    )


_OLSEN_AUGMENTATION = Augmentation(
    zoom=0.1,
    shift=0.06,
    rotation=10.0,
    crop=50 / 101,
    elastic=0.02,
    grid=0.3,
    brightness=0.2,
    gamma=0.25,
    blur=0.02,
    probability=0.8,
    one_of=(
        ("zoom+shift+rotation", "crop", "elastic"),
        ("grid", "brightness", "gamma", "blur"),
    ),
)

_ALL = (
    System(
        name="salt-net",
        title="Our default: residual U-Net at half size, Lovasz at the end",
        source="this repository",
        network=Network(filters=16, depth=4, blocks=2, stem_stride=2, residual=True),
        stages=(
            Stage("bce+dice", 120, 1e-3),
            Stage("lovasz-elu", 80, 5e-4, warm_up=0),
        ),
        augmentation=Augmentation(
            zoom=0.1, shift=0.06, brightness=0.08, contrast=0.1, gamma=0.1
        ),
    ),
    # Published: double convolutions whose second half read the block's input once more,
    # so that they were single; and a random split in place of folds that are alike.
    System(
        name="lavinama-unet",
        title="Plain U-Net, binary cross-entropy (double convolutions that are double)",
        source="lavinama, UNet (GitHub)",
        network=Network(filters=16, depth=4, dropout=0.05),
        stages=(Stage("bce", 100, 1e-3, "plateau"),),
        transform=ResizeOrPad(128, "resize"),
        augmentation=Augmentation(flip=0.0),
        tta=False,
        folds=10,
        published="validation loss 0.187",
    ),
    _jain("scratch", "Jain's U-Net from scratch", filters=32, depth=4, **_JAIN_DECODER),
    _jain_pretrained("vgg16", "Jain's U-Net on VGG16", _VGG_FROZEN),
    _jain_pretrained("resnet34", "Jain's U-Net on ResNet34", _RESNET_FROZEN),
    _jain_pretrained(
        "vgg19",
        "Jain's best: U-Net on VGG19",
        _VGG_FROZEN,
        "private 0.676, public 0.649",
    ),
    # Published: the threshold was searched on the tiles that were reported; here it is
    # cross-fitted. Its folds were random; these are alike in coverage and depth.
    System(
        name="bronze-inceptionresnet",
        title="Inception-ResNet-v2 with dilated branches and hypercolumn, Lovasz only",
        source="227th place (GitHub)",
        network=Network(
            encoder="inceptionresnetv2",
            weights="imagenet",
            stem_stride=1,
            dilations=(1, 3, 5, 7),
            decoder_filters=(256, 128, 64, 32),
            hypercolumn=(4, 8, 16),
        ),
        stages=(
            Stage(
                "lovasz",
                200,
                2e-4,
                "plateau",
                patience=6,
                factor=0.5,
                stopping=40,
                optimizer="rmsprop",
            ),
        ),
        augmentation=Augmentation(zoom=30 / 101, shift=15 / 101, rotation=2.5),
        batch_size=48,
        search=True,
        published="five folds, mean 0.843",
    ),
    _olsen(50, "private 0.871, public 0.851"),
    _olsen(101, "private 0.874, public 0.855"),
    Ensemble(
        name="olsen-ensemble",
        title="Both of Olsen's networks, the deeper one counting more",
        source="Terkel Bo Olsen, 127th place (GitHub)",
        members=(("olsen-seresnext50", 0.3), ("olsen-seresnext101", 0.7)),
        published="private 0.875, public 0.855",
    ),
)
SYSTEMS = {system.name: system for system in _ALL}
if len(SYSTEMS) < len(_ALL):
    raise ValueError("helpers/systems.py: two rows have one name: rename one of them")
DEFAULT = "salt-net"


def get(name: str) -> System | Any:  # Any: an `Ensemble`
    """The row of that name.

    Args:
        name: a key of `SYSTEMS`.

    Returns:
        `System`, or `Ensemble`.

    Raises:
        ValueError: for an unknown name; the message lists the near or all names.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    near = get_close_matches(name, SYSTEMS) or list(SYSTEMS)
    raise ValueError(f"unknown system {name!r}; did you mean {' or '.join(near)}?")


def table() -> pd.DataFrame:
    """All rows side by side, for people: DataFrame, a row a system."""
    rows = {name: _summary(row) for name, row in SYSTEMS.items()}
    blank = dict.fromkeys(rows[DEFAULT], "")  # an ensemble has no stages of its own
    table = pd.DataFrame({name: blank | row for name, row in rows.items()}).T
    return table.rename_axis("system")


_HOW_OFTEN = ("probability", "one_of")  # of the augmentation: no changes themselves


def _summary(row: System | Ensemble) -> dict[str, Any]:
    """One line of the table."""
    if isinstance(row, Ensemble):
        mean = " + ".join(f"{weight:g} {name}" for name, weight in row.members)
        return {"network": mean, "published": row.published}
    network, plain = row.network, Network()
    parts = (
        "residual",
        "center_block",
        "dilations",
        "scse",
        "hypercolumn",
        "gate",
        "deep_supervision",
    )
    parts = [part for part in parts if getattr(network, part) != getattr(plain, part)]
    changes, off = asdict(row.augmentation), asdict(Augmentation(flip=0.0))
    changed = [key for key in changes if changes[key] != off[key]]
    return {
        "network": " + ".join([network.encoder, *parts]),
        "weights": network.weights or "random",
        "input": f"{row.transform.mode} to {row.transform.size}",
        "losses": ", then ".join(stage.loss for stage in row.stages),
        "epochs": row.epochs,
        "learning rate": row.stages[0].learning_rate,
        "rule": row.stages[0].schedule,
        "optimizer": row.stages[0].optimizer,
        "batch": row.batch_size,
        "augmentation": ", ".join(x for x in changed if x not in _HOW_OFTEN),
        "folds": f"{row.folds} by {row.stratify}",
        "left out": f"masks of 1 to {row.min_mask_size - 1} pixels"
        if row.min_mask_size
        else "",
        "tta": row.tta,
        "threshold": "searched" if row.search else "0.5",
        "published": row.published,
    }
