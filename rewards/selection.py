"""Nodes that look at values to choose or to order: where(condition, a, b) and rank(x)."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.bound import Constraint, Sense
from rewards.errors import ExpressionError
from rewards.expression import Expression, Number


@dataclass(frozen=True)
class Where(Expression):
    """One expression where a condition holds, another where it does not, sample by sample.

    The condition is `tested` `sense` `threshold`. It passes no gradient: whoever follows gradients
    improves the branch that a sample is in, and never moves it to the other one.
    """

    tested: Expression
    sense: Sense
    threshold: float
    yes: Expression
    no: Expression

    @classmethod
    def of(cls, condition: Constraint, yes: Expression, no: Expression) -> Where:
        """Build it from a comparison; raises ExpressionError for one that is not of a sample."""
        slides = condition.loosest is not None
        if condition.needs_base or condition.where is not None or slides:
            raise ExpressionError(
                f"where() asks each sample, so its condition takes no quantile, class of prompts, "
                f"baseline() or budget(); got {condition}"
            )
        return cls(condition.expression, condition.sense, condition.threshold, yes, no)

    def __post_init__(self) -> None:
        if isinstance(self.tested, Number):
            raise ExpressionError(f"the condition of {self} reads no reward")

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.tested, self.yes, self.no

    @property
    def condition(self) -> str:
        """The condition as it prints."""
        return f"{self.tested} {self.sense} {Number(self.threshold)}"

    def __str__(self) -> str:
        return f"where({self.condition}, {self.yes}, {self.no})"


@dataclass(frozen=True)
class Rank(Expression):
    """Share of the other samples of its prompt group that a sample beats, in [0, 1].

    Ties count half, and a sample alone is at 0.5. Where a batch declares no groups, all of it is
    one. A step function of its argument: it has no gradient.
    """

    part: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.part,)

    def __str__(self) -> str:
        return f"rank({self.part})"
