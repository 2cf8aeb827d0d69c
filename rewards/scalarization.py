"""K rewards to one number, batched over weight vectors. All rewards and utilities are maximised."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.scalarization_facts import SCALARIZATIONS, scalarization_problems

Utility = Callable[
    [Float[Tensor, "batch objective"], Float[Tensor, "batch objective"]], Float[Tensor, " batch"]
]
_CHEBYSHEV = SCALARIZATIONS["chebyshev"].parameters
_SMOOTH = SCALARIZATIONS["smooth_chebyshev"].parameters


def linear(
    rewards: Float[Tensor, "batch objective"], weights: Float[Tensor, "batch objective"]
) -> Float[Tensor, " batch"]:
    """Weighted sum of the rewards.

    s(r) = sum_i w_i r_i

    r_i: `rewards` [B,K], calibrated; w_i: `weights` [B,K], rows sum to 1. Maximising it reaches
    only points on the convex hull of the attainable set. Raises ValueError if shapes differ.
    """
    _same_shape(rewards, weights)
    return (weights * rewards).sum(dim=1)


def chebyshev(
    rewards: Float[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    ideal: float = _CHEBYSHEV["ideal"].default,
    rho: float = _CHEBYSHEV["rho"].default,
) -> Float[Tensor, " batch"]:
    """Minus the largest weighted shortfall from the ideal point, augmented by their sum.

    s(r) = -max_i w_i (z - r_i) - rho sum_i w_i (z - r_i)

    z: `ideal`, an upper bound of every calibrated reward; rho >= 0 breaks ties towards Pareto
    optimal points. Its subgradient looks at one objective alone. Raises ValueError if rho < 0 or
    shapes differ.
    Source: Steuer and Choo, Math. Program. 26, 1983.
    """
    _same_shape(rewards, weights)
    if not rho >= 0:
        raise ValueError(f"`rho` must be at least 0; got {rho}")
    shortfall = weights * (ideal - rewards)
    return -shortfall.amax(dim=1) - rho * shortfall.sum(dim=1)


def smooth_chebyshev(
    rewards: Float[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    ideal: float = _SMOOTH["ideal"].default,
    mu: float = _SMOOTH["mu"].default,
) -> Float[Tensor, " batch"]:
    """Smooth worst-case score: large only if every weighted shortfall is small.

    s(r) = -mu log sum_i exp(w_i (z - r_i) / mu)

    z: `ideal`, an upper bound of every calibrated reward; mu > 0, in weighted reward units.
    mu -> 0 gives the hard worst case; large mu blurs the objectives. Raises ValueError if mu <= 0
    or shapes differ.
    Source: arXiv 2402.19078, written for maximisation.
    """
    _same_shape(rewards, weights)
    if not mu > 0:
        raise ValueError(f"`mu` must be positive; got {mu}")
    return -mu * torch.logsumexp(weights * (ideal - rewards) / mu, dim=1)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "linear": linear,
    "chebyshev": chebyshev,
    "smooth_chebyshev": smooth_chebyshev,
}


def utility(name: str, params: Mapping[str, float] | None = None) -> Utility:
    """Return the scalarisation of that name with its parameters bound.

    Raises ValueError for an unknown name or parameter, with the nearest ones, and for values that
    a parameter cannot take.
    """
    given = dict(params or {})
    problems = list(scalarization_problems(name, given))
    if problems:
        raise ValueError("; ".join(f"scalarization: {problem}" for problem in problems))
    function = _FUNCTIONS[name]
    return lambda rewards, weights: function(rewards, weights, **given)


def utility_gradient(
    name: str,
    rewards: Float[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    **params: float,
) -> Float[Tensor, "batch objective"]:
    """Gradient of the utility at a mean reward vector: what each objective's advantage is worth.

    a_k = d s / d r_k at r = `rewards`; constants, no gradient flows through them. For `linear` it
    is the weight vector. With on="mean" the policy follows sum_k a_k A_k, the gradient of
    the utility of the *expected* reward vector.
    """
    with torch.enable_grad():
        at = rewards.detach().requires_grad_()
        value = utility(name, params)(at, weights.detach())
        (gradient,) = torch.autograd.grad(value.sum(), at)
    return gradient


def _same_shape(rewards: Tensor, weights: Tensor) -> None:
    if rewards.shape != weights.shape or rewards.ndim != 2:
        raise ValueError(
            f"`weights` must have the shape of `rewards` [batch, objective] = "
            f"{list(rewards.shape)}; got {list(weights.shape)}"
        )
