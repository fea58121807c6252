"""Runs: everything about one training run, kept in the folder `<system>/fold-<k>`.

| file | content |
|---|---|
| `config.json` | the system's row, fold, seed, versions, score; written last |
| `history.csv` | losses, scores, learning rate and seconds of every epoch |
| `model.keras` | the network with the weights that were kept |
| `validation.npz` | ids of the fold's tiles and their probabilities (uint8, 255 is 1) |
| `work/plan.json` | what is being trained, until that is finished |

The probabilities are `plain`, and `mirrored`: of the mirror images, mirrored back.
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers import inference, losses, systems
from helpers.batches import ResizeOrPad
from helpers.config import Settings
from helpers.data import Tiles
from helpers.systems import System
from helpers.training.checkpoints import Checkpoints
from helpers.utils.files import DataError, atomic_write

VERSION = 6  # of a run's files; raised when older ones can no longer be read
PLAN_FILE = "work/plan.json"
PLAN = ("version", "system", "losses", "fold", "seed", "profile", "data", "tiles")


@dataclass(frozen=True)
class Run:
    """A training run, read from its `folder`."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was trained, and with which score: dict.

        Raises:
            DataError: if another version of helpers made the run.
        """
        config = json.loads((self.folder / "config.json").read_text())
        if config.get("version") == VERSION:
            return config
        fault = "made by another version of helpers: move it away, or train it again"
        raise DataError(f"{self.folder}: {fault}")

    @property
    def name(self) -> str:
        """`<system>/fold-<k>`."""
        return f"{self.system}/fold-{self.config['fold']}"

    @property
    def system(self) -> str:
        """Name of the system that was trained."""
        return self.config["system"]["name"]

    @property
    def score(self) -> float:
        """Competition score of the fold's tiles at threshold 0.5."""
        return self.config["score"]

    def is_like(self, other: "Run") -> bool:
        """Whether both were trained in the same way, whatever their folds."""
        return all(self.config[x] == other.config[x] for x in PLAN if x != "fold")

    def history(self) -> pd.DataFrame:
        """DataFrame, one row per epoch."""
        return pd.read_csv(self.folder / "history.csv")

    def model(self) -> keras.Model:
        """The trained Keras model."""
        return keras.models.load_model(self.folder / "model.keras", compile=False)

    def validation(self, tta: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`(ids, probabilities)` of the fold's tiles: str (n,), float32 (n, 101, 101).

        `tta` averages with the mirrored tiles, by default if its system does.
        """
        tta = self.config["system"]["tta"] if tta is None else tta
        with np.load(self.folder / "validation.npz") as stored:
            ids, total = stored["ids"], stored["plain"].astype(np.float32)
            if tta:
                total = (total + stored["mirrored"]) / 2
        return ids, total / 255

    def predict(
        self, images: np.ndarray, progress: Any = None, tta: bool | None = None
    ) -> np.ndarray:
        """Probabilities of new tiles, uint8 (n, 101, 101) -> float32, same shape."""
        system = self.config["system"]
        transform, size = ResizeOrPad(**system["transform"]), 4 * system["batch_size"]
        tta = system["tta"] if tta is None else tta
        return inference.predict(self.model(), images, transform, tta, size, progress)


def look_up(
    system: System, tiles: Tiles, fold: int, settings: Settings
) -> tuple[Run, dict[str, Any], str]:
    """`(run, plan, state)`: a run, what identifies it, and how far it has come.

    The state is "finished", "begun", "", or what is wrong with the run in its folder.
    """
    parts = (getattr(tiles, field.name) for field in fields(tiles))
    content = b"".join(part.tobytes() for part in parts if part is not None)
    plan = {
        "version": VERSION,
        "system": asdict(system),
        "losses": [keras.losses.serialize(losses.get(x.loss)) for x in system.stages],
        "fold": int(fold),
        "seed": settings.seed,
        "profile": settings.profile.name,
        "data": settings.kind,
        "tiles": f"{zlib.crc32(content):08x}",
    }
    plan = json.loads(json.dumps(plan))  # tuples become lists, as in the files
    run = Run(settings.runs_dir / system.name / f"fold-{fold}")
    for name, state in ("config.json", "finished"), (PLAN_FILE, "begun"):
        if (run.folder / name).exists():
            found = json.loads((run.folder / name).read_text())
            if plan.items() <= found.items():
                return run, found, state
            if found.get("version") != VERSION:
                return run, plan, "made by another version of helpers"
            return run, plan, "made with other settings"
    return run, plan, "incomplete" if run.folder.exists() else ""


def begin(run: Run, plan: dict[str, Any], state: str) -> Checkpoints:
    """Open the checkpoints of a run; another run in its folder is moved aside."""
    if state not in ("", "begun"):
        aside = run.folder.with_name(time.strftime("%Y%m%d-%H%M%S-") + run.folder.name)
        print(f"{run.folder}: {state}, moved to {run.folder.rename(aside).name}")
    with atomic_write(run.folder / PLAN_FILE) as temporary:
        temporary.write_text(json.dumps(plan))
    checkpoints = Checkpoints(run.folder)
    if checkpoints.history:
        print(f"resuming after epoch {len(checkpoints.history)} in {plan['precision']}")
    return checkpoints


def find_runs(folder: Path | str, like: Run | None = None) -> list[Run]:
    """The finished runs below a folder, sorted; only those `like` another if given."""
    found = []
    for file in sorted(Path(folder).glob("*/fold-*/config.json")):
        run = Run(file.parent)
        try:
            if run.config and (like is None or run.is_like(like)):
                found.append(run)
        except DataError as error:
            print(f"left out: {error}")
    return found


def folds_of(settings: Settings, name: str) -> list[Run]:
    """The finished runs of the system `name` on the settings' data, at least one.

    Raises:
        DataError: if there is none, or if they were trained in different ways.
    """
    found = [run for run in find_runs(settings.runs_dir) if run.system == name]
    found = [run for run in found if run.config["data"] == settings.kind]
    if not found and [*(settings.runs_dir / name).glob(f"fold-*/{PLAN_FILE}")]:
        fault = "begun, not finished: resume it with the command that began it"
        raise DataError(f"{settings.runs_dir / name}: {fault}")
    if not found:
        raise DataError(
            f"{settings.runs_dir}: no finished run of {name} on {settings.kind} tiles: "
            f"train it by `python -m helpers train {name} --fold 0`"
        )
    for run in found[1:]:
        if not run.is_like(found[0]):
            fault = f"made with other settings than {found[0].name}"
            raise DataError(
                f"{run.folder}: {fault}: move one away, or train them alike"
            )
    return found


def find_members(settings: Settings, *names: str) -> dict[Run, float]:
    """`{Run: weight}` of the finished folds of systems or ensembles of equal weight."""
    weights: dict[Run, float] = {}
    for name in names:
        has_runs = (settings.runs_dir / name).is_dir()
        members = ((name, 1.0),) if has_runs else systems.get(name).members
        total = len(names) * sum(weight for _, weight in members)
        for member, weight in members:
            found = folds_of(settings, member)
            for run in found:
                weights[run] = weights.get(run, 0.0) + weight / total / len(found)
    return weights


def predict(
    members: Mapping[Run, float],
    images: np.ndarray,
    progress: Callable | None = None,
    tta: bool | None = None,
) -> np.ndarray:
    """Weighted mean of the runs' probabilities, float32 (n, 101, 101)."""
    mean = np.zeros(images.shape, np.float32)
    for run, weight in members.items():
        mean += weight * run.predict(images, progress, tta)
    return mean / sum(members.values())


def out_of_fold(
    members: Mapping[Run, float], tiles: Tiles, tta: bool | None = None
) -> tuple[Tiles, np.ndarray]:
    """`(tiles, mean)`: the tiles that all systems left out, float32 (n, 101, 101)."""
    place, mean = pd.Index(tiles.ids), np.zeros(tiles.images.shape, np.float32)
    left_out = {run.system: np.zeros(len(tiles), bool) for run in members}
    for run in members:
        ids, probabilities = run.validation(tta)
        where = place.get_indexer(ids)
        known = where >= 0  # the others are not among the tiles
        weight = sum(w for fold, w in members.items() if fold.system == run.system)
        mean[where[known]] += weight * probabilities[known]
        left_out[run.system][where[known]] = True
    chosen = np.all([*left_out.values()], axis=0)
    return tiles.take(chosen), mean[chosen] / sum(members.values())


def write_system(system: System, path: Path | str) -> None:
    """Write a `System` to a JSON file, for `read_system`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(system), indent=1))


def read_system(path: Path | str) -> System:
    """Read a `System` from the file of `write_system`, or from a run's `config.json`.

    Raises:
        DataError: for a file that is missing or holds something else.
    """
    try:
        entry = json.loads(Path(path).read_text())
        if entry.get("version", VERSION) != VERSION:
            raise ValueError("made by another version of helpers")
        return _like(systems.SYSTEMS[systems.DEFAULT], entry.get("system", entry))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fault = f"not a system's row ({error}): give a run's config.json"
        raise DataError(f"{path}: {fault}") from error


def _like(row: Any, value: Any) -> Any:
    """JSON's dicts and lists as the dataclasses and tuples that they are in a row."""
    if is_dataclass(row):
        kind: Any = type(row)
        return kind(**{k: _like(getattr(row, k), v) for k, v in value.items()})
    if isinstance(value, list):
        return tuple(_like(row[0] if row else None, part) for part in value)
    return value
