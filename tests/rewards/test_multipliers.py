"""Multipliers as functions of the weight vector."""

from __future__ import annotations

import pytest
import torch
from properties import normal, simplex

from morl.weights import das_dennis
from rewards.constraints import violation
from rewards.controllers import DualAscent
from rewards.limits import Limit
from rewards.multipliers import per_vertex, radial, shared

LIMITS = (Limit(0.3, "<="), Limit(-0.1, ">="))
KINDS = {
    "shared": shared(),
    "per_vertex": per_vertex(3),
    "implicit": radial(das_dennis(3, 3)),
}
EVERY = torch.ones(200, 2, dtype=torch.bool)


def test_shared_is_the_mean_violation_bit_for_bit():
    costs, valid = normal(50, 2).float(), normal(50, 2, seed=1) > 0
    found = shared().attributed(simplex(50, 3), costs, valid, LIMITS)
    plain = [
        violation(costs[:, j], valid[:, j], limit.threshold, limit.sense)[0]
        for j, limit in enumerate(LIMITS)
    ]
    assert found.tolist() == plain


def test_each_vertex_answers_for_its_own_images():
    # violations 0.2 at the first vertex, -0.2 at the second
    costs = torch.tensor([[0.5], [0.1]])
    found = per_vertex(2).attributed(torch.eye(2), costs, EVERY[:2, :1], LIMITS[:1])
    assert found.tolist() == pytest.approx([0.2, -0.2])


def test_linear_between_the_vertices():
    # theta rows are parameters, columns constraints: 0.25 x (1, 10) + 0.75 x (3, 30)
    theta = torch.tensor([1.0, 10.0, 3.0, 30.0], dtype=torch.float64)
    at = per_vertex(2).at(theta, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert at.tolist() == [[2.5, 25.0], [1.0, 10.0]]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_the_ascent_is_that_of_the_lagrangian(self, kind):
        # d/dtheta mean_{i valid} sum_j lambda_j(w_i) v_ij, over the mean share of valid samples
        dependence = KINDS[kind]
        weights, costs, valid = simplex(40, 3), normal(40, 2), normal(40, 2, seed=1) > 0
        theta = torch.rand(dependence.parameters * 2, dtype=torch.float64, requires_grad=True)
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
        excess = (costs - torch.tensor([0.3, -0.1], dtype=torch.float64)) * sign * valid
        lagrangian = (dependence.at(theta, weights) * excess / valid.sum(0)).sum()
        (gradient,) = torch.autograd.grad(lagrangian, theta)
        share = dependence.basis(weights).T @ valid.double() / valid.sum(0)
        found = dependence.attributed(weights, costs, valid, LIMITS)
        torch.testing.assert_close(found * share.flatten(), gradient)

    def test_a_violation_that_is_the_same_everywhere_moves_all_kinds_alike(self, kind):
        dependence, weights = KINDS[kind], simplex(7, 3)
        duals = DualAscent(dependence.parameters, 0.5)
        costs = torch.full((7, 1), 0.5)
        duals.update(dependence.attributed(weights, costs, EVERY[:7, :1], LIMITS[:1]))
        moved = dependence.at(duals.multipliers, weights)
        torch.testing.assert_close(moved, torch.full_like(moved, 0.1), atol=1e-7, rtol=0)

    def test_shares_are_a_partition_of_one(self, kind):
        weights = torch.cat([simplex(40, 3), torch.eye(3).double()])
        shares = KINDS[kind].basis(weights)
        assert (shares >= 0).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(43, dtype=torch.float64))

    def test_what_applies_nowhere_moves_nothing(self, kind):
        found = KINDS[kind].attributed(
            simplex(5, 3), normal(5, 2), torch.zeros(5, 2).bool(), LIMITS
        )
        assert not found.any()


def test_a_surface_follows_its_centres():
    centres = das_dennis(3, 3)
    dependence = radial(centres)
    theta = torch.zeros(10, dtype=torch.float64)
    theta[4] = 1.0
    at = dependence.at(theta, centres).flatten()
    assert at.argmax() == 4
    # the nearest centres get exp(-2) of what the centre itself gets, before normalising
    assert at[4] > 0.5
    assert at.min() < 0.01


@pytest.mark.parametrize("centres", [torch.ones(1, 2) / 2, torch.ones(2, 2) / 2])
def test_a_surface_needs_different_centres(centres):
    with pytest.raises(ValueError, match="at least two different weight vectors"):
        radial(centres)


@pytest.mark.parametrize(("kind", "most"), [("per_vertex", 0.6), ("implicit", 0.35)])
def test_where_the_constraint_is_slack_the_multiplier_is_0_and_elsewhere_it_holds(kind, most):
    # The excess at w is w_1 - w_2 - lambda(w): a single multiplier sees the mean, 0, and leaves
    # the first vertex violated by 1 for ever. Straight between the vertices, the first one comes
    # to 1/2: E[w_1 (w_1 - w_2 - theta w_1)] = (1 - theta) / 6 - 1 / 12 = 0.
    weights = simplex(200, 3)
    alone, dependent = shared(), KINDS[kind]
    left = {}
    for dependence in (alone, dependent):
        duals = DualAscent(dependence.parameters, 0.2)
        for _ in range(300):
            excess = (weights[:, :1] - weights[:, 1:2]) - dependence.at(duals.multipliers, weights)
            duals.update(dependence.attributed(weights, excess, EVERY[:, :1], (Limit(0.0, "<="),)))
        ends = torch.eye(3).double()
        left[dependence] = (ends[:, 0] - ends[:, 1]) - dependence.at(duals.multipliers, ends)[:, 0]
        slack = dependence.at(duals.multipliers, ends[1:2]).item()
    assert left[alone][0] > 0.9
    assert left[dependent][0] < most
    assert slack < 0.05
