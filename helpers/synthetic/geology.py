"""A model of the Earth's crust, and what a seismic survey records of it.

Mud, sand and lime settle in layers, and each layer has its own acoustic impedance
(density times velocity). The layers are folded, tilted, faulted, cut by erosion and
buried again. Rock salt is light and creeps: it rises through them as domes, walls and
sheets, and drags the beds at its flanks along. A sound wave echoes wherever the
impedance changes, so bedded rock answers with many parallel bands, the even salt with
one bright top and little below. `make_section` models a section step by step. The
numbers were chosen by eye, by the published statistics of the competition's tiles, and
by what a small network that was trained on synthetic tiles makes of real ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft, ndimage, signal

SEDIMENT, SALT, WATER = 0, 1, 2
SHAPE = (400, 600)  # rows and columns of a section
DEPTH, ALONG = np.ogrid[: SHAPE[0], : SHAPE[1]]  # pixel coordinates of a section


@dataclass(frozen=True)
class Survey:
    """How a seismic campaign, and the piece of the Earth below it, look."""

    name: str
    share: float  # of the tiles, relative to the other surveys
    wavelength: tuple[float, float]  # least and greatest dominant one, in pixels
    contrast: float  # ln(impedance of salt / impedance of sediment)
    mottle: float  # amplitude inside the salt, relative to the beds
    noise: float  # amplitude of the noise on the beds, relative to the beds
    streak: float  # how much taller than wide the grain inside the salt is
    serration: float  # roughness of the outline of the salt, in pixels
    wobble: float  # roughness of the beds, in tenths of a wavelength
    steep: float  # share of the salt bodies that are domes with steep flanks
    walls: float  # share of the salt bodies that were picked as vertical walls
    gain: float  # 0 keeps the amplitudes as recorded, 1 evens them out
    water: float  # share of the sections that show the sea floor


SURVEYS = (
    #      name    share  waves  contrast mottle noise ...
    Survey("ocean", 0.20, (6, 13), 0.80, 0.06, 0.12, 3.0, 3, 1, 0.4, 0.0, 0.2, 0.6),
    Survey("domes", 0.26, (7, 18), 0.40, 0.14, 0.30, 3.0, 1, 1, 0.8, 0.0, 0.4, 0.1),
    Survey("sheets", 0.20, (12, 24), 0.55, 0.18, 0.30, 1.2, 1, 2, 0.2, 0.0, 0.3, 0.0),
    Survey("deep", 0.11, (20, 32), 0.45, 0.30, 0.40, 1.2, 1, 3, 0.2, 0.0, 0.2, 0.0),
    Survey("land", 0.18, (7, 18), 0.10, 0.80, 0.90, 1.5, 1, 2, 0.6, 0.3, 0.6, 0.0),
    Survey("shelf", 0.05, (5, 8), 0.45, 0.30, 0.20, 1.5, 1, 1, 0.4, 0.0, 0.3, 0.4),
)


@dataclass(frozen=True)
class Section:
    """One modelled section, step by step; every array has shape (400, 600).

    Args:
        impedance: float32, 10⁶ kg/(m² s); water 1.5, sediment about 4.5.
        reflectivity: float32, of each interface at normal incidence.
        seismic: float32, the recorded and migrated section, arbitrary units.
        labels: uint8, 0 sediment, 1 salt, 2 water.
    """

    impedance: np.ndarray
    reflectivity: np.ndarray
    seismic: np.ndarray
    labels: np.ndarray


def _smooth_noise(rng, shape, scale):
    """Bumps of random height every `scale` pixels: float32, mean 0, std 1."""
    bells = []
    for size, step in zip(shape, np.broadcast_to(scale, len(shape)), strict=True):
        knots = np.arange(-2 * step, size + 2 * step, step)
        bell = np.exp(-2 * ((np.arange(size)[:, None] - knots) / step) ** 2)
        bells.append(bell.astype(np.float32))
    field = bells[0] @ rng.standard_normal([b.shape[1] for b in bells], np.float32)
    if len(bells) == 2:
        field = field @ bells[1].T
    return (field - field.mean()) / field.std()


def _dome(rng, z, x, scale, steep):
    """A body that widens downwards from its crest, may lean, bulge, and end."""
    half = rng.uniform(40, 130 if steep else 300) * scale
    power = rng.uniform(2, 6) if steep else rng.uniform(1, 3)
    rise = rng.uniform(60, 250) * scale
    drop = np.maximum(z - rng.uniform(-0.3, 0.8) * SHAPE[0], 0)  # below the crest
    bulb = 1 + rng.uniform(-0.3, 0.5) * np.exp(-((drop / rise - 1) ** 2))
    reach = half * bulb * np.minimum(drop / rise, 1.5) ** (1 / power)
    axis = rng.uniform(0, SHAPE[1]) + rng.normal(0, 0.25) * drop
    return (np.abs(x - axis) < reach) & (drop < rng.uniform(0.7, 3) * rise)


def _sheet(rng, z, x, scale):
    """Salt that spread sideways: a wavy top, and a thickness that comes and goes."""
    top = rng.uniform(0, 0.8) * SHAPE[0] + rng.normal(0, 0.2) * (x - SHAPE[1] / 2)
    top = top + rng.uniform(5, 40) * scale * _smooth_noise(rng, SHAPE[1:], 80 * scale)
    thick = 1 + 0.6 * _smooth_noise(rng, SHAPE[1:], 120 * scale)
    return (z > top) & (z < top + rng.uniform(20, 250) * scale * thick)


def _salt(rng, survey, scale):
    """Up to three bodies, drawn in coordinates that are bent and finely serrated."""
    salt = np.zeros(SHAPE, bool)
    bend = 10 * scale * _smooth_noise(rng, SHAPE, 60 * scale)
    grit = rng.uniform(5, 10) * scale
    rough = survey.serration * rng.lognormal(0, 0.4)
    z = DEPTH + bend + rough * _smooth_noise(rng, SHAPE, (4 * grit, grit))
    x = ALONG + bend
    for _ in range(rng.choice(4, p=(0.12, 0.3, 0.3, 0.28))):
        kind = rng.random()
        if kind < survey.walls:
            salt |= np.abs(ALONG - rng.uniform(0, SHAPE[1])) < rng.uniform(10, 120)
        elif kind < 0.65 * (1 - survey.steep):
            salt |= _sheet(rng, z, x, scale)
        else:
            salt |= _dome(rng, z, x, scale, steep=kind > 1 - survey.steep)
    return salt


def _sea_floor(rng, survey):
    """Its row in every column; above the section where no water is seen."""
    if rng.random() > survey.water:
        return np.full((1, SHAPE[1]), -99.0)
    floor = rng.uniform(0.1, 0.5) * SHAPE[0] + rng.normal(0, 0.06) * ALONG
    return floor + 12 * _smooth_noise(rng, SHAPE[1:], 120)


def _age(rng, salt, survey, wave, scale):
    """When each pixel was laid down: depth, then dip, drag, folds, faults, wobble."""
    dip = rng.laplace(0, 0.25)
    age = DEPTH * np.cos(dip) + ALONG * np.sin(dip)
    gap = ndimage.distance_transform_edt(~salt).astype(np.float32)
    reach = rng.uniform(8, 70) * scale
    drag = rng.uniform(0.5, 5) * reach * np.exp(-gap / reach)
    rim = rng.uniform(0, 1) * reach * np.exp(-gap / (3 * reach))  # sinks beside it
    age += ndimage.gaussian_filter(drag - rim, 3)
    folds = _smooth_noise(rng, SHAPE, (200 * scale, 90 * scale))
    age += rng.uniform(4, 40) * scale * folds
    for _ in range(rng.integers(5)):
        fault = rng.uniform(0, SHAPE[1]) + rng.normal(0, 0.6) * DEPTH
        age += rng.normal(0, 0.7 * wave) * (fault < ALONG)
    rough = 0.1 * wave * survey.wobble * rng.lognormal(0, 0.5)
    return age + rough * _smooth_noise(rng, SHAPE, (0.7 * wave, 2 * wave))


def _deposit(rng, age, wave):
    """Logarithm of the impedance: each layer resembles the last and varies along."""
    rows = (3 * (age - age.min())).astype(int)  # three steps a pixel
    thick = np.exp(rng.uniform(-0.7, 1.1)) * wave
    edges = np.cumsum(rng.exponential(thick, int(2 * rows.max() / thick) + 10))
    along = _smooth_noise(rng, (edges.size, SHAPE[1]), (0.3, wave * rng.uniform(1, 10)))
    steps = rng.standard_normal((edges.size, 1)) + rng.uniform(0.4, 1.6) * along
    layers = signal.lfilter([0.06], [1, -0.85], steps, axis=0)
    which = np.searchsorted(edges, np.arange(rows.max() + 1)).clip(0, edges.size - 1)
    return layers[which[rows], np.arange(SHAPE[1])]


def _impedance(rng, salt, floor, age, survey, wave, scale):
    """Old beds, young beds above an erosion surface, salt, water."""
    young = _deposit(rng, DEPTH + 0.3 * (age - DEPTH), wave)
    erosion = rng.uniform(-0.3, 0.7) * SHAPE[0] + 0.4 * (DEPTH - age)
    log_z = np.where(erosion > DEPTH, young, _deposit(rng, age, wave))
    log_z *= np.exp(0.4 * _smooth_noise(rng, SHAPE, (30 * scale, 80 * scale)))
    fade = 1 / (1 + np.exp(-1.5 - 1.5 * _smooth_noise(rng, SHAPE, 60 * scale)))
    pure = survey.contrast * rng.lognormal(0, 0.3) * fade
    log_z += ndimage.gaussian_filter(salt.astype(np.float32), 0.7) * (pure - log_z)
    log_z += 0.0005 * DEPTH  # compaction
    log_z += (floor - DEPTH).clip(0, 1) * (np.log(1.5 / 4.5) - log_z)
    return (4.5 * np.exp(log_z)).astype(np.float32)


def _reflectivity(impedance):
    """Zoeppritz (1919) at normal incidence: (Z2 - Z1) / (Z2 + Z1), down the rows."""
    reflectivity = np.zeros_like(impedance)
    reflectivity[1:] = np.diff(impedance, axis=0) / (impedance[1:] + impedance[:-1])
    return reflectivity


def _wavenumbers():
    kz = fft.fftfreq(SHAPE[0]).astype(np.float32)[:, None]
    return kz, fft.rfftfreq(SHAPE[1]).astype(np.float32)  # cycles per pixel


def _migrate(reflectivity, wave, phase):
    """Convolve with a Ricker (1953) wavelet that stands across the beds.

    The vertical difference of a bed of dip d is cos(d) times that across it, so each
    dip is divided by cos(d) = |kz| / |k|, up to a limit: steep flanks stay visible.
    """
    kz, kx = _wavenumbers()
    k = np.hypot(kz, kx) + 1e-9
    ricker = (k * wave) ** 2 * np.exp(1 - (k * wave) ** 2)
    across = k * np.abs(kz) / (kz**2 + (0.1 * k) ** 2)
    turn = np.exp(1j * phase * np.sign(kz)).astype(np.complex64)
    return fft.irfft2(fft.rfft2(reflectivity) * (ricker * across * turn), s=SHAPE)


def _grain(rng, wave, streak, lean):
    """Noise of about one wavelength, leaning, `streak` times as tall as wide; std 1."""
    kz, kx = _wavenumbers()
    k = wave * np.hypot((kz + rng.normal(0, lean) * kx) * streak, kx) / streak**0.5
    noise = fft.rfft2(rng.standard_normal(SHAPE, np.float32))
    grain = fft.irfft2(noise * (k * np.exp(-1.5 * k)), s=SHAPE)
    return grain / grain.std()


def _echoes(rng, reflectivity, inside, wave):
    """The clean record: frequency falls with depth, salt casts a shadow."""
    phase, deep = rng.normal(0, 0.4), DEPTH / SHAPE[0]
    echoes = (1 - deep) * _migrate(reflectivity, 0.85 * wave, phase)
    echoes += deep * _migrate(reflectivity, 1.3 * wave, phase)
    echoes = ndimage.gaussian_filter1d(echoes, 0.1 * wave, axis=1)  # traces are mixed
    above = np.minimum(np.cumsum(inside, axis=0) / 40, 1)
    shadow = ndimage.uniform_filter(above, (9, 25)) * (1 - inside)
    return echoes * (1 - 0.6 * rng.random() * shadow)


def _record(rng, reflectivity, salt, floor, survey, wave):
    """Echoes, noise on the beds, mottle in the salt, quiet in the water, gain."""
    inside = ndimage.uniform_filter(salt.astype(np.float32), 3)
    dry = floor < DEPTH
    seismic = _echoes(rng, reflectivity, inside, wave)
    beds = seismic[dry & ~salt] if (dry & ~salt).any() else seismic
    level = beds.std()
    noise = survey.noise * np.exp(0.5 * _smooth_noise(rng, SHAPE, 80))
    noise *= 0.7 * level * rng.lognormal(0, 0.8)
    for _ in range(2):
        size, streak = wave * rng.uniform(0.4, 1.8), rng.uniform(0.4, 2)
        seismic += dry * (1 - inside) * noise * _grain(rng, size, streak, lean=0.7)
    mottle = survey.mottle * level * rng.lognormal(0, 0.5)
    size = wave * rng.uniform(1.2, 3)
    seismic += inside * mottle * _grain(rng, size, survey.streak, lean=0.2)
    seismic *= 0.02 + 0.98 * (DEPTH - floor + 0.5 * wave).clip(0, 1)
    power = ndimage.uniform_filter(seismic**2, 75) + 0.01 * level**2
    return (seismic / power ** (survey.gain / 2)).astype(np.float32)


def make_section(survey: Survey, seed: Any) -> Section:
    """Model one section: rock, reflectivity, record.

    Args:
        survey: `Survey`, one row of `SURVEYS` or your own.
        seed: anything that `np.random.default_rng` takes; equal seeds, equal sections.

    Returns:
        `Section` of 400 rows (depth) and 600 columns (distance).

    Example:
        >>> section = make_section(SURVEYS[0], seed=0)
        >>> section.seismic.shape
        (400, 600)
    """
    rng = np.random.default_rng(seed)
    wave = np.exp(rng.uniform(*np.log(survey.wavelength)))
    scale = (wave / 10) ** 0.6  # a longer wave shows larger folds and bodies
    floor = _sea_floor(rng, survey)
    salt = _salt(rng, survey, scale) & (floor + 6 < DEPTH)
    age = _age(rng, salt, survey, wave, scale)
    impedance = _impedance(rng, salt, floor, age, survey, wave, scale)
    reflectivity = _reflectivity(impedance)
    seismic = _record(rng, reflectivity, salt, floor, survey, wave)
    labels = np.where(floor > DEPTH, WATER, salt).astype(np.uint8)
    return Section(impedance, reflectivity, seismic, labels)
