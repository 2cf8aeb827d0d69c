"""Composite rewards as a tree that reads, prints and stores as mathematics. Imports no torch."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rewards.bound import Baseline
from rewards.bound import Constraint as Constraint
from rewards.bound import Sense as Sense
from rewards.budgets import BudgetRange
from rewards.errors import ExpressionError, nearest
from rewards.facts import RewardFacts
from rewards.registry import UserReward, facts_of

if TYPE_CHECKING:
    from rewards.reward import Reward

Operator = Literal["+", "-", "*", "/"]
Extreme = Literal["min", "max"]
Aggregate = Literal["mean", "min", "mean-std", "uwo", "soft-min"]
AGGREGATES: tuple[Aggregate, ...] = ("mean", "min", "mean-std", "uwo", "soft-min")
CALLS = ("R", "min", "max", "clip", "calibrated", "ensemble", "where", "rank")
"""The words of the language; a user's function cannot have such a name."""
METHODS = ("clip", "calibrated")
"""Words that may also be written as methods."""


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

    def __le__(self, other: Expression | Baseline | BudgetRange | float) -> Constraint:
        return compare(self, "<=", other)

    def __ge__(self, other: Expression | Baseline | BudgetRange | float) -> Constraint:
        return compare(self, ">=", other)

    def __lt__(self, other: object) -> Constraint:
        raise ExpressionError(
            f"{self} < {other}: a constraint is written with <= or >=, and the smaller or larger "
            "of two rewards with min_() or max_()"
        )

    __gt__ = __lt__

    def clip(self, low: float, high: float) -> Expression:
        """Bound the value to [low, high]; gradients vanish outside."""
        return Clip(self, number(low), number(high))

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
    """One raw reward, by name or path; `target` is the object itself where R() was given one."""

    name: str
    target: UserReward | Reward | None = field(default=None, compare=False, repr=False)

    @property
    def facts(self) -> RewardFacts:
        """What the reward declares; raises UnknownRewardError where there is none."""
        return facts_of(self.name) if self.target is None else self.target.facts

    def __str__(self) -> str:
        parts = self.name.split(".")
        # Python's grammar reads it back, which knows keywords and rewrites some Unicode letters.
        plain = self.name.isascii() and all(
            part.isidentifier() and not keyword.iskeyword(part) for part in parts
        )
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

    @property
    def negates(self) -> bool:
        """Whether this reads as minus the right operand."""
        scaled = self.operator == "*" and self.left == Number(-1.0)
        return scaled and not isinstance(self.right, Number)

    @property
    def binding(self) -> int:
        """How tightly the printed form holds together: 1 for + and -, 2 for * and /."""
        return 1 if self.operator in "+-" else 2

    def __str__(self) -> str:
        if self.negates:
            return f"-{_operand(self.right, 3)}"
        # A unary minus on the left needs no brackets, and a - b - c is (a - b) - c.
        negative = isinstance(self.left, Binary) and self.left.negates
        left = str(self.left) if negative else _operand(self.left, self.binding, leading=True)
        return f"{left} {self.operator} {_operand(self.right, self.binding + 1)}"


@dataclass(frozen=True)
class Combine(Expression):
    """The smallest or largest of expressions, sample by sample."""

    how: Extreme
    parts: tuple[Expression, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ExpressionError(f"{self.how}() needs at least one expression")

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.parts

    def __str__(self) -> str:
        return f"{self.how}({', '.join(map(str, self.parts))})"


@dataclass(frozen=True)
class Clip(Expression):
    """A value bounded to an interval."""

    part: Expression
    low: Expression
    high: Expression

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not low < high:
            raise ExpressionError(f"clip needs low < high; got {low:g} and {high:g} in {self}")

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval; raises ExpressionError where an end of it is not a number."""
        if isinstance(self.low, Number) and isinstance(self.high, Number):
            return self.low.value, self.high.value
        raise ExpressionError(f"clip takes an expression and two numbers; got {self}")

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.part,)

    def __str__(self) -> str:
        return f"clip({self.part}, {self.low}, {self.high})"


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
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        if self.aggregate not in AGGREGATES:
            hint = nearest(str(self.aggregate), AGGREGATES)
            raise ExpressionError(f"unknown `aggregate` {self.aggregate!r} in {self}; {hint}")
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise ExpressionError(
                f"an ensemble needs at least two members, all different; got {self}: equal "
                "members never disagree and protect from nothing"
            )

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.members

    def __str__(self) -> str:
        how = "" if self.aggregate == "mean" else f", aggregate={self.aggregate!r}"
        return f"ensemble({', '.join(map(str, self.members))}{how})"


def number(value: Any) -> Expression:
    """Turn a Python number into a node; expressions pass. Refuses anything that is not finite."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ExpressionError(f"an expression takes finite numbers and rewards; got {value!r}")
    return Number(float(value))


def compare(
    left: Expression, sense: Sense, right: Expression | Baseline | BudgetRange | float
) -> Constraint:
    """Build a constraint; a bound that is itself an expression moves to the left."""
    if isinstance(right, Baseline):
        return Constraint(left, sense, right.offset, baseline=right.factor)
    if isinstance(right, BudgetRange):
        strictest, loosest = right.ends(sense)
        return Constraint(left, sense, strictest, loosest=loosest)
    bound = number(right)
    if isinstance(bound, Number):
        return Constraint(left, sense, bound.value)
    return Constraint(left - bound, sense, 0.0)


def _operand(node: Expression, binding: int, *, leading: bool = False) -> str:
    """Print an operand, in brackets where it holds together less tightly than its place needs."""
    own = 4
    if isinstance(node, Binary):
        own = 0 if node.negates else node.binding
    elif isinstance(node, Number) and node.value < 0 and not leading:
        own = 0
    return f"({node})" if own < binding else str(node)
