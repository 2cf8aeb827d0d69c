"""Values and gradients against pymoo's and torchjd's scalarisations, which minimise.

They take losses f = -r, so that an ideal point z of rewards is the reference -z of losses, and ours
is minus theirs. pymoo knows no gradients; torchjd takes one weight vector a call.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchjd.scalarization as jd
from properties import normal, simplex
from pymoo.decomposition.aasf import AASF
from pymoo.decomposition.pbi import PBI
from pymoo.decomposition.tchebicheff import Tchebicheff
from pymoo.decomposition.weighted_sum import WeightedSum
from torch import Tensor

from rewards.scalarization import utility, utility_gradient

IDEAL = 3.0
# pymoo's Chebyshev distance is absolute and a geometric mean wants gains: inside of both ends.
REWARDS = normal(40, 3).clamp(-2.9, 2.9)
WEIGHTS = simplex(40, 3, seed=1)
UTOPIA = np.full(3, -IDEAL)
EQUAL = torch.full_like(WEIGHTS, 1 / 3)


class TestPymoo:
    """Their achievement functions and PBI divide by the weights: a large one asks for little."""

    @pytest.mark.parametrize(
        ("name", "params", "theirs", "inverted"),
        [
            ("linear", {}, WeightedSum(), False),
            ("chebyshev", {"ideal": IDEAL}, Tchebicheff(), False),
            ("augmented_chebyshev", {"ideal": IDEAL, "rho": 0.1}, AASF(rho=0.1), True),
            ("pbi", {"ideal": IDEAL, "theta": 5.0}, PBI(theta=5.0), True),
        ],
    )
    def test_value(self, name, params, theirs, inverted):
        weights = 1 / WEIGHTS if inverted else WEIGHTS
        found = theirs.do(
            -REWARDS.numpy(), weights.numpy(), _type="one_to_one", utopian_point=UTOPIA
        )
        ours = utility(name, params)(REWARDS, WEIGHTS)
        torch.testing.assert_close(ours, -torch.from_numpy(found), rtol=1e-6, atol=1e-5)


REFERENCE = torch.full((3,), -IDEAL, dtype=torch.float64)
Scalarizer = Callable[[Tensor, Tensor], Tensor]
"""One reward vector [K], its weight vector [K] -> the utility, from torchjd."""
TORCHJD: dict[str, tuple[str, dict[str, float], Tensor, Scalarizer]] = {
    "Constant": ("linear", {}, WEIGHTS, lambda r, w: -jd.Constant(w)(-r)),
    "STCH": (
        "smooth_chebyshev",
        {"ideal": IDEAL, "mu": 0.1},
        WEIGHTS,
        lambda r, w: -jd.STCH(0.1, w, REFERENCE)(-r),
    ),
    "PBI": (
        "pbi",
        {"ideal": IDEAL, "theta": 5.0},
        WEIGHTS,
        lambda r, w: -jd.PBI(5.0, 1 / w, REFERENCE)(-r),
    ),
    # sum - c cos is theirs, of gains; ours adds the cosine: twice the sum, minus theirs.
    "COSMOS": (
        "cosmos",
        {"nadir": -IDEAL, "cosine": 2.0},
        WEIGHTS,
        lambda r, w: 2 * (w @ (r + IDEAL)) - jd.COSMOS(2.0, w)(r + IDEAL),
    ),
    "GeometricMean": (
        "nash",
        {"nadir": -IDEAL, "floor": 1e-3},
        EQUAL,
        lambda r, w: jd.GeometricMean()(r + IDEAL).log(),
    ),
}


@pytest.mark.parametrize("case", TORCHJD)
def test_torchjd(case):
    name, params, weights, theirs = TORCHJD[case]
    at = REWARDS.clone().requires_grad_()
    expected = torch.stack([theirs(r, w) for r, w in zip(at, weights, strict=True)])
    (slope,) = torch.autograd.grad(expected.sum(), at)
    torch.testing.assert_close(utility(name, params)(REWARDS, weights), expected.detach())
    torch.testing.assert_close(utility_gradient(name, REWARDS, weights, **params), slope)
