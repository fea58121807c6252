"""Augmentation: random changes of a tile that leave its geology plausible.

Flip, zoom, shift, rotation, shear and crop are multiplied into one matrix a tile;
elastic and grid distortion add a displacement to every pixel. Image and mask are moved
together, so that they cannot drift apart, and interpolated once.
"""

from dataclasses import dataclass, fields

import keras
import numpy as np
from keras import ops
from numpy.random import Generator

from helpers.utils.hardware import Tensor, compiled

Parts = dict[str, np.ndarray]  # which tiles each part changes, see `choose`


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a tile that leave its geology plausible.

    Every range is symmetric; 0 switches a part off. Geometric parts move image and
    mask together; the others touch the image alone. Lengths are shares of the size.

    Every tile gets every part, each as strong as it happens to be drawn. Two fields
    change that. With `probability=0.8` one tile in five stays as it is. A group in
    `one_of` is a choice: each tile draws one member and goes without the others, and
    parts joined by `+` are one member. Parts in no group always apply.

    Attributes:
        flip: probability of a left-right flip. (Never upside down: gravity points
            down, and salt is bright on top.)
        zoom: scale between 1 - zoom and 1 + zoom.
        shift: largest shift.
        rotation: largest angle, in degrees.
        shear: largest horizontal shear, as a slope.
        brightness: largest change, as a share of the grey range.
        contrast: factor between 1 - contrast and 1 + contrast, about mid-grey.
        gamma: exponent between 1 / (1 + gamma) and 1 + gamma.
        crop: smallest side of a random square within the tile that is scaled up to
            the whole tile; 50 / 101 cuts between 50 and 101 pixels of 101.
        blur: largest width (standard deviation) of a Gaussian blur.
        elastic: displacement (standard deviation) of each pixel, its neighbours moving
            along, as in [Simard et al., 2003](https://doi.org/10.1109/ICDAR.2003.1227801).
        grid: largest change of a cell's width and height, as a share, when the lines
            that cut the tile into 5 x 5 cells are moved. (Then all cells are scaled to
            fill the tile again.)
        probability: share of the tiles that are changed at all.
        one_of: groups of the parts above.

    Raises:
        ValueError: for a value that is negative or too large; for a group with fewer
            than two members, an unknown part, a part that is off or stands there twice.

    Example:
        Every tile is flipped or not, and either moved, or cropped, or bent:

        >>> Augmentation(
        ...     zoom=0.1, shift=0.06, rotation=10.0, crop=50 / 101, elastic=0.02,
        ...     one_of=(("zoom+shift+rotation", "crop", "elastic"),),
        ... )
    """

    flip: float = 0.5
    zoom: float = 0.0
    shift: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    crop: float = 0.0
    blur: float = 0.0
    elastic: float = 0.0
    grid: float = 0.0
    probability: float = 1.0
    one_of: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"{name} lies between 0 and {most}, not {value}")
        if any(isinstance(group, str) or len(group) < 2 for group in self.one_of):
            raise ValueError(f"a group has two members or more: {self.one_of}")
        names = [name for group in self.one_of for name in "+".join(group).split("+")]
        for name in names:
            if name not in _PARTS:
                raise ValueError(f"one_of: unknown part {name!r}, not in {_PARTS}")
            if not getattr(self, name) or names.count(name) > 1:
                raise ValueError(f"one_of: {name!r} is off, or stands there twice")

    @property
    def warps(self) -> bool:
        """Whether pixels are interpolated: flips alone are exact."""
        affine = (self.zoom, self.shift, self.rotation, self.shear, self.crop)
        return any((*affine, self.elastic, self.grid))

    def __call__(
        self, images: np.ndarray, masks: np.ndarray, rng: Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment one batch.

        Args:
            images: uint8 (n, size, size).
            masks: bool (n, size, size).
            rng: `numpy.random.Generator`.

        Returns:
            `(images, masks)`: float32 in [0, 1] and float32 in {0, 1}, each
            (n, size, size).
        """
        on = self.choose(len(images), rng)
        curves = self.intensity_curves(on, rng)
        images = np.stack([c[image] for c, image in zip(curves, images, strict=True)])
        if self.warps:
            images, masks = self.warp(images, masks, on, rng)
        else:
            masks = masks.astype(np.float32)
            images[on["flip"]] = images[on["flip"], :, ::-1]
            masks[on["flip"]] = masks[on["flip"], :, ::-1]
        if on["blur"].any():
            widths = 1.0 - rng.random(on["blur"].sum())  # never 0
            widths *= self.blur * images.shape[1]
            images[on["blur"]] = _blurred(images[on["blur"]], widths)
        return images, masks

    def choose(self, count: int, rng: Generator) -> Parts:
        """Which parts change which tiles: dict from names to bool (count,)."""
        on = {name: np.full(count, getattr(self, name) > 0) for name in _PARTS}
        on["flip"] = rng.random(count) < self.flip
        if self.probability < 1:
            changed = rng.random(count) < self.probability
            on = {name: tiles & changed for name, tiles in on.items()}
        for group in self.one_of:
            drawn = rng.integers(len(group), size=count)
            for number, member in enumerate(group):
                for name in member.split("+"):
                    on[name] &= drawn == number
        return on

    def intensity_curves(self, on: Parts, rng: Generator) -> np.ndarray:
        """One tone curve a tile: a new grey for each old grey.

        Brightness, contrast and gamma act on the grey value alone, so that they are
        computed for the 256 possible values, not for every pixel.

        Args:
            on: what `choose` returned, n tiles.
            rng: `numpy.random.Generator`.

        Returns:
            float32 (n, 256) in [0, 1].
        """
        grey = np.linspace(0.0, 1.0, 256)[None]
        spread = _spread(("gamma", "contrast", "brightness"), on, rng)[..., None]
        grey = grey ** (1.0 + self.gamma) ** spread[0]
        grey = (grey - 0.5) * (1.0 + self.contrast * spread[1]) + 0.5
        return np.clip(grey + self.brightness * spread[2], 0, 1).astype(np.float32)

    def warp(
        self, images: np.ndarray, masks: np.ndarray, on: Parts, rng: Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Move pixels, those of image and mask alike, and interpolate them once.

        Args:
            images: float32 (n, size, size).
            masks: bool (n, size, size).
            on: what `choose` returned.
            rng: `numpy.random.Generator`.

        Returns:
            `(images, masks)`, float32; the masks are cut at one half.
        """
        stacked = np.empty((*images.shape, 2), np.float32)
        stacked[..., 0], stacked[..., 1] = images, masks
        matrices = self.matrices(on, images.shape[1], rng)
        bent = on["elastic"] | on["grid"]
        if keras.backend.backend() != "tensorflow":
            bent[:] = True  # faster than the affine maps of JAX and PyTorch
        moved = stacked if bent.all() else _moved(stacked, matrices)
        if bent.any():  # a displacement of every pixel
            away = self.displacements(on, images.shape[1], rng)[bent]
            bent_tiles = _bent(stacked[bent], matrices[bent], away)
            moved[bent] = ops.convert_to_numpy(bent_tiles)
        return moved[..., 0], (moved[..., 1] > 0.5).astype(np.float32)

    def matrices(self, on: Parts, size: int, rng: Generator) -> np.ndarray:
        """One affine map a tile, from output to input pixels, about the tile's centre.

        Flip, zoom, shear, rotation, shift and crop are multiplied into one matrix, so
        that the tile is interpolated once, not six times.

        Args:
            on: what `choose` returned, n tiles.
            size: height and width, pixels.
            rng: `numpy.random.Generator`.

        Returns:
            float32 (n, 8), rows `a0, a1, a2, b0, b1, b2, 0, 0` as Keras expects them:
            x_in = a0 x + a1 y + a2, y_in = b0 x + b1 y + b2.
        """
        spread = _spread(("zoom", "rotation", "shear", "shift", "shift"), on, rng)
        mirror = np.where(on["flip"], -1.0, 1.0)
        scale = 1.0 / (1.0 + self.zoom * spread[0])
        angle = np.deg2rad(self.rotation) * spread[1]
        slope = self.shear * spread[2]
        shift_x, shift_y = self.shift * size * spread[3:]
        centre = from_x = from_y = (size - 1) / 2
        if self.crop:
            side = 1.0 - (1.0 - self.crop) * rng.random(len(mirror)) * on["crop"]
            room = (1.0 / side - 1.0) * size / 2  # the square stays inside the tile
            from_x, from_y = centre - room * rng.uniform(-1, 1, (2, len(mirror)))
            scale = scale * side
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        # rotation x shear x mirror
        a0, a1 = cos * mirror, cos * slope - sin
        b0, b1 = sin * mirror, sin * slope + cos
        a2 = centre - a0 * from_x - a1 * from_y + shift_x
        b2 = centre - b0 * from_x - b1 * from_y + shift_y
        zero = np.zeros(len(mirror))
        return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1).astype(np.float32)

    def displacements(self, on: Parts, size: int, rng: Generator) -> np.ndarray:
        """How far from its own place each pixel is taken, before the affine map.

        Args:
            on: what `choose` returned, n tiles.
            size: height and width, pixels.
            rng: `numpy.random.Generator`.

        Returns:
            float32 (n, 2, size, size), pixels along x and y; 0 in tiles without
            elastic or grid distortion.
        """
        away = np.zeros((len(on["flip"]), 2, size, size), np.float32)
        place = (np.arange(size) + 0.5) / size
        if self.elastic:  # a few random arrows, blended: Simard's smooth noise, cheaper
            shape = (on["elastic"].sum(), 2, _ARROWS, _ARROWS)
            arrows = rng.standard_normal(shape, np.float32)
            step = _ARROWS * place[:, None] - (np.arange(_ARROWS) + 0.5)
            weights = np.exp(-0.5 * step**2)
            weights /= np.linalg.norm(weights, axis=1, keepdims=True)  # variance is 1
            weights = weights.astype(np.float32)
            smooth = ops.matmul(ops.matmul(weights, arrows), weights.T)
            away[on["elastic"]] = self.elastic * size * ops.convert_to_numpy(smooth)
        if self.grid:
            cells = 1 + self.grid * rng.uniform(-1, 1, (on["grid"].sum(), 2, _CELLS))
            lines = np.cumsum(cells, axis=2) / cells.sum(axis=2, keepdims=True)
            moved = size * (lines - np.arange(1, _CELLS + 1) / _CELLS)  # the last: 0
            # between two lines the displacement is interpolated
            far = np.abs(_CELLS * place - np.arange(1, _CELLS + 1)[:, None])
            x, y = np.moveaxis(moved @ np.maximum(1 - far, 0), 1, 0)
            away[on["grid"], 0] += x[:, None, :]
            away[on["grid"], 1] += y[:, :, None]
        return away


_PARTS = tuple(f.name for f in fields(Augmentation))[:-2]  # flip ... grid
_LARGEST = {
    **dict.fromkeys((*_PARTS, "probability"), 1.0),
    **{"zoom": 0.9, "grid": 0.9, "rotation": 180.0, "shear": 10.0, "gamma": 10.0},
}
_ARROWS = 16  # random displacements in a row, between which elastic distortion blends
_CELLS = 5  # of grid distortion, in a row
_STEPS = 1024.0  # of a pixel, to which `_bent` rounds; float32 holds such steps exactly
#                  up to row 16,384 of its tall picture: 64 tiles of 128 pixels, twice


def _spread(names: tuple[str, ...], on: Parts, rng: Generator) -> np.ndarray:
    """A number in [-1, 1] for each part and tile, 0 where it is off: (parts, n)."""
    where = np.array([on[name] for name in names])
    return rng.uniform(-1, 1, where.shape) * where


def _blurred(images: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Blur each image by a Gaussian of its own width.

    A Gaussian is blurred along one axis, then along the other: two matrix products.

    Args:
        images: float32 (n, size, size).
        widths: float (n,), standard deviations, pixels, above 0.

    Returns:
        float32 (n, size, size). At the border, the mean of what lies inside.
    """
    size = images.shape[1]
    step = np.subtract.outer(np.arange(size), np.arange(size))
    weights = np.exp(-0.5 * (step / widths[:, None, None]) ** 2)
    weights = (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)
    across = ops.matmul(images, weights.transpose(0, 2, 1))
    return ops.convert_to_numpy(ops.clip(ops.matmul(weights, across), 0, 1))


def _moved(stacked: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Move (n, size, size, channels) by an affine map a tile: same shape, NumPy."""
    moved = ops.image.affine_transform(
        stacked,
        matrices,
        interpolation="bilinear",
        fill_mode="reflect",
        data_format="channels_last",
    )
    return np.array(ops.convert_to_numpy(moved))


@compiled
def _bent(stacked: np.ndarray, matrices: np.ndarray, away: np.ndarray) -> Tensor:
    """Move each pixel by its displacement and its tile's affine map, in one go.

    `map_coordinates` interpolates along every axis of its input. So tiles and channels
    are laid one below the other as one tall picture: a pixel then has 4 neighbours, not
    16. Positions outside a tile are mirrored here, as `affine_transform` mirrors them:
    the "reflect" of `map_coordinates` is not the same on every backend (TensorFlow's,
    in Keras 3.15, repeats the last pixel of a row but not the first).

    Args:
        stacked: float32 (n, size, size, channels).
        matrices: float32 (n, 8), as `Augmentation.matrices` returns them.
        away: float32 (n, 2, size, size), as `Augmentation.displacements` returns them.

    Returns:
        Tensor, float32 (n, size, size, channels).
    """
    stacked, matrices, away = map(ops.convert_to_tensor, (stacked, matrices, away))
    count, size, _, channels = stacked.shape
    place = ops.arange(size, dtype="float32")
    x, y = place + away[:, 0], place[:, None] + away[:, 1]
    a0, a1, a2, b0, b1, b2 = ops.transpose(matrices)[:6, :, None, None]
    x_in = _mirrored(a0 * x + a1 * y + a2, size)
    y_in = _mirrored(b0 * x + b1 * y + b2, size)
    top = size * ops.arange(channels * count, dtype="float32")
    y_in = y_in + ops.reshape(top, (channels, count, 1, 1))
    tall = ops.reshape(ops.moveaxis(stacked, -1, 0), (-1, size))
    where = ops.stack([y_in, ops.broadcast_to(x_in, y_in.shape)])
    moved = ops.image.map_coordinates(tall, where, order=1, fill_mode="nearest")
    return ops.moveaxis(moved, 0, -1)


def _mirrored(position: Tensor, size: int) -> Tensor:
    """Positions outside 0 ... size - 1 mirrored at the outer edge of the last pixel.

    They are rounded to 1/1024 of a pixel, so that adding whole tiles to them is exact:
    image and mask, which lie in different rows, are moved alike.
    """
    position = ops.abs(ops.mod(position + (size + 0.5), 2 * size) - size) - 0.5
    return ops.round(_STEPS * ops.clip(position, 0, size - 1)) / _STEPS
