"""Bounds that slide: text, where a bound lies in its range, and each sample held to its own."""

from __future__ import annotations

import pytest
import torch
from properties import normal, simplex

from rewards import budget, maximize, mean, quantile
from rewards.budgets import Budget, BudgetRange, bound_at
from rewards.constraints import exceedances, excesses, violation
from rewards.controllers import DualAscent
from rewards.errors import ExpressionError
from rewards.expression import Leaf
from rewards.limits import Limit, limits_of
from rewards.multipliers import at_ends, per_vertex, shared
from rewards.objective import Objective
from rewards.parse import parse_constraint

bright, contrast = Leaf("brightness"), Leaf("contrast")
T = torch.tensor([0.0, 0.5, 1.0])


class TestText:
    @pytest.mark.parametrize(
        ("text", "constraint"),
        [
            ("brightness <= budget(0.01, 0.2)", bright <= budget(0.01, 0.2)),
            ("budget(0.01, 0.2) >= brightness", bright <= budget(0.01, 0.2)),
            ("mean(brightness) >= budget(-1, 0)", bright >= budget(-1, 0)),
            (
                "quantile(brightness, 0.95, where='dark') <= budget(0.1, 0.3)",
                quantile(bright, 0.95, where="dark") <= budget(0.1, 0.3),
            ),
        ],
    )
    def test_what_is_written_in_either_way_is_the_same_and_reads_back(self, text, constraint):
        assert parse_constraint(text) == constraint
        assert parse_constraint(str(constraint)) == constraint

    def test_the_strictest_end_is_the_side_of_the_constraint(self):
        assert (bright <= budget(0.1, 0.3)).budget == Budget("brightness", 0.1, 0.3)
        assert (mean(bright) >= budget(0.1, 0.3)).budget == Budget("brightness", 0.3, 0.1)
        assert (bright <= 0.3).budget is None

    def test_an_objective_keeps_its_budgets(self):
        objective = maximize(a=bright).subject_to(contrast <= 0.4, bright <= budget(0.1, 0.3))
        assert Objective.from_dict(objective.to_dict()) == objective
        assert objective.budgets == (Budget("brightness", 0.1, 0.3),)
        assert "mean brightness <= budget(0.1, 0.3)" in str(objective)
        assert objective.digest != objective.at_budgets({}).digest

    def test_an_objective_at_its_budgets_has_plain_bounds(self):
        objective = maximize(a=bright).subject_to(contrast <= 0.4, bright <= budget(0.1, 0.3))
        chosen = objective.at_budgets({"brightness": 0.2})
        assert list(map(str, chosen.constraints)) == ["contrast <= 0.4", "brightness <= 0.2"]
        assert str(objective.at_budgets({}).constraints[1]) == "brightness <= 0.1"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("brightness <= budget(0.2, 0.01)", r"the lower first.* got 0\.2 and 0\.01"),
            ("brightness <= budget(0.2, 0.2)", "the lower first"),
            ("brightness <= budget(0.1, '0.2')", "with two numbers"),
            ("brightness <= budget(0.1)", r"write budget\(low, high\) with two numbers"),
            ("brightness <= budget(contrast, 1)", r"write budget\(low, high\) with two numbers"),
            ("brightness <= budget(0.1, high=1)", r"write budget\(low, high\) with two numbers"),
            ("brightness <= budget(0.1, 0.2, high=1)", "with two numbers"),
            ("brightness <= 1 + budget(0.1, 0.2)", "budget"),
            ("budget(0.1, 0.2) <= budget(0.3, 0.4)", "is no constraint"),
            ("where(brightness <= budget(0.1, 0.2), contrast, 0) <= 1", "asks each sample"),
        ],
    )
    def test_what_is_no_range(self, text, message):
        with pytest.raises(ExpressionError, match=message):
            parse_constraint(text)

    @pytest.mark.parametrize(
        ("constraints", "message"),
        [
            ([bright <= budget(0.5, 1.5)], r"must lie in the range of brightness, 0 \.\. 1"),
            ([bright <= budget(0.1, 0.3), bright >= 0.2], r">= 0\.2 and <= 0\.1"),
            ([bright <= budget(0.1, 0.3), bright >= budget(0.01, 0.02)], "has a budget already"),
            ([bright <= budget(0.1, 0.3)] * 2, "is written twice"),
        ],
    )
    def test_ranges_that_mean_nothing(self, constraints, message):
        with pytest.raises(ExpressionError, match=message):
            maximize(a=bright).subject_to(*constraints)


