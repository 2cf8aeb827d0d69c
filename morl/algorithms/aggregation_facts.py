"""Which gradient aggregations there are, and what each does with the weights. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rewards.errors import nearest

# "rows": the weight vector stands in the rows alone, whose lengths the method respects;
# "preference": the method evens the rows' lengths out, so it is also told the batch's mean weights;
# "none": the method overrules the lengths of the rows.
Preference = Literal["rows", "preference", "none"]


@dataclass(frozen=True)
class AggregationFacts:
    """One aggregator of torchjd that needs nothing beyond torch and scipy."""

    name: str
    summary: str
    preference: Preference
    paper: str


_ROWS = (
    AggregationFacts(
        "sum", "adds the rows up: the ordinary gradient, at the cost of the others", "rows", "-"
    ),
    AggregationFacts(
        "upgrad",
        "projects each row onto the directions that harm no objective, and adds those up",
        "rows",
        "Jacobian descent, arXiv 2406.16232",
    ),
    AggregationFacts(
        "dualproj",
        "projects the sum of the rows onto the directions that harm no objective",
        "rows",
        "GEM, arXiv 1706.08840",
    ),
    AggregationFacts(
        "pcgrad",
        "takes from each row what points against another row, in random order",
        "rows",
        "arXiv 2001.06782",
    ),
    AggregationFacts(
        "aligned_mtl",
        "evens out the principal directions of the rows",
        "preference",
        "Aligned-MTL, arXiv 2305.19000",
    ),
    AggregationFacts(
        "config",
        "equal angle to every row of equal preference, as long as their projections add up to",
        "preference",
        "ConFIG, arXiv 2408.11104",
    ),
    AggregationFacts(
        "mgda",
        "shortest vector between the rows; short rows, so small weights, pull most",
        "none",
        "MGDA, C. R. Math. 350, 2012",
    ),
    AggregationFacts(
        "imtl_g",
        "equal projection onto every row, whatever its length and so its weight",
        "none",
        "IMTL, ICLR 2021",
    ),
)
AGGREGATIONS: dict[str, AggregationFacts] = {row.name: row for row in _ROWS}
NOT_OFFERED = {
    "cagrad": "torchjd solves it with cvxpy and clarabel (its extra `cagrad`), not installed here",
    "nash_mtl": "torchjd solves it with cvxpy and ecos (its extra `nash_mtl`), and it remembers "
    "earlier updates, which a resumed run would have lost",
}


def aggregation_problems(name: str, regime: str, devices: int) -> Iterator[str]:
    """Say why an aggregation cannot be used; `none` always can."""
    if name == "none":
        return
    if name in NOT_OFFERED:
        yield f"{name} is not offered: {NOT_OFFERED[name]}; choose one of {', '.join(AGGREGATIONS)}"
    elif name not in AGGREGATIONS:
        yield f"unknown aggregation {name!r}; {nearest(name, ('none', *AGGREGATIONS))}"
    if regime != "reward_gradient":
        yield (
            "gradients of single objectives exist where rewards are differentiated; use none, or "
            "algorithm.name: draft"
        )
    if devices > 1:
        yield (
            f"needs training.devices = 1; got {devices}: processes exchange sums of gradients, not "
            "the gradient of each objective"
        )
