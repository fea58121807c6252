"""Settings: which data, where to write, how much to compute.

| variable | option | meaning |
|---|---|---|
| `SALT_DATA_DIR` | `--data-dir` | folder or bundle zip of the data, or `synthetic` |
| `SALT_OUTPUT_DIR` | `--output-dir` | for runs and submissions, default `outputs` |
| `SALT_PROFILE` | `--profile` | `smoke`, `quick` or `full` |

If unset, the data are `data/tgs`, else Kaggle's input folder, else synthetic; and the
profile is `full` for real data with an accelerator, else `quick`.
"""

import importlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

import numpy as np

from helpers.utils.files import ADVICE, COMPETITION
from helpers.utils.hardware import accelerators, load_keras

ROOT = Path(__file__).resolve().parents[1]
HOME = ""  # OWNER/NAME@COMMIT on GitHub, once there is one; see tests/publish.py
SYNTHETIC = "synthetic"
TILE = 101  # height and width of a native tile, in pixels
GPU_HINTS = {  # by a variable that only this service sets
    "COLAB_RELEASE_TAG": " (to get one: Runtime > Change runtime type > T4 GPU)",
    "KAGGLE_KERNEL_RUN_TYPE": " (to get one: Settings > Accelerator)",
}
KAGGLE_FOLDERS = [
    Path("/kaggle/input", above, COMPETITION) for above in ("", "competitions")
]


@dataclass(frozen=True)
class Budget:
    """Limits of one training run; `None` leaves the choice to the system."""

    epochs: int | None  # total over all stages
    size: int = 128  # height and width of the network's input, in pixels
    tiles: int | None = None  # maximum number of training tiles
    batch_size: int | None = None  # short runs learn more from many small steps


@dataclass(frozen=True)
class Profile:
    """How much to compute; profiles differ in nothing else."""

    name: str
    main: Budget  # of the network behind the submission (notebook 02)
    encoders: Budget  # of each pretrained encoder (notebook 03)
    losses: Budget  # of each loss (notebook 04)
    train_tiles: int | None = None  # to read, or to make; `None`: all, or 1,500
    test_tiles: int | None = None  # likewise; `None`: all, or 500


PROFILES = {
    profile.name: profile
    for profile in (  # name, main, encoders, losses, tiles
        Profile("smoke", Budget(2), Budget(1, 64, 32), Budget(2, 64, 32), 60, 12),
        Profile("quick", Budget(6), Budget(3, 64, 320, 8), Budget(5, 64, 800, 16)),
        Profile("full", Budget(None), Budget(40), Budget(40)),
    )
}


@dataclass(frozen=True)
class Settings:
    """The choices made outside the code; see `Settings.from_env`."""

    data: Path | str  # folder or bundle zip of the competition's files, or "synthetic"
    output_dir: Path  # for runs, submissions and synthetic tiles
    profile: Profile
    seed: int = 2018  # of folds, weights, augmentation and synthetic tiles
    reasons: tuple[str, str] = ("given", "given")  # why this data and this profile

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read `env`, by default `os.environ`; relative paths start at `ROOT`.

        Raises:
            ValueError: for an unknown profile, missing data, or an output folder that
                cannot be written, or whose parent is missing (an unmounted Drive, say).
        """
        env = os.environ if env is None else env
        data, data_reason = _choose_data(env.get("SALT_DATA_DIR", "").strip())
        name, reason = _choose_profile(env.get("SALT_PROFILE", "").strip(), data)
        output = env.get("SALT_OUTPUT_DIR", "").strip()
        try:
            folder = ROOT / Path(output or "outputs").expanduser()
            folder.mkdir(exist_ok=True)  # not its parents: they may be a disk to mount
            TemporaryFile(dir=folder).close()
        except (OSError, RuntimeError, ValueError) as error:
            fault = f"{output[:99]} cannot be written ({error})"
            advice = "mount its disk, make its parent, or name another"
            raise ValueError(f"SALT_OUTPUT_DIR: {fault}: {advice}") from error
        return cls(data, folder, PROFILES[name], reasons=(data_reason, reason))

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
        """Data, profile and output with their reasons, a line each."""
        text = f"data:    {self.data} ({self.reasons[0]})\n"
        text += f"profile: {self.profile.name} ({self.reasons[1]})\n"
        text += f"output:  {self.output_dir}"
        return text.replace(f"{ROOT}{os.sep}", "")  # shorter, and without user names


def start() -> Settings:
    """Print versions, device and settings; return `Settings.from_env()`."""
    keras = load_keras()
    settings = Settings.from_env()
    backend = importlib.import_module(keras.backend.backend())
    print(f"Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"Keras {keras.__version__} on {backend.__name__} {backend.__version__}")
    hint = "".join(text for name, text in GPU_HINTS.items() if name in os.environ)
    print(f"device:  {', '.join(accelerators()) or 'CPU, no accelerator' + hint}")
    print(settings.describe())
    return settings


def _choose_data(wanted: str) -> tuple[Path | str, str]:
    if wanted.lower() == SYNTHETIC:
        return SYNTHETIC, "set by SALT_DATA_DIR"
    try:
        if wanted:
            found = (ROOT / Path(wanted).expanduser()).resolve(strict=True)
            return found, "set by SALT_DATA_DIR"
    except (OSError, RuntimeError, ValueError) as error:
        fault = f"{wanted[:99]} does not exist, or is closed ({error})"
        raise ValueError(f"SALT_DATA_DIR: {fault}. {ADVICE}") from error
    for folder in (ROOT / "data" / "tgs", *KAGGLE_FOLDERS):
        if folder.is_dir():
            return folder, "found there"
    return SYNTHETIC, "no competition data found: built-in synthetic geology"


def _choose_profile(wanted: str, data: Path | str) -> tuple[str, str]:
    if wanted in PROFILES:
        return wanted, "set by SALT_PROFILE"
    if wanted:
        known = ", ".join(PROFILES)
        raise ValueError(f"SALT_PROFILE: {wanted!r} must be one of {known}")
    if not accelerators():
        return "quick", "no accelerator"
    if data == SYNTHETIC:
        return "quick", "enough for synthetic tiles"
    return "full", "real data and an accelerator"