class TestPosition:
    def test_by_hand(self):
        # sqrt(0.01 x 0.04) = 0.02 lies halfway; downwards the same; a range through 0 is linear
        assert Budget("x", 0.01, 0.04).position(0.02) == pytest.approx(0.5)
        assert Budget("x", 0.04, 0.01).position(0.02) == pytest.approx(0.5)
        assert Budget("x", -1.0, 1.0).position(0.5) == pytest.approx(0.75)
        torch.testing.assert_close(bound_at(0.01, 0.04, T), torch.tensor([0.01, 0.02, 0.04]))
        torch.testing.assert_close(bound_at(0.2, 0.0, T), torch.tensor([0.2, 0.1, 0.0]))

    @pytest.mark.parametrize("ends", [(0.01, 0.2), (0.2, 0.01), (-3.0, 2.0), (0.0, 5.0), (-1, -2)])
    def test_a_bound_and_its_position_are_inverse_and_ends_are_ends(self, ends):
        slid = Budget("x", *ends)
        for position in (0.0, 0.1, 0.7, 1.0):
            assert slid.position(slid.bound(position)) == pytest.approx(position)
        assert (slid.position(ends[0]), slid.position(ends[1])) == (0.0, 1.0)
        assert slid.problem(ends[0]) is slid.problem(ends[1]) is None

    @pytest.mark.parametrize(("bound", "near"), [(0.5, "0.2"), (0.001, "0.01"), (-1.0, "0.01")])
    def test_outside_of_the_range_names_the_nearest(self, bound, near):
        problem = BUDGET.problem(bound)
        assert problem == (
            f"budgets.x: must lie in 0.01 .. 0.2, the range it was trained on; got {bound:g} "
            f"(nearest: {near})"
        )

    def test_no_number(self):
        assert "got nan" in BUDGET.problem(float("nan"))


BUDGET = Budget("x", 0.01, 0.2)
COSTS = torch.tensor([[0.5], [0.1], [0.3]])
EVERY = torch.ones(3, 1, dtype=torch.bool)


class TestOwnBound:
    def test_violation_by_hand(self):
        # bounds 0.1, 0.2, 0.4 against 0.5, 0.1, 0.3: excesses 0.4, -0.1, -0.1
        (limit,) = limits_of([bright <= budget(0.1, 0.4)], {})
        own = limit.at(T)
        found, count = violation(COSTS[:, 0], EVERY[:, 0], own.budget, own.side)
        assert (found, count) == (pytest.approx(0.2 / 3), 3)
        part = excesses(COSTS, EVERY, [own.budget], [own.side])[:, 0]
        torch.testing.assert_close(part, torch.tensor([0.4, -0.1, -0.1]))
        only = torch.tensor([True, False, True])
        assert violation(COSTS[:, 0], only, own.budget, "<=")[0] == pytest.approx(0.15)
        assert violation(COSTS[:, 0], only, own.budget, ">=")[0] == pytest.approx(-0.15)

    def test_at_the_strictest_it_is_the_plain_constraint(self):
        plain, slid = (limits_of([bright <= b], {})[0] for b in (0.1, budget(0.1, 0.4)))
        own = slid.at(torch.zeros(3))
        args = COSTS[:, 0], EVERY[:, 0]
        expected = violation(*args, plain.budget, plain.side)[0]
        assert violation(*args, own.budget, own.side)[0] == pytest.approx(expected)
        assert slid.budget == plain.budget

    def test_a_quantile_counts_what_lies_beyond_its_own_bound(self):
        base = {"base model's quantile(brightness, 0.9)": (0.3, 0.1)}
        (limit,) = limits_of([quantile(bright, 0.9) <= budget(0.1, 0.4)], base)
        own = limit.at(T)
        assert own.values(COSTS[:, 0]).tolist() == [1.0, 0.0, 0.0]
        assert own.budget == pytest.approx(0.1)  # the share that may lie beyond
        each = [exceedances(c, float(d), "<=", 0.1) for c, d in zip(COSTS, own.bound, strict=True)]
        torch.testing.assert_close(own.values(COSTS[:, 0]), torch.cat(each))


