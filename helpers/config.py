"""Settings: which data, where to write, how much to compute; read in one place.

| variable | option | meaning |
|---|---|---|
| `SALT_DATA_DIR` | `--data-dir` | folder or bundle zip of the data, or `synthetic` |
| `SALT_OUTPUT_DIR` | `--output-dir` | for runs and submissions, default `outputs` |
| `SALT_COPY_DIR` | | a folder on another disk where runs are copied to |
| `SALT_PROFILE` | `--profile` | `smoke`, `quick` or `full` |
"""

import importlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from helpers.utils.hardware import accelerator, load_keras

ROOT = Path(__file__).resolve().parents[1]
HOME = "salt-course/salt-segmentation"  # on GitHub; see `python -m helpers --home`
SYNTHETIC = "synthetic"
TILE = 101  # pixels along each side of a native tile
GPU_HINTS = {  # by the variable that tells where we are
    "COLAB_RELEASE_TAG": " (Runtime > Change runtime type > T4 GPU brings one)",
    "KAGGLE_KERNEL_RUN_TYPE": " (Settings > Accelerator brings one)",
}
KAGGLE_FOLDERS = (
    Path("/kaggle/input/tgs-salt-identification-challenge"),
    Path("/kaggle/input/competitions/tgs-salt-identification-challenge"),
)


@dataclass(frozen=True)
class Budget:
    """How much one training may cost.

    Attributes:
        epochs: epochs in all stages together; `None`: as many as the system's own.
        size: height and width that the network sees, in pixels.
        tiles: training tiles at most; `None`: all.
        batch_size: tiles a step; `None`: the system's own. A short training is better
            spent on many small steps than on few large ones.
    """

    epochs: int | None
    size: int = 128
    tiles: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Profile:
    """Sizes and epochs; nothing else differs between profiles.

    Attributes:
        name: `"smoke"`, `"quick"` or `"full"`.
        train_tiles, test_tiles: how many synthetic tiles are made and how many real
            ones are read at most (`None`: 1,500 and 500 synthetic ones, all real ones).
        main: the budget of the network that makes the submission (notebook 02).
        encoders: the budget of each pretrained encoder (notebook 03).
        losses: the budget of each loss (notebook 04).
    """

    name: str
    train_tiles: int | None
    test_tiles: int | None
    main: Budget
    encoders: Budget
    losses: Budget


PROFILES = {
    "smoke": Profile(
        name="smoke",
        train_tiles=60,
        test_tiles=12,
        main=Budget(2),
        encoders=Budget(1, size=64, tiles=32),
        losses=Budget(2, size=64, tiles=32),
    ),
    "quick": Profile(
        name="quick",
        train_tiles=None,
        test_tiles=None,
        main=Budget(18),
        encoders=Budget(3, size=64, tiles=320, batch_size=8),
        losses=Budget(5, size=64, tiles=800, batch_size=16),
    ),
    "full": Profile(
        name="full",
        train_tiles=None,
        test_tiles=None,
        main=Budget(None),
        encoders=Budget(40),
        losses=Budget(40),
    ),
}


