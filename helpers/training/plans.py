"""Plans: what identifies a training run, so that whatever was changed is noticed."""

import json
import re
import zlib
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import keras

from helpers import encoders, losses
from helpers.config import Settings
from helpers.data import Tiles
from helpers.systems import System
from helpers.utils.files import DataError, atomic_write

VERSION = 7  # of a run's files; raised when older ones can no longer be read
PLAN = ("version", "system", "losses", "fold", "seed", "profile", "data", "tiles")


def check_name(name: str) -> str:
    """The name of a system, which is also a folder's: str.

    Raises:
        ValueError: for one that would lead out of `runs/`, or is none.
    """
    if re.fullmatch(r"[A-Za-z0-9][\w.+-]{,199}", name, re.A):
        return name
    rule = "use letters, digits and . _ + -, a letter or digit first"
    raise ValueError(f"{name[:50]!r} cannot be the name of a system: {rule}")


def make_plan(
    system: System, tiles: Tiles, fold: int, settings: Settings
) -> dict[str, Any]:
    """All that decides how a run ends: dict, as JSON has it.

    Raises:
        ValueError: for a loss of one's own of which it cannot be told if it changed.
    """
    file, layers = Path(str(system.network.weights)), encoders.SKIP_LAYERS
    content = [x.tobytes() for x in vars(tiles).values() if x is not None]
    content += [str(layers.get(system.network.encoder, "")).encode()]
    if file.suffix and file.is_file():  # a name, such as "geology", is no path
        content += [file.read_bytes()]
    plan = {
        "version": VERSION,
        "system": asdict(system),
        "losses": [_describe(losses.get(stage.loss)) for stage in system.stages],
        "fold": int(fold),
        "seed": settings.seed,
        "profile": settings.profile.name,
        "data": settings.kind,
        "tiles": f"{zlib.crc32(b''.join(content)):08x}",  # and what the row only names
    }
    return json.loads(json.dumps(plan))  # tuples become lists, as in the files


def _describe(loss: Any) -> Any:
    """Keras' config of a loss, without the numbers that it appends to names."""
    if "get_config" not in vars(type(loss)):  # a function, or a config without values
        fault = f"a change of the loss {getattr(loss, '__name__', type(loss).__name__)}"
        remedy = "write a keras.losses.Loss with get_config"
        raise ValueError(f"{fault} would not be noticed: {remedy}")
    for part in getattr(loss, "losses", ()):  # of a `WeightedSum`
        _describe(part)
    config = json.dumps(keras.losses.serialize(loss))
    return json.loads(re.sub(r'("name": "\w*?)_\d+"', r'\1"', config))


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
        return as_system(entry.get("system", entry))
    except Exception as error:  # whatever JSON may hold
        fault = f"not a system's row ({error}): give a run's config.json"
        raise DataError(f"{path}: {fault}") from error


def as_system(row: Any, kind: Any = System) -> Any:
    """JSON as a `System`, or as a value of another `kind`.

    Raises:
        TypeError: for JSON of another kind.
    """
    if is_dataclass(kind):
        make: Any = kind
        kinds = get_type_hints(kind)
        return make(**{key: as_system(part, kinds[key]) for key, part in row.items()})
    if NoneType in get_args(kind):
        return row if row is None else as_system(row, get_args(kind)[0])
    if get_origin(kind) is tuple and isinstance(row, list):
        return tuple(as_system(part, get_args(kind)[0]) for part in row)
    if not isinstance(row, (int, float) if kind is float else get_origin(kind) or kind):
        raise TypeError(f"{row!r:.50} is no {kind.__name__}")
    return row
