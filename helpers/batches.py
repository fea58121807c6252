"""From native 101 x 101 tiles to batches, and from predictions back to native tiles."""

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
    """How native tiles become the network's input, and predictions native tiles.

    Raises:
        ValueError: for another mode, or if 101 pixels cannot be padded to that size.
    """

    size: int = 128  # of the input; divisible by 32 to be halved five times
    # "pad" keeps all pixels and mirrors the tile at its border (101 -> 128: 13 pixels
    # before, 14 after), "resize" interpolates.
    mode: str = "pad"

    def __post_init__(self) -> None:
        if self.mode not in ("pad", "resize"):
            raise ValueError(f"mode must be 'pad' or 'resize', not {self.mode!r}")
        if self.mode == "pad" and not TILE <= self.size <= 3 * TILE - 2:
            raise ValueError(f"{TILE} pixels cannot be padded to {self.size}: resize")

    @property
    def inside(self) -> slice:
        """The rows, and columns, of a padded tile that are not padding."""
        before = (self.size - TILE) // 2
        return slice(before, before + TILE)

    def forward(self, images: ArrayLike) -> np.ndarray:
        """Images uint8, or masks bool, (n, 101, 101) to (n, size, size), same dtype."""
        images = np.asarray(images)
        if self.mode == "pad":
            width = (self.inside.start, self.size - self.inside.stop)
            return np.pad(images, ((0, 0), width, width), mode="reflect")
        resized = _resize_array(images, self.size)
        return resized >= 0.5 if images.dtype == bool else np.rint(resized).astype("u1")

    def inverse(self, predictions: ArrayLike) -> np.ndarray:
        """Predictions, float (n, size, size), to float32 (n, 101, 101)."""
        predictions = np.asarray(predictions, np.float32)
        if self.mode == "pad":
            return predictions[:, self.inside, self.inside]
        return _resize_array(predictions, TILE)


def resize(tiles: Tensor, size: int) -> Tensor:
    """Resize tensors (n, h, w, 1) to (n, size, size, 1), antialiased when shrinking."""
    options = {"antialias": size < tiles.shape[1], "data_format": "channels_last"}
    return ops.image.resize(tiles, (size, size), **options)


def _resize_array(images: np.ndarray, size: int) -> np.ndarray:
    """(n, h, w) to float32 (n, size, size)."""
    resized = resize(images[..., None].astype(np.float32), size)
    return ops.convert_to_numpy(resized)[..., 0]


class TileBatches(keras.utils.PyDataset):
    """Batches of tiles for `model.fit` and `model.evaluate`.

    Order and augmentation follow from (seed, epoch) alone: a run can be resumed.
    """

    def __init__(
        self,
        images: np.ndarray,  # uint8 (n, 101, 101)
        masks: np.ndarray,  # bool (n, 101, 101)
        transform: ResizeOrPad,
        batch_size: int = 32,
        augmentation: Augmentation | None = None,  # `None`: not shuffled, either
        seed: int = 0,
        gate: bool = False,  # whether the network has an output `"gate"` as well
        devices: int = 1,  # batches are multiples of it, and leftover tiles dropped
    ) -> None:
        super().__init__()
        self.transform = transform
        self.images, self.masks = transform.forward(images), transform.forward(masks)
        self.augmentation, self.seed, self.gate = augmentation, seed, gate
        self.batch_size = max(batch_size // devices, 1) * devices
        self.used = len(self.images) // devices * devices
        self.start_epoch(0)

    def __len__(self) -> int:
        return -(-self.used // self.batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order of that epoch."""
        order = np.arange(len(self.images))
        if self.augmentation is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        self.epoch, self.order = epoch, order[: self.used]

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        """Images and masks, float32 (batch, size, size, 1); `"gate"` is (batch, 1)."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        images, masks = self.images[chosen], self.masks[chosen]
        if self.augmentation is None:
            images, masks = images / np.float32(255), masks.astype(np.float32)
        else:
            rng = np.random.default_rng((self.seed, self.epoch, 1 + index))
            images, masks = self.augmentation(images, masks, rng)
        images, masks = images[..., None], masks[..., None]
        targets = {"mask": masks, "gate": masks.max(axis=(1, 2))}
        return images, targets if self.gate else masks
