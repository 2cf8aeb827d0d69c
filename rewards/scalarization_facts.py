"""Which scalarisations there are and what their parameters may be, without importing torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rewards.errors import nearest


@dataclass(frozen=True)
class Parameter:
    """A finite number of at least `low`, or above `above`."""

    default: float
    meaning: str
    low: float = -math.inf
    above: float = -math.inf

    def problem(self, value: object) -> str | None:
        """Return the rule that a value breaks, or None."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            inside = value >= self.low and value > self.above
            if inside and math.isfinite(value):
                return None
        rule = "a finite number"
        if self.above > -math.inf:
            rule += f" above {self.above:g}"
        elif self.low > -math.inf:
            rule += f" of at least {self.low:g}"
        return f"must be {rule}; got {value!r}"


@dataclass(frozen=True)
class ScalarizationFacts:
    """What a scalarisation is for, and its parameters by name."""

    summary: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    monotone: bool = True
    """Whether raising one reward never lowers it, wherever the others stand."""


# Few base samples lie three standard deviations above the base mean: a goal, yet within reach.
_IDEAL = Parameter(3.0, "bound of every calibrated reward from above, base standard deviations")
_NADIR = Parameter(-3.0, "bound of every calibrated reward from below, base standard deviations")
SCALARIZATIONS: dict[str, ScalarizationFacts] = {
    "linear": ScalarizationFacts("weighted sum; reaches the convex hull of the attainable set"),
    "chebyshev": ScalarizationFacts(
        "minus the largest weighted shortfall from the ideal; reaches concave parts too",
        {
            "ideal": _IDEAL,
            "rho": Parameter(0.0, "weight of the sum of shortfalls, which breaks ties", low=0.0),
        },
    ),
    "augmented_chebyshev": ScalarizationFacts(
        "chebyshev with rho > 0: its optima are Pareto optimal, also where a weight is 0",
        {
            "ideal": _IDEAL,
            "rho": Parameter(0.05, "weight of the sum of shortfalls, which breaks ties", above=0.0),
        },
    ),
    "smooth_chebyshev": ScalarizationFacts(
        "smooth worst weighted shortfall; every objective keeps a gradient",
        {
            "ideal": _IDEAL,
            "mu": Parameter(0.1, "smoothing, in weighted reward units", above=0.0),
        },
    ),
    "p_norm": ScalarizationFacts(
        "minus the p-norm of the weighted shortfalls: between linear (1) and chebyshev (infinity)",
        {
            "ideal": _IDEAL,
            "p": Parameter(4.0, "exponent; a larger one looks more at the worst", low=1.0),
        },
    ),
    "nash": ScalarizationFacts(
        "weighted product of gains over the nadir (its logarithm), the Nash bargaining solution",
        {
            "nadir": _NADIR,
            "floor": Parameter(
                0.1, "gain below which the logarithm goes on as its tangent", above=0.0
            ),
        },
    ),
    "pbi": ScalarizationFacts(
        "penalty boundary intersection: near the ideal along a ray, and near the ray",
        {
            "ideal": _IDEAL,
            "theta": Parameter(5.0, "weight of the distance from the ray", low=0.0),
        },
        monotone=False,
    ),
    "cosmos": ScalarizationFacts(
        "weighted sum of gains plus their cosine to the weight vector",
        {
            "nadir": _NADIR,
            "cosine": Parameter(1.0, "weight of the cosine, in weighted reward units", low=0.0),
        },
        monotone=False,
    ),
}


def scalarization_problems(name: str, params: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with a scalarisation's name and parameters, with the nearest names."""
    if name not in SCALARIZATIONS:
        yield f"unknown {name!r}; {nearest(name, SCALARIZATIONS)}"
        return
    known = SCALARIZATIONS[name].parameters
    for key, value in params.items():
        if key not in known:
            yield f"{name} has no parameter {key!r}; {nearest(key, known)}"
        elif rule := known[key].problem(value):
            yield f"{name}: {key} {rule}"
