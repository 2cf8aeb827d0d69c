"""K rewards to one number, batched over weight vectors. All rewards and utilities are maximised."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.scalarization_facts import SCALARIZATIONS, scalarization_problems
from rewards.scalarization_geometry import cosmos, pbi, require_same_shape

Utility = Callable[
    [Float[Tensor, "batch objective"], Float[Tensor, "batch objective"]], Float[Tensor, " batch"]
]
_CHEBYSHEV = SCALARIZATIONS["chebyshev"].parameters
_SMOOTH = SCALARIZATIONS["smooth_chebyshev"].parameters
_NORM = SCALARIZATIONS["p_norm"].parameters
_NASH = SCALARIZATIONS["nash"].parameters


def linear(
    rewards: Float[Tensor, "batch objective"], weights: Float[Tensor, "batch objective"]
) -> Float[Tensor, " batch"]:
    """Weighted sum of the rewards.

    s(r) = sum_i w_i r_i

    r_i: `rewards` [B,K], calibrated; w_i: `weights` [B,K], rows sum to 1. Maximising it reaches
    only points on the convex hull of the attainable set. Raises ValueError if shapes differ.
    """
    require_same_shape(rewards, weights)
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
    optimal points, and is what `augmented_chebyshev` sets. Its subgradient looks at one objective
    alone. Raises ValueError if rho < 0 or shapes differ.
    Source: Steuer and Choo, Math. Program. 26, 1983.
    """
    require_same_shape(rewards, weights)
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
    require_same_shape(rewards, weights)
    if not mu > 0:
        raise ValueError(f"`mu` must be positive; got {mu}")
    return -mu * torch.logsumexp(weights * (ideal - rewards) / mu, dim=1)


def p_norm(
    rewards: Float[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    ideal: float = _NORM["ideal"].default,
    p: float = _NORM["p"].default,
) -> Float[Tensor, " batch"]:
    """Minus the p-norm of the weighted shortfalls from the ideal point (compromise programming).

    s(r) = -(sum_i (w_i max(z - r_i, 0))^p)^(1/p)

    z: `ideal`, an upper bound of every calibrated reward; p >= 1: 1 is linear up to a constant of
    w, p -> infinity Chebyshev; a front that bends inwards needs a p that bends more. A reward
    beyond the ideal counts as at it: there s is flat in that reward, and 0 with a zero gradient
    where all are. Raises ValueError if p < 1 or shapes differ.
    Source: Zeleny, Compromise Programming, 1973, with the weights inside of the power.
    """
    require_same_shape(rewards, weights)
    if not p >= 1:
        raise ValueError(f"`p` must be at least 1; got {p}")
    shortfall = weights * (ideal - rewards).clamp(min=0)
    # A norm scales with its argument; powers of large numbers overflow, those of ratios do not.
    scale = shortfall.detach().amax(dim=1, keepdim=True)
    ratios = shortfall / torch.where(scale > 0, scale, torch.ones_like(scale))
    return -scale[:, 0] * torch.linalg.vector_norm(ratios, ord=p, dim=1)


def nash(
    rewards: Float[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    nadir: float = _NASH["nadir"].default,
    floor: float = _NASH["floor"].default,
) -> Float[Tensor, " batch"]:
    """Logarithm of the weighted product of gains: the Nash bargaining solution.

    s(r) = sum_i w_i l(r_i - n),  l(g) = log g for g >= f, and log f + (g - f) / f below

    n: `nadir`, what each objective has without an agreement; f: `floor` > 0, in calibrated units.
    exp(s) is the weighted geometric mean of the gains. Gains of f or less are outside the
    logarithm's domain of use: its tangent goes on there, so that s stays monotone and concave with
    a slope of at most w_i / f. Its contours bend, so it reaches fronts that bend inwards by less.
    Raises ValueError if floor <= 0 or shapes differ.
    Source: Nash, Econometrica 18(2), 1950; weights as in Kalai, Int. J. Game Theory 6, 1977.
    """
    require_same_shape(rewards, weights)
    if not floor > 0:
        raise ValueError(f"`floor` must be positive; got {floor}")
    gain = rewards - nadir
    inside = gain.clamp(min=floor)
    return (weights * (inside.log() + (gain - inside) / floor)).sum(dim=1)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "linear": linear,
    "chebyshev": chebyshev,
    "augmented_chebyshev": chebyshev,
    "smooth_chebyshev": smooth_chebyshev,
    "p_norm": p_norm,
    "nash": nash,
    "pbi": pbi,
    "cosmos": cosmos,
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
    bound = {key: known.default for key, known in SCALARIZATIONS[name].parameters.items()} | given
    return lambda rewards, weights: function(rewards, weights, **bound)


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
