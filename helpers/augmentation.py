"""Random changes of a tile that keep its geology plausible.

Flip, zoom, shift, rotation and crop are combined into one matrix per tile; elastic and
grid distortion displace every pixel. Image and mask are warped together and resampled
once.
"""

from dataclasses import dataclass, fields

import numpy as np
from keras import ops
from numpy.random import Generator
from scipy import ndimage

Parts = dict[str, np.ndarray]  # for each kind of change, which tiles get it: bool (n,)


@dataclass(frozen=True)
class Augmentation:
    """Which random changes are made to each tile, and how strongly: 0 makes none.

    Raises:
        ValueError: for a value out of range, or a wrong name or group in `one_of`.
    """

    # Ranges are symmetric, lengths are fractions of the tile's size. Geometric changes
    # apply to image and mask, the others to the image only.
    flip: float = 0.5  # probability, left to right: never upside down, as salt rises
    zoom: float = 0.0  # the scale is between 1 - zoom and 1 + zoom
    shift: float = 0.0  # the largest
    rotation: float = 0.0  # the largest angle, in degrees
    brightness: float = 0.0  # largest change, as a fraction of the intensity range
    contrast: float = 0.0  # factor between 1 - contrast and 1 + contrast
    gamma: float = 0.0  # exponent between 1 / (1 + gamma) and 1 + gamma
    crop: float = 0.0  # smallest side of a square that is resized to the whole tile
    blur: float = 0.0  # largest standard deviation of a Gaussian
    elastic: float = 0.0  # standard deviation of a smooth displacement: Simard et al.
    # 2003, https://doi.org/10.1109/ICDAR.2003.1227801
    grid: float = 0.0  # largest relative change in the sides of the cells, 5 x 5
    probability: float = 1.0  # fraction of the tiles that are changed at all
    # Of each group a tile gets one member only, and `+` joins changes to one member:
    # (("zoom+shift", "crop"),) either zooms and shifts, or crops.
    one_of: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in (*_CHANGES, "probability"):
            value, limit = getattr(self, name), _LIMITS.get(name, 1.0)
            if not 0 <= value <= limit:
                raise ValueError(f"{name} must be between 0 and {limit}, not {value}")
        if any(isinstance(group, str) or len(group) < 2 for group in self.one_of):
            raise ValueError(f"one_of: a group needs two members: {self.one_of}")
        names = [name for group in self.one_of for name in "+".join(group).split("+")]
        for name in names:
            on = name in _CHANGES and getattr(self, name) > 0
            if not on or names.count(name) > 1:
                raise ValueError(f"one_of: {name!r} is unknown, off or named twice")

    def __call__(
        self, images: np.ndarray, masks: np.ndarray, rng: Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment a batch, uint8 and bool (n, size, size), by random numbers of `rng`.

        Returns `(images, masks)`, float32 in [0, 1] and in {0, 1}, of the same shape.
        """
        on = self._choose(len(images), rng)
        curves = self._intensity_curves(on, rng)
        images = np.stack([c[image] for c, image in zip(curves, images, strict=True)])
        if any(getattr(self, name) for name in _WARPS):
            images, masks = self._warp(images, masks, on, rng)
        else:  # exact, and faster
            masks = masks.astype(np.float32)
            images[on["flip"]] = images[on["flip"], :, ::-1]
            masks[on["flip"]] = masks[on["flip"], :, ::-1]
        for index in np.flatnonzero(on["blur"]):
            width = self.blur * images.shape[1] * rng.random()
            images[index] = ndimage.gaussian_filter(images[index], width)
        return images, masks

    def _choose(self, count: int, rng: Generator) -> Parts:
        """Choose the tiles that get each change."""
        on = {name: np.full(count, getattr(self, name) > 0) for name in _CHANGES}
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

    def _intensity_curves(self, on: Parts, rng: Generator) -> np.ndarray:
        """For each of 256 intensities, the new one in [0, 1]: float32 (n, 256)."""
        gamma, contrast, brightness = (
            _random_strength(on[name], rng)[:, None]
            for name in ("gamma", "contrast", "brightness")
        )
        curves = np.linspace(0.0, 1.0, 256) ** (1.0 + self.gamma) ** gamma
        curves = (curves - 0.5) * (1.0 + self.contrast * contrast) + 0.5
        curves += self.brightness * brightness
        return np.clip(curves, 0.0, 1.0).astype(np.float32)

    def _warp(
        self, images: np.ndarray, masks: np.ndarray, on: Parts, rng: Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Warp images and masks alike; outside the tile, its mirror image continues."""
        size = images.shape[1]
        tiles = np.stack([images, masks], axis=-1, dtype=np.float32)
        matrices = self._matrices(on, size, rng)
        options = {"fill_mode": "reflect", "data_format": "channels_last"}
        warped = np.array(ops.image.affine_transform(tiles, matrices, **options))
        displacements = self._displacements(on, size, rng)
        for i in np.flatnonzero(on["elastic"] | on["grid"]):
            warped[i] = _distort(tiles[i], matrices[i], displacements[i])
        return warped[..., 0], (warped[..., 1] > 0.5).astype(np.float32)

    def _matrices(self, on: Parts, size: int, rng: Generator) -> np.ndarray:
        """An affine map per tile, about the center, as Keras expects: float32 (n, 8).

        From output to input: x_in = a0 x + a1 y + a2, y_in = b0 x + b1 y + b2.
        """
        mirror = np.where(on["flip"], -1.0, 1.0)
        scale = 1.0 / (1.0 + self.zoom * _random_strength(on["zoom"], rng))
        angle = np.deg2rad(self.rotation) * _random_strength(on["rotation"], rng)
        shift_x, shift_y = (
            self.shift * size * _random_strength(on["shift"], rng) for _ in "xy"
        )
        center = from_x = from_y = (size - 1) / 2
        if self.crop:
            side = 1.0 - (1.0 - self.crop) * rng.random(len(mirror)) * on["crop"]
            room = (1.0 / side - 1.0) * size / 2  # keeps the square inside the tile
            from_x, from_y = center - room * rng.uniform(-1, 1, (2, len(mirror)))
            scale = scale * side
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        a0, a1, b0, b1 = cos * mirror, -sin, sin * mirror, cos
        a2 = center - a0 * from_x - a1 * from_y + shift_x
        b2 = center - b0 * from_x - b1 * from_y + shift_y
        rows = [a0, a1, a2, b0, b1, b2, np.zeros_like(a0), np.zeros_like(a0)]
        return np.stack(rows, axis=1, dtype=np.float32)

    def _displacements(self, on: Parts, size: int, rng: Generator) -> np.ndarray:
        """Displacement of each pixel along x and y: float32 (n, 2, size, size)."""
        moved = np.zeros((len(on["flip"]), 2, size, size), np.float32)
        place = (np.arange(size) + 0.5) / size
        # Elastic: a coarse grid of random arrows, blended by a Gaussian to variance 1.
        steps = _ARROWS * place[:, None] - np.arange(_ARROWS) - 0.5
        weights = np.exp(-0.5 * steps**2)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        for index in np.flatnonzero(on["elastic"]):
            arrows = rng.standard_normal((2, _ARROWS, _ARROWS))
            moved[index] = self.elastic * size * (weights @ arrows @ weights.T)
        # Grid: pixels between two lines move in proportion.
        lines = np.linspace(0.0, 1.0, _CELLS + 1)
        for index in np.flatnonzero(on["grid"]):
            cells = 1.0 + self.grid * rng.uniform(-1, 1, (2, _CELLS))
            ends = np.cumsum(cells, axis=1) / cells.sum(axis=1, keepdims=True)
            x, y = (size * (np.interp(place, lines, [0.0, *e]) - place) for e in ends)
            moved[index] += np.stack(np.broadcast_arrays(x, y[:, None]))
        return moved


_CHANGES = tuple(f.name for f in fields(Augmentation))[:-2]  # flip, ..., grid
_WARPS = ("zoom", "shift", "rotation", "crop", "elastic", "grid")
_LIMITS = {"zoom": 0.9, "grid": 0.9, "rotation": 180.0, "gamma": 10.0}  # 1 by default
_ARROWS = 16  # per side
_CELLS = 5  # per side


def _random_strength(on: np.ndarray, rng: Generator) -> np.ndarray:
    """Uniform in [-1, 1] where a change is on, else 0: float (n,)."""
    return rng.uniform(-1, 1, len(on)) * on


def _distort(tile: np.ndarray, matrix: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Displace the pixels of a tile (size, size, 2), then apply its affine map."""
    a0, a1, a2, b0, b1, b2 = matrix[:6]
    place = np.arange(len(tile))
    x, y = place + moved[0], place[:, None] + moved[1]
    where = np.stack([b0 * x + b1 * y + b2, a0 * x + a1 * y + a2])
    options = {"order": 1, "mode": "reflect"}
    channels = tile[..., 0], tile[..., 1]
    warped = [ndimage.map_coordinates(x, where, **options) for x in channels]
    return np.stack(warped, axis=-1)
