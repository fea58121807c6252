"""The registry: every system is one frozen row; nothing here knows how it works.

A row says all that makes two trainings differ: the network, how a tile becomes its
input, the stages (loss, epochs, learning rate), the augmentation, the inference. Rows
are compared by value and written into every run, so that a run says how it was made.
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches

from helpers.pipeline import Augmentation, Frame


@dataclass(frozen=True)
class Network:
    """Arguments of `unet.build_unet`; the fields have the same names and meanings."""

    encoder: str = "scratch"
    weights: str | None = None
    filters: int = 16
    depth: int = 4
    blocks: int = 1
    stem: int = 1
    residual: bool = False
    dropout: float = 0.0
    decoder_filters: tuple[int, ...] | None = None
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One stretch of training under one loss.

    Attributes:
        loss: a name in `losses.LOSSES`.
        epochs: at most so many.
        learning_rate: of Adam, at the start.
        schedule: `"cosine"` falls to zero over the stage, warming up over the first
            hundred steps of the training, and keeps the last weights;
            `"plateau"` multiplies the rate by `factor` after `patience` epochs without
            gain, stops after `stopping` such epochs and keeps the best weights.
        patience, factor, stopping: of the plateau schedule.
    """

    loss: str
    epochs: int
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    patience: int = 5
    factor: float = 0.1
    stopping: int = 10


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
        tiles: training tiles at most, `None` for all.
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
    tiles: int | None = None

    @property
    def watched(self):
        """Validation tiles looked at after each epoch: enough for a curve.

        The score of a run is always that of all tiles of its fold.
        """
        return 320 if self.tiles is None else max(self.tiles // 4, 1)

    @property
    def epochs(self):
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def within(self, budget):
        """The same system cut to a `config.Budget`.

        Stages keep their share of the epochs (at least one each). Waiting for a plateau
        needs more epochs than a budget has, so every stage becomes a cosine.

        Returns:
            A new `System`; equal to this one if the budget has no limits.
        """
        frame, stages = self.frame, self.stages
        if budget.size != frame.size:
            frame = Frame(budget.size, "resize")
        if budget.epochs is not None:
            ends, done = [], 0
            for stage in stages:
                done += stage.epochs
                ends.append(round(budget.epochs * done / self.epochs))
            counts = [b - a for a, b in zip([0, *ends], ends, strict=False)]
            stages = tuple(
                replace(stage, epochs=max(count, 1), schedule="cosine")
                for stage, count in zip(stages, counts, strict=True)
            )
        return replace(
            self,
            frame=frame,
            stages=stages,
            batch_size=budget.batch_size or self.batch_size,
            tiles=budget.tiles,
        )


_JAIN = "Aditya Jain, TGS_Salt_Identify_Kaggle-ImgSeg-DL (GitHub)"
_JAIN_STAGES = (
    Stage("jain-mix", 60, 1e-3, schedule="plateau", patience=5, stopping=15),
)
_JAIN_AUGMENTATION = Augmentation(zoom=0.1, brightness=0.1)


def _jain(encoder, title, **network):
    """Jain's row; the encoder is what differs.

    Two faults of the published code are not repeated: its Lovasz term got labels and
    logits in swapped places and so had no gradient, and its augmentation moved the
    image but not the mask.
    """
    return System(
        name=f"jain-{encoder}",
        title=title,
        source=_JAIN,
        network=Network(encoder=encoder, dropout=0.1, **network),
        stages=_JAIN_STAGES,
        frame=Frame(128, "resize"),
        augmentation=_JAIN_AUGMENTATION,
        flips=False,
    )


_ALL = (
    System(
        name="salt-net",
        title="Our default: residual U-Net at half size, Lovasz at the end",
        source="this repository",
        network=Network(filters=16, depth=4, blocks=2, stem=2, residual=True),
        stages=(
            Stage("bce+dice", 120, 1e-3),
            Stage("lovasz-elu", 80, 5e-4),
        ),
        augmentation=Augmentation(
            zoom=0.1, shift=0.06, brightness=0.08, contrast=0.1, gamma=0.1
        ),
    ),
    System(
        name="lavinama-unet",
        title="Plain U-Net, binary cross-entropy (double convolutions that are double)",
        source="lavinama, UNet (GitHub)",
        network=Network(filters=16, depth=4, dropout=0.05),
        stages=(Stage("bce", 100, 1e-3, schedule="plateau"),),
        frame=Frame(128, "resize"),
        augmentation=Augmentation(flip=0.0),
        flips=False,
    ),
    _jain("scratch", "Jain's U-Net from scratch", filters=32),
    _jain(
        "vgg16",
        "Jain's U-Net on VGG16, frozen but for its last block",
        weights="imagenet",
        decoder_filters=(512, 256, 128, 64),
        frozen=("block1", "block2", "block3", "block4"),
    ),
    _jain(
        "vgg19",
        "Jain's best: U-Net on VGG19, frozen but for its last block",
        weights="imagenet",
        decoder_filters=(512, 256, 128, 64),
        frozen=("block1", "block2", "block3", "block4"),
    ),
)
SYSTEMS = {system.name: system for system in _ALL}
DEFAULT = "salt-net"


def get(name):
    """The row of that name.

    Raises:
        ValueError: for an unknown name; the message lists the near or all names.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    near = get_close_matches(name, SYSTEMS) or list(SYSTEMS)
    raise ValueError(f"unknown system {name!r}; did you mean {' or '.join(near)}?")
