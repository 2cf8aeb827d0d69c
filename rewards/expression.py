"""Composite rewards as a tree that reads, prints and stores as mathematics. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rewards.errors import ExpressionError

if TYPE_CHECKING:
    from rewards.registry import UserReward

Operator = Literal["+", "-", "*", "/"]
Combination = Literal["min", "max"]
Sense = Literal["<=", ">="]
ENSEMBLE_AGGREGATES = ("mean", "min", "mean-std")


class Expression:
    """A number for each image, computed from raw rewards. Nodes are immutable."""

    def __add__(self, other: Expression | float) -> Expression:
        return Binary("+", self, number(other))

    def __radd__(self, other: float) -> Expression:
        return Binary("+", number(other), self)

    def __sub__(self, other: Expression | float) -> Expression:
        return Binary("-", self, number(other))

    def __rsub__(self, other: float) -> Expression:
        return Binary("-", number(other), self)

    def __mul__(self, other: Expression | float) -> Expression:
        return Binary("*", self, number(other))

    def __rmul__(self, other: float) -> Expression:
        return Binary("*", number(other), self)

    def __truediv__(self, other: Expression | float) -> Expression:
        return Binary("/", self, number(other))

    def __rtruediv__(self, other: float) -> Expression:
        return Binary("/", number(other), self)

    def __neg__(self) -> Expression:
        return Binary("*", Number(-1.0), self)

    def __le__(self, threshold: float) -> Constraint:
        return Constraint(self, "<=", threshold)

    def __ge__(self, threshold: float) -> Constraint:
        return Constraint(self, ">=", threshold)

    def clip(self, low: float, high: float) -> Expression:
        """Bound the value to [low, high]; gradients vanish outside."""
        return Clip(self, float(low), float(high))

    def calibrated(self) -> Expression:
        """Centre and scale by the base model's mean and standard deviation, then frozen."""
        return Calibrated(self)

    @property
    def children(self) -> tuple[Expression, ...]:
        """Sub-expressions in order."""
        return ()

    def walk(self) -> Iterator[Expression]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def leaves(self) -> tuple[Leaf, ...]:
        """The rewards that the expression reads, each once, in order of appearance."""
        found = {node.name: node for node in self.walk() if isinstance(node, Leaf)}
        return tuple(found.values())


@dataclass(frozen=True)
class Leaf(Expression):
    """One raw reward, by name or dotted path; `target` is the user's function where it has no path."""

    name: str
    target: UserReward | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        plain = all(part.isidentifier() for part in self.name.split("."))
        return self.name if plain else f"R({self.name!r})"


@dataclass(frozen=True)
class Number(Expression):
    """A constant."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:g}" if float(f"{self.value:g}") == self.value else repr(self.value)


@dataclass(frozen=True)
class Binary(Expression):
    """Arithmetic of two expressions."""

    operator: Operator
    left: Expression
    right: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.left, self.right)

    def __str__(self) -> str:
        if self.operator == "*" and self.left == Number(-1.0):
            return f"-{_inside(self.right, 3)}"
        level = 1 if self.operator in "+-" else 2
        # The right operand of - and / needs brackets at its own level: a - (b - c).
        right = level + (self.operator in "-/")
        return f"{_inside(self.left, level)} {self.operator} {_inside(self.right, right)}"


@dataclass(frozen=True)
class Combine(Expression):
    """The smaller or larger of expressions, sample by sample."""

    how: Combination
    parts: tuple[Expression, ...]

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.parts

    def __str__(self) -> str:
        return f"{self.how}({', '.join(map(str, self.parts))})"


@dataclass(frozen=True)
class Clip(Expression):
    """A value bounded to an interval."""

    part: Expression
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ExpressionError(
                f"clip needs low < high; got {self.low:g} and {self.high:g} in {self}"
            )

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.part,)

    def __str__(self) -> str:
        return f"clip({self.part}, {Number(self.low)}, {Number(self.high)})"


@dataclass(frozen=True)
class Calibrated(Expression):
    """A value in units of the base model's standard deviation."""

    part: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.part,)

    def __str__(self) -> str:
        return f"calibrated({self.part})"


@dataclass(frozen=True)
class Ensemble(Expression):
    """Several measures of one thing; their disagreement travels with the value."""

    members: tuple[Expression, ...]
    aggregate: str = "mean"

    def __post_init__(self) -> None:
        if len(self.members) < 2 or len({str(member) for member in self.members}) < 2:
            raise ExpressionError(
                f"an ensemble needs at least two different members; got {self}: identical members "
                "never disagree and protect from nothing"
            )
        if self.aggregate not in ENSEMBLE_AGGREGATES:
            raise ExpressionError(
                f"`aggregate` must be one of {', '.join(ENSEMBLE_AGGREGATES)}; "
                f"got {self.aggregate!r}"
            )

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.members

    def __str__(self) -> str:
        how = "" if self.aggregate == "mean" else f", aggregate={self.aggregate!r}"
        return f"ensemble({', '.join(map(str, self.members))}{how})"


@dataclass(frozen=True)
class Constraint:
    """A bound on the mean of an expression over the samples where it applies, in raw units."""

    expression: Expression
    sense: Sense
    threshold: float

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, int | float) or not math.isfinite(self.threshold):
            raise ExpressionError(
                f"the threshold of {self.expression} must be a finite number; got {self.threshold}"
            )

    @property
    def name(self) -> str:
        return str(self.expression)

    def __str__(self) -> str:
        return f"{self.expression} {self.sense} {Number(float(self.threshold))}"


def R(reward: Any) -> Leaf:  # noqa: N802 (reads as mathematics)
    """Refer to a raw reward: its name, a dotted path, or a function under @rewards.register."""
    from rewards.registry import UserReward

    if isinstance(reward, UserReward):
        return Leaf(reward.facts.name, reward)
    if isinstance(reward, str) and reward:
        return Leaf(reward)
    raise ExpressionError(
        f"R() takes a reward's name or a function under @rewards.register; got {reward!r}"
    )


def number(value: Expression | float) -> Expression:
    """Turn a Python number into a node; expressions pass. Refuses anything that is not finite."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ExpressionError(f"an expression takes finite numbers and rewards; got {value!r}")
    return Number(float(value))


def min_(*parts: Expression | float) -> Expression:
    """The smallest of several expressions, sample by sample."""
    return Combine("min", tuple(map(number, parts)))


def max_(*parts: Expression | float) -> Expression:
    """The largest of several expressions, sample by sample."""
    return Combine("max", tuple(map(number, parts)))


def ensemble(*members: Expression, aggregate: str = "mean") -> Expression:
    """Several measures of one thing, as z-scores on base images: mean, min or mean-std."""
    return Ensemble(tuple(map(number, members)), aggregate)


def _inside(node: Expression, level: int) -> str:
    """Print a child, in brackets where it binds less tightly than its place needs."""
    negative = (isinstance(node, Number) and node.value < 0) or (
        isinstance(node, Binary) and node.operator == "*" and node.left == Number(-1.0)
    )
    own = 4
    if isinstance(node, Binary):
        own = 1 if node.operator in "+-" else 2
    if negative:
        own = 2 if level < 2 else 0
    return f"({node})" if own < level else str(node)