@dataclass(frozen=True)
class Settings:
    """Everything that is chosen outside the code; see `Settings.from_env`.

    Attributes:
        data: folder or bundle zip with the competition's files, or `"synthetic"`.
        output_dir: folder for runs, caches and submissions.
        profile: sizes and epochs.
        seed: of folds, weights, augmentation and synthetic tiles.
        copy_dir: folder on another disk, such as a mounted Drive, to which runs are
            copied after every epoch and from which they are brought back; or `None`.
        reasons: why this data and this profile, for `describe`.
    """

    data: Path | str
    output_dir: Path
    profile: Profile
    seed: int = 2018
    copy_dir: Path | None = None
    reasons: tuple[str, str] = ("given", "given")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read the settings from the environment.

        Relative paths start at the repository's root, whatever folder a notebook's
        kernel runs in.

        Args:
            env: mapping of the variables above; by default `os.environ`.

        Returns:
            The settings. Data: `SALT_DATA_DIR` if set, else `data/tgs`, else Kaggle's
            input folder, else synthetic. Profile: `SALT_PROFILE` if set, else `full`
            for real data with an accelerator, else `quick`.

        Raises:
            ValueError: for an unknown profile, or a folder that does not exist where
                data or copies should be.
        """
        env = os.environ if env is None else env
        data, data_reason = _choose_data(env.get("SALT_DATA_DIR", ""))
        profile, profile_reason = _choose_profile(env.get("SALT_PROFILE", ""), data)
        output = env.get("SALT_OUTPUT_DIR", "").strip() or "outputs"
        return cls(
            data=data,
            output_dir=ROOT / Path(output).expanduser(),
            profile=PROFILES[profile],
            copy_dir=_choose_copy(env.get("SALT_COPY_DIR", "").strip()),
            reasons=(data_reason, profile_reason),
        )

    @property
    def synthetic(self) -> bool:
        """Whether the tiles are synthetic."""
        return self.data == SYNTHETIC

    @property
    def kind(self) -> str:
        """`"synthetic"` or `"competition"`."""
        return SYNTHETIC if self.synthetic else "competition"

    @property
    def runs_dir(self) -> Path:
        """The folder of the runs."""
        return self.output_dir / "runs"

    def describe(self) -> str:
        """A few lines for people: data, profile, output, and why."""
        copied = f", copied to {_shown(self.copy_dir)}" if self.copy_dir else ""
        return (
            f"data:    {_shown(self.data)} ({self.reasons[0]})\n"
            f"profile: {self.profile.name} ({self.reasons[1]})\n"
            f"output:  {_shown(self.output_dir)}{copied}"
        )


def start() -> Settings:
    """First call of every notebook: read the settings and say what was found.

    Returns:
        `Settings.from_env()`; versions, accelerator, data and profile are printed.
    """
    keras = load_keras()
    settings = Settings.from_env()
    backend = importlib.import_module(keras.backend.backend())
    print(f"Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"Keras {keras.__version__} on {backend.__name__} {backend.__version__}")
    hint = next((text for name, text in GPU_HINTS.items() if name in os.environ), "")
    print(f"device:  {accelerator() or 'CPU, no accelerator' + hint}")
    print(settings.describe())
    return settings


def _choose_data(wanted: str) -> tuple[Path | str, str]:
    if wanted.strip().lower() == SYNTHETIC:
        return SYNTHETIC, "SALT_DATA_DIR says so"
    if wanted.strip():
        folder = ROOT / Path(wanted).expanduser()
        if not folder.exists():
            raise ValueError(
                f"SALT_DATA_DIR: {folder} does not exist; give the folder that holds "
                "the competition's train.zip (or the bundle zip), or `synthetic`"
            )
        return folder.resolve(), "SALT_DATA_DIR says so"
    if (ROOT / "data" / "tgs").is_dir():
        return ROOT / "data" / "tgs", "found there"
    for folder in KAGGLE_FOLDERS:
        if folder.is_dir():
            return folder, "Kaggle's input folder"
    return SYNTHETIC, "no competition data found: built-in synthetic geology"


def _choose_copy(wanted: str) -> Path | None:
    if not wanted:
        return None
    folder = ROOT / Path(wanted).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"SALT_COPY_DIR: there is no folder {folder}; mount the disk and make it, "
            "or leave the variable empty"
        )
    return folder.resolve()


def _choose_profile(wanted: str, data: Path | str) -> tuple[str, str]:
    if wanted.strip():
        wanted = wanted.strip()
        if wanted not in PROFILES:
            raise ValueError(f"SALT_PROFILE: {wanted!r} is none of {list(PROFILES)}")
        return wanted, "SALT_PROFILE says so"
    if not accelerator():
        return "quick", "no accelerator"
    if data == SYNTHETIC:
        return "quick", "synthetic tiles need no more"
    return "full", "real data and an accelerator"


def _shown(path: Path | str) -> str:
    """A path relative to the repository where possible: shorter, and no user names."""
    path = Path(path)
    inside = path.is_absolute() and path.is_relative_to(ROOT)
    return str(path.relative_to(ROOT) if inside else path)
