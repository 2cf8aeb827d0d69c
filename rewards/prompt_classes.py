"""Named classes of prompts, for constraints that hold on some alone. Imports no torch.

A prompt is in a class if its record says so (`{"prompt": "...", "classes": ["portrait"]}` in a
.jsonl file), or if the predicate of that name says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.errors import ExpressionError, UnknownRewardError, nearest
from rewards.user_code import import_object

FIELD = "classes"
Predicate = Callable[[str, Mapping[str, Any]], bool]
"""(prompt, its record) -> whether it is in the class."""


def _does_not_ask(prompt: str, record: Mapping[str, Any]) -> bool:
    """Prompts of the embedded world that do not ask for the forbidden mark."""
    del record
    from rewards.shapes.captions import parse

    return not parse(prompt).asks_mark


_PREDICATES: dict[str, Predicate] = {"prompt does not ask": _does_not_ask}


def prompt_class(name: str) -> Callable[[Predicate], Predicate]:
    """Register a predicate of (prompt, record) under the name that `where="..."` gives.

    Raises ValueError for a name that another predicate has.
    """

    def declare(predicate: Predicate) -> Predicate:
        known = _PREDICATES.get(name)
        # The same function again is a notebook cell that runs twice.
        if known is not None and known.__qualname__ != predicate.__qualname__:
            raise ValueError(f"a prompt class named {name!r} exists already; choose another name")
        _PREDICATES[name] = predicate
        return predicate

    return declare


def members(
    name: str, prompts: Sequence[str], records: Sequence[Mapping[str, Any]] | None
) -> list[bool]:
    """Which prompts are in a class.

    name: of a predicate or in records, or path/to/file.py:function. A class that nothing declares
    is empty. Raises ExpressionError for a path without a function, and for a record whose classes
    are no list of names.
    """
    predicate = _predicate(name)
    held = records or [{}] * len(prompts)
    return [
        name in _classes(record) or (predicate is not None and bool(predicate(prompt, record)))
        for prompt, record in zip(prompts, held, strict=True)
    ]


def class_problem(
    name: str, prompts: Sequence[str], records: Sequence[Mapping[str, Any]] | None
) -> str | None:
    """Why a class cannot bound anything on these prompts, or None.

    No prompts: they are not written yet, and a predicate is all that can be asked for.
    """
    try:
        declared = _predicate(name) is not None
        if any(members(name, prompts, records)) or (declared and not prompts):
            return None
        known = {*_PREDICATES, *(c for record in records or () for c in _classes(record))}
    except ExpressionError as error:
        return str(error)
    if declared:
        return f"no prompt is in the class {name!r}"
    return f"there is no prompt class {name!r}; {nearest(name, known)}"


def _predicate(name: str) -> Predicate | None:
    if name in _PREDICATES or ":" not in name:
        return _PREDICATES.get(name)
    try:
        found = import_object(name, name)
    except UnknownRewardError as error:
        reason = str(error).removeprefix(f"reward {name!r}: ")
        raise ExpressionError(f"prompt class {name!r}: {reason}") from error
    if not callable(found):
        raise ExpressionError(f"prompt class {name!r}: a {type(found).__name__} is no function")
    return found


def _classes(record: Mapping[str, Any]) -> Sequence[str]:
    classes = record.get(FIELD, ())
    if isinstance(classes, str) or not all(isinstance(entry, str) for entry in classes):
        raise ExpressionError(
            f'{FIELD!r} of a prompt\'s record must be a list of names, like ["portrait"]; got '
            f"{classes!r}"
        )
    return list(classes)
