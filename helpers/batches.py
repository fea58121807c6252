"""From native tiles to batches, and back.

A tile has 101 x 101 pixels; a network that halves its input five times needs a size
divisible by 32. `ResizeOrPad` brings tiles to that size, by padding or by resizing, and
predictions exactly back. `TileBatches` cuts augmented batches from arrays in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from helpers.augmentation import Augmentation
from helpers.config import TILE
from helpers.utils.hardware import Tensor


@dataclass(frozen=True)
class ResizeOrPad:
    """How a native tile becomes the network's input, and its output a native tile.

    Attributes:
        size: height and width that the network sees.
        mode: `"pad"` mirrors the tile at its border (101 -> 128: 13 pixels before, 14
            after), which keeps every pixel as it is; `"resize"` interpolates
            bilinearly, which works for any size.

    Raises:
        ValueError: for another mode, or padding to fewer than 101 or more than 301
            pixels.
    """

    size: int = 128
    mode: str = "pad"

    def __post_init__(self) -> None:
        if self.mode not in ("pad", "resize"):
            raise ValueError(f"mode is 'pad' or 'resize', not {self.mode!r}")
        if self.mode == "pad" and not TILE <= self.size <= 3 * TILE - 2:
            raise ValueError(f"{TILE} pixels cannot be padded to {self.size}: resize")

    @property
    def inside(self) -> slice:
        """Where the tile lies in a padded transform, a slice of rows and of columns."""
        return slice(self.before, self.before + TILE)

    @property
    def before(self) -> int:
        """Pixels added above and to the left (0 when resizing)."""
        return (self.size - TILE) // 2 if self.mode == "pad" else 0

    def forward(self, images: ArrayLike) -> np.ndarray:
        """Native images or masks to the network's size.

        Args:
            images: uint8 or bool, (n, 101, 101).

        Returns:
            The same dtype, (n, size, size). A resized mask is cut at one half.
        """
        images = np.asarray(images)
        if self.mode == "pad":
            after = self.size - TILE - self.before
            width = (self.before, after)
            return np.pad(images, ((0, 0), width, width), mode="reflect")
        if images.dtype == bool:
            return _resize(images, self.size) >= 0.5
        return np.rint(_resize(images, self.size)).astype(np.uint8)

    def inverse(self, predictions: ArrayLike) -> np.ndarray:
        """Predictions back to 101 x 101: the padding cut off, or resized.

        Args:
            predictions: float, (n, size, size), for example probabilities.

        Returns:
            float32 (n, 101, 101).
        """
        predictions = np.asarray(predictions, np.float32)
        if self.mode == "pad":
            return predictions[:, self.inside, self.inside]
        return _resize(predictions, TILE)


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """(n, h, w) -> float32 (n, size, size), bilinear, smoothed when it shrinks."""
    if not len(images):
        return np.zeros((0, size, size), np.float32)
    images = np.asarray(images, np.float32)[..., None]
    parts = [resize(images[i : i + 256], size) for i in range(0, len(images), 256)]
    return np.concatenate([ops.convert_to_numpy(part)[..., 0] for part in parts])


def resize(tiles: Tensor, size: int) -> Tensor:
    """Tensor (n, h, w, 1) -> (n, size, size, 1), as `ResizeOrPad` resizes."""
    return ops.image.resize(
        tiles,
        (size, size),
        interpolation="bilinear",
        antialias=size < tiles.shape[1],
        data_format="channels_last",
    )


class TileBatches(keras.utils.PyDataset):
    """Batches of a set of tiles, for `model.fit` and `model.evaluate`.

    The order of an epoch and its random changes follow from (seed, epoch) alone: an
    interrupted training that goes on at epoch 7 sees what it would have seen.

    Args:
        images: uint8 (n, 101, 101).
        masks: bool (n, 101, 101).
        transform: a `ResizeOrPad`.
        batch_size: tiles a batch; the last batch may be shorter.
        augmentation: an `Augmentation`; `None` keeps tiles and order as they are.
        seed: integer.
        outputs: names of the network's outputs, if it has several: `"gate"` is given
            whether a tile has salt, every other one the mask.
        devices: how many devices divide each batch; tiles beyond what they can divide
            evenly are left out of the epoch.
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        transform: ResizeOrPad,
        batch_size: int = 32,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        outputs: Sequence[str] = (),
        devices: int = 1,
    ) -> None:
        super().__init__()
        self.images, self.masks = transform.forward(images), transform.forward(masks)
        self.devices = devices
        self.batch_size = max(batch_size // devices, 1) * devices
        self.augmentation = augmentation
        self.seed = seed
        self.outputs = outputs
        self.start_epoch(0)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.order) // self.batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order of that epoch."""
        self.epoch = epoch
        self.order = np.arange(len(self.images))
        if self.augmentation is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(self.order)
        self.order = self.order[: len(self.order) // self.devices * self.devices]

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        """Batch `index`: images and masks, float32, (batch, size, size, 1).

        With several outputs the masks are a dictionary, its `"gate"` (batch, 1).
        """
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        images, masks = self.images[chosen], self.masks[chosen]
        if self.augmentation is None:
            images = images.astype(np.float32) / 255.0
            masks = masks.astype(np.float32)
        else:
            rng = np.random.default_rng((self.seed, self.epoch, 1 + index))
            images, masks = self.augmentation(images, masks, rng)
        images, masks = images[..., None], masks[..., None]
        if not self.outputs:
            return images, masks
        targets = dict.fromkeys(self.outputs, masks)
        if "gate" in targets:
            targets["gate"] = masks.max(axis=(1, 2))
        return images, targets
