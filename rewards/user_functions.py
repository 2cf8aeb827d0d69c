"""A user's own functions inside expressions: declared, named by path or name, pointwise."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, Literal

from rewards.errors import UnknownRewardError, nearest
from rewards.expression import CALLS, METHODS, Expression, Leaf, number
from rewards.user_code import import_object, is_path


class UserFunction:
    """A pointwise function of tensors [B] with what it declares.

    Called with expressions it makes an expression; called with tensors it computes.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        low: float,
        high: float,
        differentiable: bool,
        monotone: Literal[-1, 0, 1],
    ) -> None:
        self.function = function
        self.name = name
        self.low = low
        self.high = high
        self.differentiable = differentiable
        self.monotone = monotone
        update_wrapper(self, function)

    def __call__(self, *parts: Any) -> Any:
        if any(isinstance(part, Expression) for part in parts):
            return Apply(self.name, tuple(map(number, parts)), self)
        return self.function(*parts)

    def mismatch(self, count: int) -> str | None:
        """Say why the function does not take `count` arguments, or return None."""
        try:
            inspect.signature(self.function).bind(*range(count))
        except TypeError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class Apply(Expression):
    """A user's function of expressions, by name or path; `target` where Python gave the object."""

    name: str
    parts: tuple[Expression, ...]
    target: UserFunction | None = field(default=None, compare=False, repr=False)

    @property
    def function(self) -> UserFunction:
        """The function itself; raises UnknownRewardError where there is none."""
        return function_of(self.name) if self.target is None else self.target

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.parts

    def __str__(self) -> str:
        # `my.clip(x, 0, 1)` would be read as the method clip of a reward named `my`.
        method = self.name.rpartition(".")[2] in METHODS
        name = f"R({self.name!r})" if method else str(Leaf(self.name))
        return f"{name}({', '.join(map(str, self.parts))})"


_DECLARED: dict[str, UserFunction] = {}


def pointwise(
    *,
    name: str | None = None,
    differentiable: bool = False,
    low: float = -math.inf,
    high: float = math.inf,
    monotone: Literal[-1, 0, 1] = 0,
) -> Callable[[Callable[..., Any]], UserFunction]:
    """Declare a function of tensors [B] that looks at each sample alone, for use in expressions.

    It takes as many tensors [B] as it is given expressions, and returns one [B] with values in
    [low, high]; samples that do not apply are left out of what it sees. `differentiable`: gradients
    pass through it. `monotone`: 1 where it grows with every argument, -1 where it shrinks, 0 where
    that varies; a lower-is-better reward may only stand where that is known. With `name` it goes by
    that name, without by `module.function`, which is also how a YAML file finds it. Raises
    ValueError for a taken name, bounds in the wrong order, another `monotone`.
    """
    if not low < high:
        raise ValueError(f"`low` must be below `high`; got {low:g} and {high:g}")
    if monotone not in (-1, 0, 1):
        raise ValueError(f"`monotone` must be -1, 0 or 1; got {monotone!r}")
    if name is not None and not name.isidentifier():
        raise ValueError(f"`name` must be one word of letters, digits and '_'; got {name!r}")

    def declare(function: Callable[..., Any]) -> UserFunction:
        path = f"{function.__module__}.{function.__qualname__}"
        declared = UserFunction(function, name or path, low, high, differentiable, monotone)
        if name is not None:
            # The same function again is a notebook cell that runs twice.
            taken = name in _DECLARED and _path(_DECLARED[name]) != path
            if name in (*CALLS, *METHODS) or taken:
                raise ValueError(f"a function named {name!r} exists already; choose another `name`")
            _DECLARED[name] = declared
        return declared

    return declare


def declared_functions() -> tuple[str, ...]:
    """Names of the functions that were declared with one."""
    return tuple(_DECLARED)


def function_of(name: str) -> UserFunction:
    """A declared function by name or path; raises UnknownRewardError with the nearest names."""
    if name in _DECLARED:
        return _DECLARED[name]
    if not is_path(name):
        raise UnknownRewardError(f"unknown function {name!r}; {nearest(name, _DECLARED)}")
    found = import_object(name, name)
    if not isinstance(found, UserFunction):
        raise UnknownRewardError(
            f"{name!r} is a {type(found).__name__}, not a function of rewards; put "
            "@rewards.pointwise(...) above it"
        )
    return found


def _path(declared: UserFunction) -> str:
    return f"{declared.function.__module__}.{declared.function.__qualname__}"
