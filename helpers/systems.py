"""The registry: every system is one frozen row; nothing here knows how it works.

A row says all that makes two trainings differ: the network, how a tile becomes its
input, the stages (losses, optimiser, epochs, learning rate), the augmentation, the
folds, the inference. Rows are compared by value and written into every run, so that a
run says how it was made. Where a published system has a fault, the row does the right
thing and says beside it what was wrong; what its authors do not tell, such as the
widths of a decoder or the ranges of an augmentation, is our choice.
"""

from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

import pandas as pd

from helpers.augmentation import Augmentation
from helpers.pipeline import Frame
from helpers.recipe import Ensemble, Network, Stage, System

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
        frame=Frame(128, "resize"),
        augmentation=Augmentation(zoom=0.1, brightness=0.1),
        flips=False,
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
            stem=1,
            up="upsample",
            centre=256,
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
        smallest=10,
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
        network=Network(filters=16, depth=4, blocks=2, stem=2, residual=True),
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
        frame=Frame(128, "resize"),
        augmentation=Augmentation(flip=0.0),
        flips=False,
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
            stem=1,
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
    parts = ("residual", "centre", "dilations", "scse", "hypercolumn", "gate", "deep")
    parts = [part for part in parts if getattr(network, part) != getattr(plain, part)]
    changes, off = asdict(row.augmentation), asdict(Augmentation(flip=0.0))
    changed = [key for key in changes if changes[key] != off[key]]
    return {
        "network": " + ".join([network.encoder, *parts]),
        "weights": network.weights or "random",
        "input": f"{row.frame.mode} to {row.frame.size}",
        "losses": ", then ".join(stage.loss for stage in row.stages),
        "epochs": row.epochs,
        "learning rate": row.stages[0].learning_rate,
        "rule": row.stages[0].schedule,
        "optimizer": row.stages[0].optimizer,
        "batch": row.batch_size,
        "augmentation": ", ".join(x for x in changed if x not in _HOW_OFTEN),
        "folds": f"{row.folds} by {row.stratify}",
        "left out": f"masks of 1 to {row.smallest - 1} pixels" if row.smallest else "",
        "flips": row.flips,
        "threshold": "searched" if row.search else "0.5",
        "published": row.published,
    }
