"""Nested optimiser state as plain data: tensors by name, and a JSON skeleton of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TENSOR = "__tensor__"


def split(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Part a nest of mappings, sequences, numbers, text and tensors into tensors and JSON.

    Keys keep their type (an optimiser numbers its parameters), sequences become lists. Raises
    TypeError, naming the place, for anything else: state that cannot be written must not vanish.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _split(tree, "", tensors)


def join(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """Put `split`'s two halves together again."""
    if isinstance(skeleton, list):
        return [join(tensors, item) for item in skeleton]
    if isinstance(skeleton, dict):
        if _TENSOR in skeleton:
            return tensors[skeleton[_TENSOR]]
        return {_key(key): join(tensors, item) for key, item in skeleton.items()}
    return skeleton


def _split(tree: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        name = place or "root"
        tensors[name] = tree
        return {_TENSOR: name}
    if isinstance(tree, Mapping):
        return {
            f"{type(key).__name__}:{key}": _split(item, f"{place}.{key}".lstrip("."), tensors)
            for key, item in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_split(item, f"{place}.{i}".lstrip("."), tensors) for i, item in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"state at {place!r} is a {type(tree).__name__}; it has no plain form")


def _key(text: str) -> str | int:
    kind, _, value = text.partition(":")
    return int(value) if kind == "int" else value
