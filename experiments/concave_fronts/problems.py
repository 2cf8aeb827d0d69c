"""ZDT2 and DTLZ2 as rewards: fronts that bend inwards, every optimum known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from morl.weights import das_dennis
from rewards.scalarization import Utility

GRID = {2: 10001, 3: 301}
"""Points along each axis of a front: its exact optima are found to within half a spacing."""


@dataclass(frozen=True)
class Problem:
    """Rewards (minus the problem's objectives, each in [-1, 0] on the front) of x in [0, 1]^n."""

    name: str
    objectives: int
    variables: int
    rest: float
    """Best value of the variables beyond the first `objectives` - 1, which walk along the front."""
    rewards: Callable[[Float[Tensor, "*point variable"]], Float[Tensor, "*point objective"]]

    def front(self) -> Float[Tensor, "point objective"]:
        """All Pareto optimal reward vectors that one x has, on a grid."""
        axis = torch.linspace(0, 1, GRID[self.objectives], dtype=torch.float64)
        position = torch.cartesian_prod(*[axis] * (self.objectives - 1))
        position = position.view(-1, self.objectives - 1)
        rest = position.new_full((len(position), self.variables - position.shape[1]), self.rest)
        return self.rewards(torch.cat([position, rest], dim=1))

    def mixed_front(self) -> Float[Tensor, "point objective"]:
        """All Pareto optimal *mean* reward vectors of a random x, on a grid.

        Both fronts bend inwards and end at minus the unit vectors: mixing the ends beats all
        between, and the means -p of the ends drawn with probabilities p are the whole front.
        """
        return -das_dennis(self.objectives, {2: 10000, 3: 200}[self.objectives]).double()


def optima(
    front: Float[Tensor, "point objective"],
    score: Utility,
    weights: Float[Tensor, "weight objective"],
) -> Float[Tensor, "weight objective"]:
    """The best point of a front at each weight vector."""
    rows = [score(front, w.to(front).expand_as(front)).argmax() for w in weights]
    return front[torch.stack(rows)]


def _zdt2(x: Tensor) -> Tensor:
    """f1 = x1, f2 = g (1 - (f1 / g)^2), g = 1 + 9 mean(x2..); Zitzler, Deb and Thiele, 2000."""
    first, g = x[..., 0], 1 + 9 * x[..., 1:].mean(dim=-1)
    return -torch.stack([first, g * (1 - (first / g).square())], dim=-1)


def _dtlz2(x: Tensor) -> Tensor:
    """A sphere's octant, radius 1 + sum (x3.. - 1/2)^2; Deb, Thiele, Laumanns and Zitzler, 2002."""
    radius = 1 + (x[..., 2:] - 0.5).square().sum(dim=-1)
    a, b = x[..., 0] * math.pi / 2, x[..., 1] * math.pi / 2
    parts = [a.cos() * b.cos(), a.cos() * b.sin(), a.sin()]
    return -torch.stack([radius * part for part in parts], dim=-1)


PROBLEMS = {
    "ZDT2": Problem("ZDT2", objectives=2, variables=10, rest=0.0, rewards=_zdt2),
    "DTLZ2": Problem("DTLZ2", objectives=3, variables=12, rest=0.5, rewards=_dtlz2),
}
