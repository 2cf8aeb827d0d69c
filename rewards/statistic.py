"""What of an expression is bounded: its mean or a quantile, over all or some prompts. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.bound import Baseline, Constraint, Sense
from rewards.budgets import BudgetRange
from rewards.errors import ExpressionError
from rewards.expression import Expression, Number, number


@dataclass(frozen=True)
class Statistic:
    """One number of an expression's values; compare it with a bound to make a constraint."""

    expression: Expression
    quantile: float | None = None
    where: str | None = None

    def __le__(self, other: float | Baseline | BudgetRange) -> Constraint:
        return self.bounded("<=", other)

    def __ge__(self, other: float | Baseline | BudgetRange) -> Constraint:
        return self.bounded(">=", other)

    def __lt__(self, other: object) -> Constraint:
        raise ExpressionError(f"{self} < {other}: a constraint is written with <= or >=")

    __gt__ = __lt__

    def bounded(self, sense: Sense, bound: object) -> Constraint:
        """The constraint; raises ExpressionError for a bound that is an expression."""
        if isinstance(bound, BudgetRange):
            strictest, loosest = bound.ends(sense)
            return Constraint(
                self.expression, sense, strictest, self.quantile, self.where, loosest=loosest
            )
        if isinstance(bound, Baseline):
            offset, factor = bound.offset, bound.factor
        else:
            node = number(bound)
            if not isinstance(node, Number):
                raise ExpressionError(
                    f"{self} is bounded by a number or by baseline() or budget(); got {bound}"
                )
            offset, factor = node.value, 0.0
        return Constraint(
            self.expression, sense, offset, self.quantile, self.where, baseline=factor
        )

    def __str__(self) -> str:
        return Constraint(self.expression, "<=", 0.0, self.quantile, self.where).measured


def mean(expression: Expression, *, where: str | None = None) -> Statistic:
    """The mean, as a plain comparison means it, over the prompts of the class `where`."""
    return Statistic(expression, None, where)


def quantile(expression: Expression, level: float, *, where: str | None = None) -> Statistic:
    """The value that a share `level` in (0, 1) of images stays below; see `exceedances`."""
    inside = isinstance(level, int | float) and not isinstance(level, bool) and 0 < level < 1
    if not inside:
        raise ExpressionError(f"a quantile's level lies strictly between 0 and 1; got {level!r}")
    return Statistic(expression, float(level), where)
