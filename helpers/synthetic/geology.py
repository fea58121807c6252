"""A model of sedimentary rock and salt, and of what a seismic survey records of it.

Mud, sand and lime settle in layers of different acoustic impedance (density times
velocity), which are folded, tilted, faulted, eroded and buried again. Salt is light and
creeps: it rises as domes, walls and sheets, and drags the beds at its flanks along.
Sound is reflected where the impedance changes: beds show many parallel bands, uniform
salt one bright top and little below. The numbers were tuned by eye, to statistics of
the competition's tiles, and by how a network trained on synthetic tiles scores on them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft, ndimage, signal

SEDIMENT, SALT, WATER = 0, 1, 2
SHAPE = (400, 600)  # rows and columns of a section
# All arrays are float32, for speed; a float64 scalar of NumPy would promote them.
DEPTH, ALONG = (axis.astype(np.float32) for axis in np.ogrid[: SHAPE[0], : SHAPE[1]])
KZ = fft.fftfreq(SHAPE[0]).astype(np.float32)[:, None]  # cycles per pixel
KX = fft.rfftfreq(SHAPE[1]).astype(np.float32)
K = np.hypot(KZ, KX) + 1e-9


@dataclass(frozen=True)
class Survey:
    """What a seismic survey, and the rock below it, look like."""

    name: str
    share: float  # of the tiles, relative to the other surveys
    wavelength: tuple[float, float]  # range of the dominant wavelength, in pixels
    contrast: float  # ln(impedance of salt / impedance of sediment)
    mottle: float  # amplitude of the noise in the salt, relative to the beds
    noise: float  # amplitude of the noise on the beds, relative to the beds
    streak: float  # height / width of the noise grains in the salt
    serration: float  # roughness of the salt's outline, in pixels
    wobble: float  # roughness of the beds, in tenths of a wavelength
    steep: float  # fraction of the salt bodies that are domes with steep flanks
    walls: float  # fraction of the salt bodies labelled as vertical walls
    gain: float  # 0 keeps the recorded amplitudes, 1 equalizes them
    water: float  # fraction of the sections that show the sea floor


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
    """One modelled section; every array has shape (400, 600)."""

    impedance: np.ndarray  # float32, 10⁶ kg/(m² s); water 1.5, sediment about 4.5
    reflectivity: np.ndarray  # float32, of each interface at normal incidence
    seismic: np.ndarray  # float32, recorded and migrated, arbitrary units
    labels: np.ndarray  # uint8, 0 sediment, 1 salt, 2 water


def _smooth_noise(rng, shape, scale):
    """Gaussian bumps of random height every `scale` pixels, with mean 0 and std 1."""
    axes = list(zip(shape, np.broadcast_to(scale, len(shape)).tolist(), strict=True))
    knots = [np.arange(-2 * s, n + 2 * s, s) if s else np.arange(n) for n, s in axes]
    field = rng.standard_normal([len(places) for places in knots], np.float32)
    for (size, step), places in zip(axes, knots, strict=True):
        field = field.T  # so that the next axis is the last one
        if step:  # else the pixels along this axis are independent
            bumps = np.exp(-2 * ((np.arange(size) - places[:, None]) / step) ** 2)
            field = field @ bumps.astype(np.float32)
    return (field - field.mean()) / field.std()


def _dome(rng, z, x, scale, steep):
    """A body that widens downwards from its crest, and may lean, bulge and end."""
    half = rng.uniform(40, 130 if steep else 300) * scale
    power = rng.uniform(2, 6) if steep else rng.uniform(1, 3)
    rise = rng.uniform(60, 250) * scale
    drop = np.maximum(z - rng.uniform(-0.3, 0.8) * SHAPE[0], 0)  # below the crest
    bulb = 1 + rng.uniform(-0.3, 0.5) * np.exp(-((drop / rise - 1) ** 2))
    reach = half * bulb * np.minimum(drop / rise, 1.5) ** (1 / power)
    axis = rng.uniform(0, SHAPE[1]) + rng.normal(0, 0.25) * drop
    return (np.abs(x - axis) < reach) & (drop < rng.uniform(0.7, 3) * rise)


def _sheet(rng, z, x, scale):
    """Salt that spread sideways: a wavy top and a varying thickness."""
    top = rng.uniform(0, 0.8) * SHAPE[0] + rng.normal(0, 0.2) * (x - SHAPE[1] / 2)
    top = top + rng.uniform(5, 40) * scale * _smooth_noise(rng, SHAPE[1:], 80 * scale)
    thick = 1 + 0.6 * _smooth_noise(rng, SHAPE[1:], 120 * scale)
    return (z > top) & (z < top + rng.uniform(20, 250) * scale * thick)


def _salt(rng, survey, scale):
    """Up to three bodies, in bent and finely serrated coordinates."""
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
    """Its row in every column; above the section if it shows no water."""
    if rng.random() > survey.water:
        return np.full((1, SHAPE[1]), -99, np.float32)
    floor = rng.uniform(0.1, 0.5) * SHAPE[0] + rng.normal(0, 0.06) * ALONG
    return floor + 12 * _smooth_noise(rng, SHAPE[1:], 120)


def _age(rng, salt, survey, wave, scale):
    """When each pixel was deposited: depth, dip, drag, folds, faults, roughness."""
    dip = rng.laplace(0, 0.25)
    age = DEPTH * math.cos(dip) + ALONG * math.sin(dip)
    gap = 2 * ndimage.distance_transform_edt(~salt[::2, ::2]).astype(np.float32)
    reach = rng.uniform(8, 70) * scale
    drag = rng.uniform(0.5, 5) * reach * np.exp(-gap / reach)
    rim = rng.uniform(0, 1) * reach * np.exp(-gap / (3 * reach))  # sinks beside it
    age += ndimage.gaussian_filter((drag - rim).repeat(2, 0).repeat(2, 1), 3)
    folds = _smooth_noise(rng, SHAPE, (200 * scale, 90 * scale))
    age += rng.uniform(4, 40) * scale * folds
    for _ in range(rng.integers(5)):
        fault = rng.uniform(0, SHAPE[1]) + rng.normal(0, 0.6) * DEPTH
        age += np.float32(rng.normal(0, 0.7 * wave)) * (fault < ALONG)
    rough = 0.1 * wave * survey.wobble * rng.lognormal(0, 0.5)
    return age + rough * _smooth_noise(rng, SHAPE, (0.7 * wave, 2 * wave))


def _deposit(rng, age, wave):
    """Logarithm of the impedance: layers resemble the last one and vary laterally."""
    rows = (3 * (age - age.min())).astype(int)  # three steps per pixel
    thick = math.exp(rng.uniform(-0.7, 1.1)) * wave
    edges = np.cumsum(rng.exponential(thick, int(2 * rows.max() / thick) + 10))
    along = _smooth_noise(rng, (edges.size, SHAPE[1]), (0, wave * rng.uniform(1, 10)))
    steps = rng.standard_normal((edges.size, 1), np.float32)
    steps = steps + rng.uniform(0.4, 1.6) * along
    filters = np.array([[0.06, 0], [1, -0.85]], np.float32)
    layers = signal.lfilter(*filters, steps, axis=0)
    which = np.searchsorted(edges, np.arange(rows.max() + 1)).clip(0, edges.size - 1)
    return layers[which[rows], np.arange(SHAPE[1])]


def _impedance(rng, salt, floor, age, survey, wave, scale):
    """Old beds, young beds above an erosion surface, salt and water."""
    young = _deposit(rng, DEPTH + 0.3 * (age - DEPTH), wave)
    erosion = rng.uniform(-0.3, 0.7) * SHAPE[0] + 0.4 * (DEPTH - age)
    log_z = np.where(erosion > DEPTH, young, _deposit(rng, age, wave))
    log_z *= np.exp(0.4 * _smooth_noise(rng, SHAPE, (30 * scale, 80 * scale)))
    fade = 1 / (1 + np.exp(-1.5 - 1.5 * _smooth_noise(rng, SHAPE, 60 * scale)))
    pure = survey.contrast * rng.lognormal(0, 0.3) * fade
    log_z += ndimage.gaussian_filter(salt.astype(np.float32), 0.7) * (pure - log_z)
    log_z += 0.0005 * DEPTH  # compaction
    log_z += (floor - DEPTH).clip(0, 1) * (math.log(1.5 / 4.5) - log_z)
    return 4.5 * np.exp(log_z)


def _migrate(spectrum, wave, phase):
    """Convolve a spectrum with a Ricker (1953) wavelet across the beds."""
    # The vertical difference over a bed of dip d is cos(d) times the one across it. We
    # divide by cos(d) = |kz| / |k|, up to a limit, so that steep flanks stay visible.
    ricker = (K * wave) ** 2 * np.exp(1 - (K * wave) ** 2)
    across = K * np.abs(KZ) / (KZ**2 + (0.1 * K) ** 2)
    turn = np.exp(1j * phase * np.sign(KZ)).astype(np.complex64)
    return fft.irfft2(spectrum * (ricker * across * turn), s=SHAPE)


def _grain(rng, *shapes):
    """Noises with std 1, summed: grains of one wavelength, height / width `streak`."""
    total = np.zeros(K.shape, np.complex64)
    for wave, streak, lean in shapes:
        k = np.hypot((KZ + rng.normal(0, lean) * KX) * streak, KX)
        k *= wave / streak**0.5
        spectrum = rng.standard_normal((*K.shape, 2), np.float32).view(np.complex64)
        spectrum = spectrum[..., 0] * (k * np.exp(-1.5 * k))
        power = 2 * np.vdot(spectrum, spectrum).real  # Parseval: of the whole spectrum
        total += spectrum * (math.prod(SHAPE) / math.sqrt(power))
    return fft.irfft2(total, s=SHAPE)


def _echoes(rng, reflectivity, inside, wave):
    """The noise-free record: frequency falls with depth, salt casts a shadow."""
    phase, deep = rng.normal(0, 0.4), DEPTH / SHAPE[0]
    spectrum = fft.rfft2(reflectivity)
    echoes = (1 - deep) * _migrate(spectrum, 0.85 * wave, phase)
    echoes += deep * _migrate(spectrum, 1.3 * wave, phase)
    echoes = ndimage.gaussian_filter1d(echoes, 0.1 * wave, axis=1)  # traces mix
    above = np.minimum(np.cumsum(inside, axis=0) / 40, 1)
    shadow = ndimage.uniform_filter(above, (9, 25)) * (1 - inside)
    return echoes * (1 - 0.6 * rng.random() * shadow)


def _record(rng, reflectivity, salt, floor, survey, wave):
    """Echoes, noise on the beds and in the salt, quiet water, gain."""
    inside = ndimage.uniform_filter(salt.astype(np.float32), 3)
    dry = floor < DEPTH
    seismic = _echoes(rng, reflectivity, inside, wave)
    beds = seismic[dry & ~salt] if (dry & ~salt).any() else seismic
    level = beds.std()
    noise = survey.noise * np.exp(0.5 * _smooth_noise(rng, SHAPE, 80))
    noise *= 0.7 * level * rng.lognormal(0, 0.8)
    shapes = [(wave * rng.uniform(0.4, 1.8), rng.uniform(0.4, 2), 0.7) for _ in "ab"]
    seismic += dry * (1 - inside) * noise * _grain(rng, *shapes)
    mottle = survey.mottle * level * rng.lognormal(0, 0.5)
    shape = (wave * rng.uniform(1.2, 3), survey.streak, 0.2)
    seismic += inside * mottle * _grain(rng, shape)
    seismic *= 0.02 + 0.98 * (DEPTH - floor + 0.5 * wave).clip(0, 1)
    power = ndimage.uniform_filter(seismic**2, 75) + 0.01 * level**2
    return seismic / power ** (survey.gain / 2)


def make_section(survey: Survey, seed: Any) -> Section:
    """Model a `Section`; `seed` is any that `np.random.default_rng` takes."""
    rng = np.random.default_rng(seed)
    wave = math.exp(rng.uniform(*np.log(survey.wavelength)))
    scale = (wave / 10) ** 0.6  # a longer wave shows larger folds and bodies
    floor = _sea_floor(rng, survey)
    salt = _salt(rng, survey, scale) & (floor + 6 < DEPTH)
    age = _age(rng, salt, survey, wave, scale)
    impedance = _impedance(rng, salt, floor, age, survey, wave, scale)
    reflectivity = np.zeros_like(impedance)  # Zoeppritz (1919) at normal incidence
    reflectivity[1:] = np.diff(impedance, axis=0) / (impedance[1:] + impedance[:-1])
    seismic = _record(rng, reflectivity, salt, floor, survey, wave)
    labels = np.where(floor > DEPTH, WATER, salt).astype(np.uint8)
    return Section(impedance, reflectivity, seismic, labels)
