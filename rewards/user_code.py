"""Import an object of a user's own by dotted path or by file, with errors that name the cause."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from rewards.errors import UnknownRewardError, nearest

_FILES: dict[Path, ModuleType] = {}


def is_path(name: str) -> bool:
    """Whether a name says where its object is: `module.name` or `path/to/file.py:name`."""
    return ":" in name or "." in name


def import_object(path: str, reward: str) -> object:
    """Return the object at `module.attribute`, `module:attribute` or `path/to/file.py:attribute`.

    Modules of the working directory count, after installed ones. `reward` is the name that errors
    speak of. Raises UnknownRewardError for a missing file, module or attribute, and for a module
    that fails when imported.
    """
    place, _, attribute = path.rpartition(":") if ":" in path else path.rpartition(".")
    if not place or not attribute:
        raise UnknownRewardError(
            f"reward {reward!r}: a path is module.function or path/to/file.py:function"
        )
    module = _file(Path(place), reward) if place.endswith(".py") else _module(place, reward)
    found = vars(module).get(attribute)
    if found is None:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise UnknownRewardError(
            f"reward {reward!r}: {place} has no {attribute!r}; {nearest(attribute, public)}"
        )
    return found


def _module(place: str, reward: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        # Last, so that a file here never shadows a library; kept, for imports inside functions.
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            raise UnknownRewardError(
                f"reward {reward!r}: there is no module {error.name!r}, neither in {here} nor "
                "installed"
            ) from error
        raise _broken(place, reward, error) from error
    except Exception as error:
        raise _broken(place, reward, error) from error


def _file(path: Path, reward: str) -> ModuleType:
    path = path.expanduser().absolute()
    if path in _FILES:
        return _FILES[path]
    spec = importlib.util.spec_from_file_location(f"_rewards_of_file_{len(_FILES)}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UnknownRewardError(f"reward {reward!r}: there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses of the file look their module up while it runs.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise _broken(str(path), reward, error) from error
    _FILES[path] = module
    return module


def _broken(place: str, reward: str, error: Exception) -> UnknownRewardError:
    return UnknownRewardError(
        f"reward {reward!r}: importing {place} failed with {type(error).__name__}: {error}"
    )
