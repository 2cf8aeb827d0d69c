"""A bound that slides: a range instead of one number, and where in it a bound lies. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from rewards.errors import ExpressionError

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-9  # a bound this near to the end of its range, relative to its size, is that end


@dataclass(frozen=True)
class BudgetRange:
    """Bounds from `low` to `high` in raw units, low < high; write `budget(low, high)`.

    Which end is the strictest, the side of the constraint says that it stands in. Raises
    ExpressionError for anything but two finite numbers, the lower first.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        plain = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
        if not plain or not all(map(math.isfinite, ends)) or not self.low < self.high:
            raise ExpressionError(
                "budget() takes two finite numbers, the lower first, as in budget(0.01, 0.2); got "
                f"{self.low!r} and {self.high!r}"
            )

    def ends(self, sense: Literal["<=", ">="]) -> tuple[float, float]:
        """The strictest bound and the loosest."""
        return (self.low, self.high) if sense == "<=" else (self.high, self.low)

    def __str__(self) -> str:
        return f"budget({_shown(self.low)}, {_shown(self.high)})"


def budget(low: float, high: float) -> BudgetRange:
    """Let a bound slide from `low` to `high`: training sees all of it, the user then picks."""
    return BudgetRange(low, high)


@dataclass(frozen=True)
class Budget:
    """A constraint's bound as something to slide: `name` is what it bounds, in raw units.

    Its position t in [0, 1] is 0 at the strictest end and 1 at the loosest (`bound_at`).
    """

    name: str
    strictest: float
    loosest: float

    @property
    def span(self) -> str:
        """The range as text, the lower end first."""
        low, high = sorted((self.strictest, self.loosest))
        return f"{_shown(low)} .. {_shown(high)}"

    def problem(self, bound: float) -> str | None:
        """What is wrong with a bound that is asked for, with the nearest that is not."""
        low, high = sorted((self.strictest, self.loosest))
        slack = ROUNDING * max(abs(low), abs(high))
        if low - slack <= bound <= high + slack:
            return None
        rule = f"budgets.{self.name}: must lie in {self.span}, the range it was trained on"
        if math.isnan(bound):
            return f"{rule}; got {bound}"
        near = min(max(bound, low), high)
        return f"{rule}; got {_shown(bound)} (nearest: {_shown(near)})"

    def bound(self, position: float) -> float:
        """The bound at a position of the range."""
        return bound_at(self.strictest, self.loosest, position)

    def position(self, bound: float) -> float:
        """Where a bound lies: the inverse of `bound`, kept within [0, 1]."""
        if min(self.strictest, self.loosest) > 0:
            whole = math.log(self.loosest / self.strictest)
            share = math.log(bound / self.strictest) / whole
        else:
            share = (bound - self.strictest) / (self.loosest - self.strictest)
        return min(max(share, 0.0), 1.0)


@overload
def bound_at(strictest: float, loosest: float, position: float) -> float: ...


@overload
def bound_at(strictest: float, loosest: float, position: Tensor) -> Tensor: ...


def bound_at(strictest: float, loosest: float, position: float | Tensor) -> float | Tensor:
    """The bound at a position of its range, one or many at once.

    d(t) = d_0 (d_1 / d_0)^t  where both ends are positive,  d_0 + t (d_1 - d_0)  elsewhere

    d_0: `strictest`; d_1: `loosest`; t: `position` in [0, 1]. A budget is mostly a rate, and what
    halves it is as large a step at 20 % as at 2 %: positions are uniform in training, so half of
    the bounds of budget(0.01, 0.2) lie below 0.045, where a fifth of a linear range
    would. A range that reaches 0 or below has no ratio and is linear.
    """
    if min(strictest, loosest) > 0:
        return strictest * (loosest / strictest) ** position
    return strictest + position * (loosest - strictest)


def _shown(value: float) -> str:
    """The shortest form that reads back as the same number."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