LIMITS = (Limit(0.1, "<=", loosest=0.4), Limit(-0.1, ">="))


class TestMultiplier:
    def test_linear_in_the_position(self):
        # strictest (8, 5), loosest (2, -): the second constraint has one bound, at position 0
        theta = torch.tensor([8.0, 5.0, 2.0, 77.0], dtype=torch.float64)
        positions = torch.stack([T, torch.zeros(3)], dim=1)
        at = shared().over_budgets().at(theta, torch.eye(3), positions)
        assert at.tolist() == [[8.0, 5.0], [5.0, 5.0], [2.0, 5.0]]
        assert shared().over_budgets().at(theta, torch.eye(3)).tolist() == [[8.0, 5.0]] * 3

    @pytest.mark.parametrize("dependence", [shared(), per_vertex(3)])
    def test_the_ascent_is_that_of_the_lagrangian(self, dependence):
        slides, weights = dependence.over_budgets(), simplex(40, 3)
        costs, valid = normal(40, 2), normal(40, 2, seed=1) > 0
        t = torch.rand(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        positions = torch.stack([t, torch.zeros_like(t)], dim=1)
        own = [limit.at(positions[:, j]) for j, limit in enumerate(LIMITS)]
        theta = torch.rand(slides.parameters * 2, dtype=torch.float64, requires_grad=True)
        bounds = torch.stack([bound_at(0.1, 0.4, t), torch.full_like(t, -0.1)], dim=1)
        excess = (costs - bounds) * torch.tensor([1.0, -1.0], dtype=torch.float64) * valid
        lagrangian = (slides.at(theta, weights, positions) * excess / valid.sum(0)).sum()
        (gradient,) = torch.autograd.grad(lagrangian, theta)
        # d lambda_j / d theta_emj, averaged over the samples that the constraint applies to
        ends = torch.stack([1 - positions, positions])[:, :, None]
        share = ends * slides.basis(weights)[..., None]
        share = (share * valid[:, None] / valid.sum(0)).sum(dim=1).flatten()
        found = slides.attributed(weights, costs, valid, own, positions)
        torch.testing.assert_close(found * share, gradient)

    def test_a_slack_end_falls_while_the_strict_one_rises(self):
        costs = torch.full((3, 1), 0.2)  # above 0.1, below 0.4
        own = [LIMITS[0].at(T)]
        slides = shared().over_budgets()
        duals = DualAscent(2, 1.0, start=0.5)
        duals.update(slides.attributed(torch.eye(3), costs, EVERY, own, T[:, None]))
        strictest, loosest = duals.multipliers.tolist()
        assert strictest > 0.5 > loosest

    @pytest.mark.parametrize("dependence", [shared(), per_vertex(3)])
    def test_what_is_stuck_answers_to_samples(self, dependence):
        slides, flags = dependence.over_budgets(), torch.zeros(2, dependence.parameters, 2).bool()
        flags[1, -1, 1] = True  # the loosest end of the constraint that has one bound
        assert slides.stuck(flags.flatten(), LIMITS).tolist() == [False, False]
        flags[1, -1, 0] = True
        assert slides.stuck(flags.flatten(), LIMITS).tolist() == [True, False]
        assert dependence.stuck(flags[1].flatten(), LIMITS).tolist() == [True, True]

    def test_each_end_is_judged_by_itself(self):
        costs = torch.tensor([[0.2, 0.0], [0.2, 0.0], [0.2, 0.0]])
        positions = torch.stack([T, torch.zeros(3)], dim=1)
        own = [limit.at(positions[:, j]) for j, limit in enumerate(LIMITS)]
        found = at_ends(costs, torch.ones(3, 2, dtype=torch.bool), own, positions)
        # bounds 0.1, 0.2, 0.4: excesses 0.1, 0, -0.2, weighed 1, 1/2, 0 and 0, 1/2, 1
        assert found[0].tolist() == pytest.approx([0.1 / 1.5, -0.1])
        assert found[1].tolist() == pytest.approx([-0.2 / 1.5, -0.1])


def test_a_range_is_two_different_numbers():
    with pytest.raises(ExpressionError, match="two finite numbers"):
        BudgetRange(0.1, float("inf"))
    with pytest.raises(ExpressionError, match="two finite numbers"):
        budget(False, 1)
