"""Plans: what identifies a training run, so that whatever was changed is noticed."""

import io
import json
import pickle
import re
import sys
import sysconfig
import zlib
from dataclasses import asdict, fields, is_dataclass
from dis import get_instructions
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, NoneType
from typing import Any, get_args, get_origin, get_type_hints

import keras

from helpers import encoders, losses
from helpers.config import Settings
from helpers.data import Tiles
from helpers.systems import System
from helpers.utils.files import DataError, atomic_write

VERSION = 6  # of a run's files; raised when older ones can no longer be read
PLAN = ("version", "system", "losses", "fold", "seed", "profile", "data", "tiles")
LIBRARY = sysconfig.get_path("stdlib")


def check_name(name: str) -> str:
    """The name of a system, which is also a folder's: str.

    Raises:
        ValueError: for one that would lead out of `runs/`, or is none.
    """
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.+-]{,199}", name, re.A):
        return name
    rule = "use letters, digits and . _ + -, a letter or digit first"
    raise ValueError(f"{str(name)[:50]!r} cannot be the name of a system: {rule}")


def make_plan(
    system: System, tiles: Tiles, fold: int, settings: Settings
) -> dict[str, Any]:
    """All that decides how a run ends: dict, as JSON has it.

    Raises:
        ValueError: for a loss of one's own of which it cannot be told if it changed.
    """
    parts = (getattr(tiles, field.name) for field in fields(tiles))
    content = b"".join(part.tobytes() for part in parts if part is not None)
    plan = {
        "version": VERSION,
        "system": asdict(system),
        "losses": [_describe(stage.loss) for stage in system.stages],
        "fold": int(fold),
        "seed": settings.seed,
        "profile": settings.profile.name,
        "data": settings.kind,
        "tiles": f"{zlib.crc32(content):08x}",
    }
    if layers := encoders.SKIP_LAYERS.get(system.network.encoder):
        plan["encoder"] = layers
    if (file := Path(system.network.weights or "")).is_file():
        plan["weights"] = f"{zlib.crc32(file.read_bytes()):08x}"
    return json.loads(json.dumps(plan))  # tuples become lists, as in the files


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
        return as_system(entry.get("system", entry))
    except Exception as error:  # whatever JSON may hold
        fault = f"not a system's row ({error}): give a run's config.json"
        raise DataError(f"{path}: {fault}") from error


def as_system(row: Any, kind: Any = System) -> Any:
    """JSON as a `System`, or as a value of another `kind`; no values are checked.

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


def _describe(name: str) -> Any:
    """Keras' config of a loss; with code of one's own, a CRC of code and values.

    Keras' config lacks what a closure holds, or a class that has no `get_config`.
    """
    loss, content = losses.get(name), io.BytesIO()
    writer = _CodePickler(content)
    try:
        writer.dump(loss)
    except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
        fault = f"loss {name!r}: a change of it would not be noticed ({error})"
        remedy = "write a keras.losses.Loss with get_config"
        raise ValueError(f"{fault}: {remedy}") from error
    own = f"{zlib.crc32(content.getvalue()):08x}"
    return own if writer.own else keras.losses.serialize(loss)


class _CodePickler(pickle.Pickler):
    """Writes functions and classes of one's own as what they contain."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.fast = True  # equal values give equal bytes
        self.own: list[Any] = []  # the functions and classes

    def reducer_override(self, x: Any) -> Any:
        """What `pickle` writes instead of `x`: tuple."""
        kept: Any = None
        if isinstance(x, CodeType):
            kept = [x.co_code, x.co_names, [*map(_sorted, x.co_consts)]]
        elif isinstance(x, property):
            kept = [x.fget, x.fset]
        elif isinstance(x, keras.Layer):
            kept = [type(x), x.get_config(), x.get_weights()]
        elif isinstance(x, keras.losses.Loss):
            own = _is_own(type(x).get_config)
            values = x.get_config() if own else vars(x)  # names may be numbered
            kept = [type(x), {k: v for k, v in values.items() if k != "name"}]
        elif isinstance(x, FunctionType | type) and _is_own(x):
            if any(x is known for known in self.own):
                return str, (x.__qualname__,)
            self.own.append(x)
            if isinstance(x, type):
                kept = [x.__bases__, {k: v for k, v in vars(x).items() if _counts(k)}]
            else:
                found = {i.argval for i in get_instructions(x) if "GLOBAL" in i.opname}
                used = {k: x.__globals__.get(k) for k in sorted(found)}
                held = [cell.cell_contents for cell in x.__closure__ or ()]
                kept = [x.__code__, x.__defaults__, x.__kwdefaults__, held, used]
        elif isinstance(x, ModuleType):
            return str, (x.__name__,)
        return NotImplemented if kept is None else (list, (kept,))


def _sorted(constant: Any) -> Any:
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


def _counts(name: str) -> bool:
    """Whether a class's attribute says what it does."""
    return name[:2] != "__" or name in ("__init__", "__call__")


def _is_own(x: Any) -> bool:
    """Whether code is neither installed nor part of this package."""
    name = getattr(x, "__module__", None) or "builtins"
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    installed = not file or "-packages" in file or file.startswith(LIBRARY)
    return name == "__main__" or not (installed or name.startswith("helpers."))
