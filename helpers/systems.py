"""Systems: everything that distinguishes one training run from another, as a row.

Rows are compared by value and stored with every run. Where a published system has a
fault, its row does the right thing and a comment names the fault; what its authors do
not state is our choice.
"""

from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import pandas as pd

from helpers.augmentation import Augmentation
from helpers.batches import ResizeOrPad
from helpers.config import Budget
from helpers.unet import build_unet


@dataclass(frozen=True)
class Network:
    """Arguments of `unet.build_unet`; `None` leaves a choice to the encoder."""

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

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `build_unet` that are not `None`."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Stage:
    """A number of epochs with one loss and one learning rate schedule."""

    loss: str  # of the mask, a name in `losses.LOSSES`
    epochs: int  # at most
    learning_rate: float = 1e-3  # at the start
    # "cosine" decays to zero. "plateau" multiplies the rate by `factor`, down to
    # `floor`, after `patience` epochs without a better validation score, and stops
    # after `stopping` of them, with the best weights.
    schedule: str = "cosine"
    warm_up: int = 100  # steps of linear warm-up before the cosine
    patience: int = 5
    factor: float = 0.1
    stopping: int = 10
    floor: float = 0.0
    optimizer: str = "adam"  # or "rmsprop", or "muon", see `training.muon`
    weight_decay: float = 0.0  # decoupled: Loshchilov and Hutter 2019, arXiv:1711.05101
    gate: float = 0.0  # weight of the gate's cross-entropy


