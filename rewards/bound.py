"""A constraint: what is bounded, and by what; the base model's own value as a bound. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rewards.budgets import Budget, BudgetRange
from rewards.errors import ExpressionError

if TYPE_CHECKING:
    from rewards.expression import Expression

Sense = Literal["<=", ">="]


@dataclass(frozen=True)
class Baseline:
    """factor x (what the constraint measures on the base model's images) + offset, raw units.

    Which expression it is of, and whether its mean or a quantile, the constraint says that it
    stands in. Immutable arithmetic with numbers alone; raises ExpressionError for anything else.
    """

    factor: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor) or not math.isfinite(self.offset) or not self.factor:
            raise ExpressionError(
                f"baseline() takes finite numbers and a factor that is not 0; got {self.factor} "
                f"* baseline() + {self.offset}"
            )

    def __add__(self, other: float) -> Baseline:
        return Baseline(self.factor, self.offset + _number(other))

    def __radd__(self, other: float) -> Baseline:
        return self + other

    def __sub__(self, other: float) -> Baseline:
        return self + -_number(other)

    def __mul__(self, other: float) -> Baseline:
        return Baseline(self.factor * _number(other), self.offset * _number(other))

    def __rmul__(self, other: float) -> Baseline:
        return self * other

    def __truediv__(self, other: float) -> Baseline:
        if not _number(other):
            raise ExpressionError(f"({self}) / {other}: division by zero")
        return self * (1 / _number(other))

    def __str__(self) -> str:
        scaled = "baseline()" if self.factor == 1 else f"{_shown(self.factor)} * baseline()"
        sign = "-" if self.offset < 0 else "+"
        return scaled if not self.offset else f"{scaled} {sign} {_shown(abs(self.offset))}"


def baseline() -> Baseline:
    """What the base model itself measures; add, subtract, multiply or divide by numbers."""
    return Baseline()


@dataclass(frozen=True)
class Constraint:
    """A bound on an expression over the samples where it applies, in raw units.

    It bounds the mean, or the `quantile` of that level; on the prompts of the class `where`, or on
    all; by `threshold`, or by `baseline` times what the base model measures plus `threshold`. Where
    it slides, `threshold` is its strictest end and `loosest` the other.
    """

    expression: Expression
    sense: Sense
    threshold: float
    quantile: float | None = None
    where: str | None = None
    baseline: float = 0.0
    loosest: float | None = None

    @property
    def measured(self) -> str:
        """What is bounded, as text."""
        if self.quantile is None and self.where is None:
            return str(self.expression)
        level = "" if self.quantile is None else f", {self.quantile!r}"
        where = "" if self.where is None else f", where={self.where!r}"
        name = "mean" if self.quantile is None else "quantile"
        return f"{name}({self.expression}{level}{where})"

    @property
    def stated(self) -> str:
        """The whole constraint, with the mean named where the text leaves it out."""
        plain = self.quantile is None and self.where is None
        return f"mean {self}" if plain else str(self)

    @property
    def bound(self) -> str:
        """What it is compared with, as text."""
        if self.baseline:
            return str(Baseline(self.baseline, self.threshold))
        if self.loosest is not None:
            return str(BudgetRange(*sorted((self.threshold, self.loosest))))
        return _shown(self.threshold)

    @property
    def budget(self) -> Budget | None:
        """The bound as something to slide; None where it is one number."""
        if self.loosest is None:
            return None
        return Budget(self.measured, self.threshold, self.loosest)

    @property
    def needs_base(self) -> bool:
        """Whether its bound or the scale of its gradient is measured on the base model."""
        return bool(self.baseline) or self.quantile is not None

    @property
    def base_key(self) -> str:
        """Under which a run's statistics of the base model keep what this constraint needs."""
        return f"base model's {self.measured}"

    def event_budget(self, base_rate: float) -> float:
        """The largest rate of held-out events, at the strictest bound; base_rate: the base's."""
        if self.quantile is None:
            return self.threshold + self.baseline * base_rate
        return 1 - self.quantile if self.sense == "<=" else self.quantile

    def __str__(self) -> str:
        return f"{self.measured} {self.sense} {self.bound}"

    def __bool__(self) -> bool:
        # Python reads `a <= x <= b` as `(a <= x) and (x <= b)` and would drop the first bound.
        raise ExpressionError(f"{self} is a constraint, not true or false; write one bound each")


def _shown(value: float) -> str:
    """The shortest form that reads back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(
            f"baseline() is combined with numbers alone; got {value}; rewards stand on the other "
            "side of <= or >="
        )
    return float(value)
