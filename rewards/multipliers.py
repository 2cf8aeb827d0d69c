"""Multipliers as functions of the weight vector (shared, per vertex, a surface) and of a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.constraints import violation
from rewards.controllers import PID, Controller, DualAscent, Fixed, NuPI
from rewards.limits import Limit

Rule = Literal["dual_ascent", "nupi", "pid", "augmented_lagrangian", "fixed"]
NARROWNESS = 0.5
"""Width of a radial basis function, in distances between neighbouring centres."""


@dataclass(frozen=True)
class Dependence:
    """How multipliers depend on the weight vector, and on a bound that slides: linearly.

    lambda_j(w) = sum_m phi_m(w) theta_mj,  phi_m(w) >= 0,  sum_m phi_m(w) = 1
    lambda_j(w, t) = (1 - t_j) lambda_j0(w) + t_j lambda_j1(w),  over budgets

    M: `parameters`; phi: `basis`, [B,K] -> [B,M]; theta in [0, cap]: the numbers [M x J] that a
    `Controller` holds, constraints of one parameter beside each other. So lambda(w) lies between
    the smallest and the largest theta, needs no further bound, reaches 0 where the constraint is
    slack, and the dual problem in theta stays concave. t_j: the position of a sample's own bound
    in its range, 0 at the strictest end; each of the two `ends` has its thetas, those of the
    strictest first, so a loose budget is free to cost little where a strict one costs much.
    """

    parameters: int
    basis: Callable[[Tensor], Tensor]
    ends: int = 1

    def over_budgets(self) -> Dependence:
        """The same at either end of the constraints' ranges, linear in the position between."""
        return replace(self, parameters=2 * self.parameters, ends=2)

    def at(
        self,
        theta: Float[Tensor, " parameter"],
        weights: Float[Tensor, "batch objective"],
        positions: Float[Tensor, "batch constraint"] | None = None,
    ) -> Float[Tensor, "batch constraint"]:
        """The multipliers of each sample, float64 and without gradient.

        positions: t, 0 where a bound does not slide; None: all at the strictest.
        """
        basis = self._basis(weights)
        strictest, *loosest = theta.view(self.ends, basis.shape[1], -1)
        found = basis @ strictest
        if positions is None or not loosest:
            return found
        return torch.lerp(found, basis @ loosest[0], positions.detach().cpu().double())

    def attributed(
        self,
        weights: Float[Tensor, "batch objective"],
        costs: Float[Tensor, "batch constraint"],
        valid: Bool[Tensor, "batch constraint"],
        limits: Sequence[Limit],
        positions: Float[Tensor, "batch constraint"] | None = None,
    ) -> Float[Tensor, " parameter"]:
        """The violation that each theta answers for: that of the samples near it.

        e_mj = sum_{i valid} phi_m(w_i) v_ij / sum_{i valid} phi_m(w_i)

        v_ij: the excess of sample i over its own bound; over budgets phi_m counts times
        1 - t_ij at the strictest end and t_ij at the loosest; t: the `positions` of `limits`. The
        numerator is what the chain rule gives, the gradient of the Lagrangian; divided by the share
        of samples it is a mean violation. It vanishes at the same theta, a rate means the same as
        for a single multiplier, and how many samples a batch happens to have near m does not look
        like a change of the violation, which nuPI and PID would answer to. A constraint that
        applies to no sample has violation 0.
        """
        basis = self._basis(weights)
        slid = torch.zeros(costs.shape, dtype=torch.float64)
        if positions is not None:
            slid = positions.detach().cpu().double()
        found = [
            _near(limit.values(costs[:, j]), valid[:, j], limit, shares * end[:, j])
            for end in (1 - slid, slid)[: self.ends]
            for shares in basis.T
            for j, limit in enumerate(limits)
        ]
        return torch.tensor(found, dtype=torch.float64)

    def stuck(
        self, capped: Bool[Tensor, " parameter"], limits: Sequence[Limit]
    ) -> Bool[Tensor, " constraint"]:
        """Which constraints have a theta at its cap, of those that answer to samples.

        Of a bound that is one number the loosest end answers to none and stays where it started.
        """
        strictest, *loosest = capped.view(self.ends, -1, len(limits)).any(dim=1)
        slides = torch.tensor([limit.loosest is not None for limit in limits])
        return strictest | (loosest[0] & slides) if loosest else strictest

    def _basis(self, weights: Float[Tensor, "batch objective"]) -> Float[Tensor, "batch parameter"]:
        return self.basis(weights.detach().cpu().double())