@dataclass(frozen=True)
class System:
    """One row of the registry."""

    name: str  # also the folder of its runs
    title: str
    source: str  # where it is published
    network: Network
    stages: tuple[Stage, ...]
    transform: ResizeOrPad = ResizeOrPad(128, "pad")
    augmentation: Augmentation = Augmentation()
    batch_size: int = 32
    tta: bool = True  # average the predictions for a tile and its mirror image
    search: bool = False  # cross-fit threshold and `min_mask_size`; else 0.5 and 0
    stratify: str = "coverage+depth"  # see `data.make_folds`
    folds: int = 5
    min_mask_size: int = 0  # do not train on smaller masks, unless they are empty
    tiles: int | None = None  # training tiles at most
    published: str = ""  # the score that the authors report

    @property
    def validation_tiles(self) -> int:
        """Tiles scored after each epoch; a run's score is that of its whole fold."""
        return 320 if self.tiles is None else max(self.tiles // 4, 1)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def members(self) -> tuple[tuple[str, float], ...]:
        """Its own name with weight 1: a system alone is an ensemble of one."""
        return ((self.name, 1.0),)

    def with_weights(self, weights: Path | str) -> Self:
        """A copy with other weights: a path, `"imagenet"`, ..., or `"none"`."""
        changes: dict[str, Any] = {"weights": str(weights)}
        if weights == "none":  # random weights have to be learned: nothing is frozen
            changes = {"weights": None, "frozen": ()}
        return replace(self, network=replace(self.network, **changes))

    def within(self, budget: Budget) -> Self:
        """A copy within a `config.Budget`, comparable with other systems' copies.

        With a limit of epochs all have the same folds, and stages keep their share.
        """
        changes: dict[str, Any] = {"tiles": budget.tiles}
        if budget.size != self.transform.size:
            changes["transform"] = ResizeOrPad(budget.size, "resize")
        if budget.epochs is not None:
            counts = _split([stage.epochs for stage in self.stages], budget.epochs)
            changes["stages"] = tuple(  # a plateau takes longer than a budget allows
                replace(stage, epochs=count, schedule="cosine")
                for stage, count in zip(self.stages, counts, strict=True)
            )
            changes |= {"stratify": System.stratify, "folds": System.folds}
        return replace(self, batch_size=budget.batch_size or self.batch_size, **changes)


def _split(epochs: list[int], budget: int) -> list[int]:
    """Split a budget in proportion to these epochs, at least one each."""
    ends = np.rint(budget * np.cumsum(epochs) / sum(epochs)).astype(int).tolist()
    counts = [max(b - a, 1) for a, b in zip([0, *ends], ends, strict=False)]
    longest = counts.index(max(counts))
    counts[longest] = max(counts[longest] - (sum(counts) - budget), 1)
    return counts


@dataclass(frozen=True)
class Ensemble:
    """A row that is not trained itself: a weighted mean of other rows' predictions."""

    name: str
    title: str
    source: str
    members: tuple[tuple[str, float], ...]  # (name of a row, weight) each
    published: str = ""


# fmt: off
def _jain(encoder: str, title: str, published: str = "", **network: Any) -> System:
    """Jain's U-Nets, which differ in their encoder.

    Published, but not repeated: the Lovasz term received labels and logits in swapped
    order and had no gradient; augmentation moved the image but not the mask; a tile and
    its flip could be on both sides of the split; the threshold was searched on the
    reported tiles. Brightness was a factor of 0.9 to 1.1; here up to 0.1 is added.
    """
    weights = "imagenet" if "frozen" in network else None
    return System(
        name=f"jain-{encoder}",
        title=title,
        source="Aditya Jain, TGS_Salt_Identify_Kaggle-ImgSeg-DL (GitHub)",
        network=Network(
            encoder, weights, decoder_filters=(512, 256, 128, 64), dropout=0.1,
            **network,
        ),
        stages=(Stage("jain-mix", 60, 1e-3, "plateau", stopping=15, floor=1e-4),),
        transform=ResizeOrPad(128, "resize"),
        augmentation=Augmentation(zoom=0.1, brightness=0.1),
        tta=False, stratify="depth", published=published,
    )


def _olsen(depth: int, published: str) -> System:
    """Olsen's networks, which differ in the depth of their encoder.

    His weight decay is that of PyTorch's Adam, added to the gradient; here it is
    decoupled. The first of his five decoder blocks is the center block here.
    """
    first = Stage(
        "dice+0.2bce", 20, 1e-4, "plateau", patience=10, factor=0.5, stopping=20,
        weight_decay=1e-4, gate=0.1,
    )
    return System(
        name=f"olsen-seresnext{depth}",
        title=f"Gated SE-ResNeXt-{depth} with scSE and hypercolumn",
        source="Terkel Bo Olsen, 127th place (GitHub)",
        network=Network(
            f"seresnext{depth}", "imagenet", stem_stride=1, upsampling="bilinear",
            center_block=256, decoder_filters=(64, 64, 64, 64), scse=True,
            hypercolumn=(2, 4, 8, 16), gate=True,
        ),
        stages=(first, replace(first, loss="lovasz-elu", epochs=100, stopping=100)),
        augmentation=Augmentation(
            zoom=0.1, shift=0.06, rotation=10.0, crop=50 / 101, elastic=0.02,
            grid=0.3, brightness=0.2, gamma=0.25, blur=0.02, probability=0.8,
            one_of=(
                ("zoom+shift+rotation", "crop", "elastic"),
                ("grid", "brightness", "gamma", "blur"),
            ),
        ),
        batch_size=10, stratify="type", min_mask_size=10, published=published,
    )


_MUON: Any = {"optimizer": "muon", "weight_decay": 0.05}
_VGG = ("block1", "block2", "block3", "block4")
_RESNET = ("stem", "layer1", "layer2", "layer3")

_ALL = (
    System(
        name="salt-net",
        title="Our default: residual U-Net at half size, Lovasz at the end",
        source="this repository",
        network=Network(weights="geology", filters=16, depth=4, blocks=2,
                        stem_stride=2, residual=True),
        stages=(
            Stage("bce+dice", 60, 0.01, **_MUON),
            Stage("lovasz-elu", 140, 0.005, warm_up=0, **_MUON),
        ),
        augmentation=Augmentation(
            zoom=0.2, shift=0.1, brightness=0.08, contrast=0.2, gamma=0.2
        ),
    ),
    # Published: the second half of each double convolution read the block's input
    # again, which made it a single one; and the split was random, not stratified.
    System(
        name="lavinama-unet",
        title="Plain U-Net, binary cross-entropy (double convolutions that are double)",
        source="lavinama, UNet (GitHub)",
        network=Network(filters=16, depth=4, dropout=0.05),
        stages=(Stage("bce", 100, 1e-3, "plateau"),),
        transform=ResizeOrPad(128, "resize"), augmentation=Augmentation(flip=0.0),
        tta=False, folds=10, published="validation loss 0.187",
    ),
    _jain("scratch", "Jain's U-Net from scratch", filters=32, depth=4),
    _jain("vgg16", "Jain's U-Net on VGG16", frozen=_VGG),
    _jain("resnet34", "Jain's U-Net on ResNet34", frozen=_RESNET),
    _jain(
        "vgg19", "Jain's best: U-Net on VGG19", "private 0.676, public 0.649",
        frozen=_VGG,
    ),
    # Published: random folds, and a threshold that was searched on the reported tiles.
    System(
        name="bronze-inceptionresnet",
        title="Inception-ResNet-v2 with dilated branches and hypercolumn, Lovasz only",
        source="227th place (GitHub)",
        network=Network(
            "inceptionresnetv2", "imagenet", stem_stride=1, dilations=(1, 3, 5, 7),
            decoder_filters=(256, 128, 64, 32), hypercolumn=(4, 8, 16),
        ),
        stages=(
            Stage(
                "lovasz", 200, 2e-4, "plateau", patience=6, factor=0.5, stopping=40,
                optimizer="rmsprop",
            ),
        ),
        augmentation=Augmentation(zoom=30 / 101, shift=15 / 101, rotation=2.5),
        batch_size=48, search=True, published="five folds, mean 0.843",
    ),
    _olsen(50, "private 0.871, public 0.851"),
    _olsen(101, "private 0.874, public 0.855"),
    Ensemble(
        name="olsen-ensemble",
        title="Both of Olsen's networks, the deeper one with the larger weight",
        source="Terkel Bo Olsen, 127th place (GitHub)",
        members=(("olsen-seresnext50", 0.3), ("olsen-seresnext101", 0.7)),
        published="private 0.875, public 0.855",
    ),
)
# fmt: on
SYSTEMS = {system.name: system for system in _ALL}
DEFAULT = "salt-net"


def get(name: str) -> System | Any:  # Any: an `Ensemble`
    """The row of that name, a `System` or an `Ensemble`.

    Raises:
        ValueError: for an unknown name; the message lists similar names, or all.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    near = get_close_matches(name, SYSTEMS) or list(SYSTEMS)
    raise ValueError(f"unknown system {name!r}; did you mean {' or '.join(near)}?")


def load_pretrained(name: str = "salt-net") -> keras.Model:
    """A network that is ready to use: salt-net, trained on synthetic geology alone.

    Raises:
        ValueError: for a system without such weights, or a damaged weight file.
    """
    system = get(name)
    if not isinstance(system, System) or system.network.weights != "geology":
        raise ValueError(f"{name} has no weights of its own: only {DEFAULT} has")
    return build_unet(**system.network.options())


def table() -> pd.DataFrame:
    """All rows side by side: DataFrame, one row per system."""
    rows = pd.DataFrame([vars(row) for row in SYSTEMS.values()], dtype=object)
    stages = [getattr(row, "stages", ()) for row in SYSTEMS.values()]
    rows["losses"] = [", then ".join(stage.loss for stage in x) for x in stages]
    columns = ["title", "losses", "batch_size", "folds", "stratify", "published"]
    return rows.set_index("name")[columns].fillna("")
