"""A recipe may extend others: what it does not name itself comes from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from morl.config.document import Document, read_document
from morl.errors import ConfigError

EXTENDS = "extends"
DEEPEST = 8  # far beyond any sensible chain; a recipe that extends itself ends here


def read_extended(path: Path, locate: Callable[[str], Path], depth: int = 0) -> Document:
    """Read a recipe and, first, those that its key `extends` names, the last of them winning.

    A name is a file beside the recipe, or whatever `locate` finds. Keys are taken over one by one
    in each section; the value of a key (a list, a mapping of objectives) is replaced as a whole,
    and so are all settings of `algorithm` where another algorithm is named. Raises ConfigError for
    a recipe that is not there, extends itself, or names no recipe.
    """
    document = read_document(path.read_bytes(), path.name)
    if EXTENDS not in document.values:
        return document
    place = document.where((EXTENDS,))
    below = Document({}, document.source)
    for name in _names(document.values.pop(EXTENDS), place):
        if depth == DEEPEST:
            raise ConfigError(f"{place}: more than {DEEPEST} recipes extend one another in a row")
        beside = path.parent / name
        try:
            found = beside if beside.is_file() else locate(name)
        except ConfigError as error:
            raise ConfigError([f"{place}: {problem}" for problem in error.problems]) from error
        below = _over(below, read_extended(found, locate, depth + 1))
    return _over(below, document)


def _names(value: Any, place: str) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{place}: `extends` must name a recipe or a list of them; got {value!r}")
    return names


def _over(below: Document, above: Document) -> Document:
    values = dict(below.values)
    for section, keys in above.values.items():
        before = values.get(section)
        values[section] = keys
        merged = isinstance(keys, dict) and not _renamed(section, before, keys)
        if isinstance(before, dict) and merged:
            values[section] = {**before, **keys}
    return Document(values, above.source, {**below.lines, **above.lines})


def _renamed(section: str, before: Any, keys: Any) -> bool:
    if section != "algorithm" or not isinstance(before, dict):
        return False
    return keys.get("name", before.get("name")) != before.get("name")
