"""Train deterministic and mixing policies on concave fronts; print one table, keep its numbers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.concave_fronts.policies import inside, trained
from experiments.concave_fronts.problems import PROBLEMS, Problem, optima
from morl.fronts.indicators import FrontConstants, hypervolume
from morl.weights import das_dennis
from rewards.scalarization import Utility, utility

RESULTS = Path(__file__).parent / "results.json"
STEPS = 1500
PARTITIONS = {2: 20, 3: 10}
SCORES: dict[str, Utility] = {
    "linear": utility("linear"),
    # Fronts are 1 wide and start at the ideal point 0.
    "smooth_chebyshev": utility("smooth_chebyshev", {"ideal": 0.0, "mu": 0.02}),
}
NEAR_END = 0.1
"""A point counts as an end where every objective is within this of a unit vector."""


@dataclass(frozen=True)
class Row:
    """One policy on one problem; hypervolumes are divided by that of the exact optima."""

    problem: str
    policy: str
    scalarization: str
    hypervolume: float
    exact_hypervolume: float
    ends: float
    exact_ends: float
    widest_gap: float
    spacing: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = [
        judged(problem, mixing, name, given.steps, given.seed)
        for problem in PROBLEMS.values()
        for mixing in (False, True)
        for name in SCORES
    ]
    given.results.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))


def judged(problem: Problem, mixing: bool, name: str, steps: int, seed: int) -> Row:
    """Train one policy, and compare its points with the exact optima at the same weights."""
    score = SCORES[name]
    count = problem.objectives
    policy = trained(problem, score, count if mixing else 1, steps, seed)
    weights = inside(das_dennis(count, PARTITIONS[count]).float())
    with torch.no_grad():
        points = policy(weights)
    exact = optima(problem.mixed_front() if mixing else problem.front(), score, weights)
    whole = volume(exact)
    return Row(
        problem.name,
        "mixing" if mixing else "deterministic",
        name,
        volume(points) / whole,
        whole,
        share_at_ends(points),
        share_at_ends(exact),
        widest_gap(points),
        spacing(points),
    )


def volume(points: Float[Tensor, "point objective"]) -> float:
    """Hypervolume over the reference point -1.1, the volume up to the ideal point being 1."""
    count = points.shape[1]
    return hypervolume(
        FrontConstants((-1.1,) * count, (0.0,) * count).normalise(points.double().numpy())
    )


def share_at_ends(points: Float[Tensor, "point objective"]) -> float:
    """Share of the points at which one objective is given up for all others."""
    ends = -torch.eye(points.shape[1], dtype=points.dtype)
    distance = (points[:, None] - ends).abs().amax(dim=2).amin(dim=1)
    return float((distance <= NEAR_END).double().mean())


def widest_gap(points: Float[Tensor, "point objective"]) -> float:
    """Largest step on the way that joins all points most briefly (largest edge of their tree).

    Large where the front has a hole, whatever the number of points in its clusters.
    """
    distances = torch.cdist(points.double(), points.double(), p=1)
    joined = torch.zeros(len(points), dtype=torch.bool)
    joined[0] = True
    widest = 0.0
    while not joined.all():
        reach = torch.where(joined, torch.inf, distances[joined].amin(dim=0))
        widest = max(widest, float(reach.min()))
        joined[reach.argmin()] = True
    return widest


def spacing(points: Float[Tensor, "point objective"]) -> float:
    """Standard deviation of the L1 distances to the nearest neighbour; 0 where it is even."""
    distances = torch.cdist(points.double(), points.double(), p=1)
    distances.fill_diagonal_(torch.inf)
    return float(np.std(distances.amin(dim=1).numpy()))


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| problem | policy | scalarisation | hypervolume / exact optima | exact optima "
        "| points at ends (exact) | widest gap | spacing |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.problem} | {row.policy} | {row.scalarization} | {row.hypervolume:.1%} "
        f"| {row.exact_hypervolume:.3f} | {row.ends:.0%} ({row.exact_ends:.0%}) "
        f"| {row.widest_gap:.2f} | {row.spacing:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
