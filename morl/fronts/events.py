"""How often a constrained event happened, with exact bounds: what a constraint is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from morl.fronts.intervals import Interval, clopper_pearson, upper_bound


@dataclass(frozen=True)
class Rate:
    """Events among independent images to which the constraint applies."""

    events: int
    count: int

    @property
    def value(self) -> float:
        """Events / count; raises ValueError where no image applied."""
        return self.interval().value

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the rate with its exact two-sided interval."""
        low, high = clopper_pearson(self.events, self.count, confidence)
        return Interval(self.events / self.count, low, high)

    def upper_bound(self, confidence: float = 0.95) -> float:
        """Exact one-sided upper bound."""
        return upper_bound(self.events, self.count, confidence)

    def to_dict(self) -> dict[str, float]:
        """Plain form with the 95 % bounds; a rate of no image has none."""
        counts: dict[str, float] = {"events": self.events, "count": self.count}
        if not self.count:
            return counts
        found = self.interval()
        bounds = {"rate": found.value, "low": found.low, "high": found.high}
        return {**counts, **bounds, "upper_bound": self.upper_bound()}


@dataclass(frozen=True)
class EventRates:
    """One constraint on held-out images: at the base model and at every weight vector.

    Prompts *and* noise must be drawn anew for every weight vector: the pooled bounds take all
    images as independent, and are too short otherwise. threshold: the budget, as a rate.
    """

    name: str
    threshold: float
    base: Rate
    weights: tuple[Rate, ...]

    @property
    def pooled(self) -> Rate:
        """All weight vectors together; misleading about the worst of them."""
        return Rate(sum(r.events for r in self.weights), sum(r.count for r in self.weights))

    def to_dict(self) -> dict[str, Any]:
        """Plain form; `from_dict` reads it back."""
        return {
            "threshold": self.threshold,
            "base": self.base.to_dict(),
            "pooled": self.pooled.to_dict(),
            "weights": [rate.to_dict() for rate in self.weights],
        }

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> EventRates:
        """Read what `to_dict` wrote; bounds are computed again from the counts."""
        base, *weights = (
            Rate(row["events"], row["count"]) for row in (values["base"], *values["weights"])
        )
        return cls(name, values["threshold"], base, tuple(weights))
