"""From a YAML file or recipe name to a typed `Config`; all problems are reported in one go."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from morl.algorithms.facts import ALGORITHMS
from morl.algorithms.settings import AlgorithmSettings
from morl.config.document import Document, KeyPath, read_scalar
from morl.config.extends import read_extended
from morl.config.tree import Config
from morl.errors import ConfigError
from morl.option import option_of
from rewards.errors import nearest

T = TypeVar("T")

_PACKAGE = Path(__file__).parents[1]
# Installed, the recipes lie inside the package; in a source checkout, beside it.
RECIPE_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "configs")


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a YAML file, a run directory's `config.yaml`, or a packaged recipe by name.

    What the file `extends` comes first (see `morl.config.extends`).
    `overrides` are "training.steps=10" and win over the file. Raises ConfigError with every
    unknown key (and its nearest known one), wrong type and value out of range.
    """
    path = _locate(str(source))
    document = read_extended(path, _locate)
    problems = [problem for text in overrides for problem in _override(document, text)]
    builder = _Builder(document, problems)
    config = builder.build(Config, document.values, ())
    if problems:
        raise ConfigError(problems)
    return config


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted({path.stem for folder in RECIPE_FOLDERS for path in folder.glob("*.yaml")})


def _locate(source: str) -> Path:
    path = Path(source)
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_file():
        return path
    for folder in RECIPE_FOLDERS:
        if source in recipe_names() and (folder / f"{source}.yaml").is_file():
            return folder / f"{source}.yaml"
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        raise ConfigError(f"no such file: {path} (looked in {Path.cwd()})")
    raise ConfigError(f"no recipe or file is called {source!r}; {nearest(source, recipe_names())}")


def _override(document: Document, text: str) -> list[str]:
    """Write one `key=value` into the document; return what is wrong with it."""
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        return [f"--set {text}: write key=value, like training.steps=10"]
    section = document.values
    for name in path[:-1]:
        if section.get(name) is None:
            section[name] = {}
        if not isinstance(section[name], dict):
            return [f"--set {text}: {name!r} is a value, not a section"]
        section = section[name]
    try:
        written = read_scalar(value)
    except ConfigError as error:
        return [f"--set {text}: {problem}" for problem in error.problems]
    if path == ("algorithm", "name") and written != section.get("name"):
        section.clear()  # the settings in the file are those of another algorithm
    section[path[-1]] = written
    document.lines[path] = f"--set {text}"
    return []


class _Builder:
    """Builds dataclasses from plain values; a problem is noted and the default stands in."""

    def __init__(self, document: Document, problems: list[str]) -> None:
        self.document = document
        self.problems = problems

    def build(self, cls: type[T], values: Any, path: KeyPath, also: str = "") -> T:
        """Build `cls`; `also` names one more key that the caller has read already."""
        if not isinstance(values, dict):
            if values is not None:  # an empty section means its defaults
                self._problem(path, f"must be a section of keys; got {values!r}")
            values = {}
        hints = get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        arguments = {}
        for key, value in values.items():
            if key in fields:
                arguments[key] = self._field(fields[key], hints[key], value, (*path, key))
            elif key != also:
                self._problem((*path, key), f"unknown key; {nearest(key, fields)}")
        return cls(**arguments)

    def _field(self, field: dataclasses.Field[Any], hint: Any, value: Any, path: KeyPath) -> Any:
        if hint == AlgorithmSettings:
            return self._algorithm(value, path)
        found: list[str] = []
        converted = self._convert(value, hint, path, found)
        if not found and (rule := option_of(field).problem(converted)):
            found.append(rule)
        for problem in found:
            self._problem(path, problem)
        return _default(field) if found else converted

    def _algorithm(self, value: Any, path: KeyPath) -> Any:
        name = value.get("name") if isinstance(value, dict) else None
        if name not in ALGORITHMS:
            hint = nearest(str(name), ALGORITHMS)
            self._problem((*path, "name"), f"must name an algorithm; got {name!r}; {hint}")
            return Config().algorithm
        return self.build(ALGORITHMS[name].settings, value, path, also="name")

    def _convert(self, value: Any, hint: Any, path: KeyPath, found: list[str]) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.build(hint, value, path)
        if origin is Literal:
            if value not in args:
                known = nearest(str(value), [str(arg) for arg in args])
                found.append(f"got {value!r}; {known}")
            return value
        if origin in (Union, types.UnionType):
            return self._first(value, args, path, found)
        if origin is dict:
            return self._items(value, args[1], path, found)
        if origin is list:
            if not isinstance(value, list | None):
                found.append(f"must be a list; got {value!r}")
                return []
            return [self._convert(v, args[0], path, found) for v in value or []]
        return _scalar(value, hint, found)

    def _first(self, value: Any, hints: tuple[Any, ...], path: KeyPath, found: list[str]) -> Any:
        """Take the first of several types that accepts the value."""
        if value is None and type(None) in hints:
            return None
        rules = []
        for hint in (hint for hint in hints if hint is not type(None)):
            trial: list[str] = []
            converted = self._convert(value, hint, path, trial)
            if not trial:
                return converted
            rules.append(trial[0])
        found.append(" or ".join(rules))
        return value

    def _items(self, value: Any, hint: Any, path: KeyPath, found: list[str]) -> dict[str, Any]:
        if not isinstance(value, dict | None):
            found.append(f"must be a section of name: value; got {value!r}")
            return {}
        items = {}
        for key, item in (value or {}).items():
            inner: list[str] = []
            converted = self._convert(item, hint, (*path, key), inner)
            for problem in inner:
                self._problem((*path, key), problem)
            if not inner:
                items[key] = converted
        return items

    def _problem(self, path: KeyPath, text: str) -> None:
        self.problems.append(
            f"{'.'.join(path) or 'top level'}: {text} ({self.document.where(path)})"
        )


def _scalar(value: Any, hint: Any, found: list[str]) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    quote = " (put it in quotes)" if hint is str else ""
    found.append(f"must be {words[hint]}; got {value!r}{quote}")
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