def _near(
    values: Float[Tensor, " batch"],
    valid: Bool[Tensor, " batch"],
    limit: Limit,
    shares: Float[Tensor, " batch"],
) -> float:
    """Mean violation, each sample by its share."""
    total = float(shares.to(valid.device)[valid].mean()) if valid.any() else 0.0
    amount, _ = violation(values, valid, limit.budget, limit.side, shares)
    return amount / total if total else 0.0


def shared() -> Dependence:
    """One multiplier a constraint, whatever the weight vector."""
    return Dependence(1, lambda weights: torch.ones_like(weights[:, :1]))


def per_vertex(objectives: int) -> Dependence:
    """lambda(w) = sum_k w_k lambda_k: one multiplier for each objective alone, linear between."""
    return Dependence(objectives, lambda weights: weights)


def radial(centres: Float[Tensor, "centre objective"]) -> Dependence:
    """An implicit lambda(w): normalised Gaussian bumps around weight vectors.

    phi_m(w) = g_m / sum_n g_n,  g_m = exp(-|w - c_m|^2 / (2 s^2))

    c: `centres` [M,K], M >= 2, all different; s: `NARROWNESS` times the distance of the two
    nearest ones. Bends where `per_vertex` is straight; each theta sees fewer samples, so it is
    noisier. Deterministic: nothing is drawn. Raises ValueError for centres that coincide.
    """
    at = centres.double()
    width = NARROWNESS * float(torch.pdist(at).min()) if len(at) > 1 else 0.0
    if not width > 0:
        raise ValueError("`centres` must be at least two different weight vectors")

    def basis(weights: Tensor) -> Tensor:
        distance = (weights[:, None] - at).square().sum(dim=2)
        return torch.softmax(-distance / (2 * width**2), dim=1)

    return Dependence(len(at), basis)


def at_ends(
    costs: Float[Tensor, "batch constraint"],
    valid: Bool[Tensor, "batch constraint"],
    limits: Sequence[Limit],
    positions: Float[Tensor, "batch constraint"],
) -> Float[Tensor, "end constraint"]:
    """Each violation at the strictest and at the loosest end of its range, [2, J].

    A sample counts by how near its bound lies to the end, as in `Dependence.attributed`, and is
    measured against that bound. Where a bound is one number, both are the violation.
    """
    either = shared().over_budgets()
    found = either.attributed(positions, costs, valid, limits, positions).view(2, -1)
    slides = torch.tensor([limit.loosest is not None for limit in limits])
    return torch.where(slides, found, found[:1])


def controller(
    rule: Rule,
    count: int,
    *,
    rate: float,
    proportional: float,
    derivative: float,
    ema: float,
    cap: float,
    start: float,
) -> Controller:
    """Build the rule that drives `count` multipliers; each takes the settings that it has.

    rate: growth per update and unit of violation (the integral gain).
    """
    match rule:
        case "dual_ascent":
            return DualAscent(count, rate, ema, cap, start)
        case "nupi":
            return NuPI(count, rate, proportional, ema, cap, start)
        case "pid":
            return PID(count, rate, proportional, derivative, ema, cap, start)
        case "augmented_lagrangian":
            return PID(count, rate, proportional, 0.0, ema, cap, start)
        case "fixed":
            return Fixed(count, start, cap)
