"""From native tiles to batches, and back.

A tile has 101 x 101 pixels; a network that halves its input five times needs a size
divisible by 32. `Frame` brings tiles to that size, by padding or by resizing, and
predictions exactly back. `TileBatches` cuts augmented batches from arrays in memory.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from helpers.config import TILE


@dataclass(frozen=True)
class Frame:
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

    def __post_init__(self):
        if self.mode not in ("pad", "resize"):
            raise ValueError(f"mode is 'pad' or 'resize', not {self.mode!r}")
        if self.mode == "pad" and not TILE <= self.size <= 3 * TILE - 2:
            raise ValueError(f"{TILE} pixels cannot be padded to {self.size}: resize")

    @property
    def inside(self):
        """Where the tile lies in a padded frame, a slice of rows and of columns."""
        return slice(self.before, self.before + TILE)

    @property
    def before(self):
        """Pixels added above and to the left (0 when resizing)."""
        return (self.size - TILE) // 2 if self.mode == "pad" else 0

    def to_network(self, images):
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

    def to_native(self, predictions):
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


def _resize(images, size):
    """(n, h, w) -> float32 (n, size, size), bilinear, smoothed when it shrinks."""
    if not len(images):
        return np.zeros((0, size, size), np.float32)
    parts = [
        ops.convert_to_numpy(
            ops.image.resize(
                np.asarray(images[i : i + 256], np.float32)[..., None],
                (size, size),
                interpolation="bilinear",
                antialias=size < images.shape[1],
                data_format="channels_last",
            )
        )[..., 0]
        for i in range(0, len(images), 256)
    ]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a tile that leave its geology plausible.

    Every range is symmetric; 0 switches the change off. Geometric changes move image
    and mask together; intensity changes touch the image alone.

    Attributes:
        flip: probability of a left-right flip. (Never upside down: gravity points
            down, and salt is bright on top.)
        zoom: scale between 1 - zoom and 1 + zoom.
        shift: largest shift, as a share of the size.
        rotation: largest angle, in degrees.
        shear: largest horizontal shear, as a slope.
        brightness: largest change, as a share of the grey range.
        contrast: factor between 1 - contrast and 1 + contrast, about mid-grey.
        gamma: exponent between 1 / (1 + gamma) and 1 + gamma.
    """

    flip: float = 0.5
    zoom: float = 0.0
    shift: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0

    @property
    def warps(self):
        """Whether pixels are interpolated: flips alone are exact."""
        return any((self.zoom, self.shift, self.rotation, self.shear))

    def __call__(self, images, masks, rng):
        """Augment one batch.

        Args:
            images: uint8 (n, size, size).
            masks: bool (n, size, size).
            rng: `numpy.random.Generator`.

        Returns:
            `(images, masks)`: float32 in [0, 1] and float32 in {0, 1}, each
            (n, size, size).
        """
        count = len(images)
        flipped = rng.random(count) < self.flip
        curves = self.grey_curves(count, rng)
        images = np.stack([c[image] for c, image in zip(curves, images, strict=True)])
        if not self.warps:
            masks = masks.astype(np.float32)
            images[flipped] = images[flipped, :, ::-1]
            masks[flipped] = masks[flipped, :, ::-1]
            return images, masks
        stacked = np.empty((*images.shape, 2), np.float32)
        stacked[..., 0], stacked[..., 1] = images, masks
        moved = ops.image.affine_transform(
            stacked,
            self.matrices(flipped, images.shape[1], rng),
            interpolation="bilinear",
            fill_mode="reflect",
            data_format="channels_last",
        )
        moved = ops.convert_to_numpy(moved)
        return moved[..., 0], (moved[..., 1] > 0.5).astype(np.float32)

    def grey_curves(self, count, rng):
        """One tone curve a tile: float32 (count, 256), new grey for each old grey.

        Brightness, contrast and gamma act on the grey value alone, so that they are
        computed for the 256 possible values, not for every pixel.
        """
        grey = np.linspace(0.0, 1.0, 256)[None]
        spread = rng.uniform(-1, 1, (3, count, 1))
        grey = grey ** (1.0 + self.gamma) ** spread[0]
        grey = (grey - 0.5) * (1.0 + self.contrast * spread[1]) + 0.5
        return np.clip(grey + self.brightness * spread[2], 0, 1).astype(np.float32)

    def matrices(self, flipped, size, rng):
        """One affine map a tile, from output to input pixels, about the tile's centre.

        Flip, zoom, shear, rotation and shift are multiplied into one matrix, so that
        the tile is interpolated once, not five times.

        Args:
            flipped: bool (n,), which tiles are flipped.
            size: height and width, pixels.
            rng: `numpy.random.Generator`.

        Returns:
            float32 (n, 8), rows `a0, a1, a2, b0, b1, b2, 0, 0` as Keras expects them:
            x_in = a0 x + a1 y + a2, y_in = b0 x + b1 y + b2.
        """
        count = len(flipped)
        spread = rng.uniform(-1, 1, (5, count))
        mirror = np.where(flipped, -1.0, 1.0)
        scale = 1.0 / (1.0 + self.zoom * spread[0])
        angle = np.deg2rad(self.rotation) * spread[1]
        slope = self.shear * spread[2]
        shift_x, shift_y = self.shift * size * spread[3:]
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        # rotation x shear x mirror
        a0, a1 = cos * mirror, cos * slope - sin
        b0, b1 = sin * mirror, sin * slope + cos
        centre = (size - 1) / 2
        a2 = centre - a0 * centre - a1 * centre + shift_x
        b2 = centre - b0 * centre - b1 * centre + shift_y
        zero = np.zeros(count)
        return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1).astype(np.float32)


class TileBatches(keras.utils.PyDataset):
    """Batches of a set of tiles, for `model.fit` and `model.evaluate`.

    The order of an epoch and its random changes follow from (seed, epoch) alone: an
    interrupted training that goes on at epoch 7 sees what it would have seen.

    Args:
        images: uint8 (n, 101, 101).
        masks: bool (n, 101, 101).
        frame: a `Frame`.
        batch_size: tiles a batch; the last batch may be shorter.
        augmentation: an `Augmentation`; `None` keeps tiles and order as they are.
        seed: integer.
    """

    def __init__(
        self,
        images,
        masks,
        frame,
        batch_size=32,
        augmentation=None,
        seed=0,
    ):
        super().__init__()
        self.images, self.masks = frame.to_network(images), frame.to_network(masks)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.start_epoch(0)

    def __len__(self):
        """Batches an epoch."""
        return -(-len(self.images) // self.batch_size)

    def start_epoch(self, epoch):
        """Draw the order of that epoch."""
        self.epoch = epoch
        self.order = np.arange(len(self.images))
        if self.augmentation is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(self.order)

    def __getitem__(self, index):
        """Batch `index`: images and masks, float32, (batch, size, size, 1)."""
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
        return images[..., None], masks[..., None]
