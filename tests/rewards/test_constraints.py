"""Constraints on means, and the multipliers that hold them."""

from __future__ import annotations

import math

import pytest
import torch
from properties import assert_gradient_matches_finite_difference, normal

from rewards.constraints import lagrangian_penalty, violation
from rewards.controllers import DualAscent

EVERY = torch.ones(4, dtype=torch.bool)
COSTS = torch.tensor([0.1, 0.2, 0.3, 0.8])


class TestViolation:
    def test_value(self):
        # mean 0.35, limit 0.3: excess 0.05, and -0.05 for the other sense
        assert violation(COSTS, EVERY, 0.3, "<=") == (pytest.approx(0.05), 4)
        assert violation(COSTS, EVERY, 0.3, ">=") == (pytest.approx(-0.05), 4)

    def test_only_valid_samples_count(self):
        # mean of 0.1 and 0.3 = 0.2
        valid = torch.tensor([True, False, True, False])
        assert violation(COSTS, valid, 0.15, "<=") == (pytest.approx(0.05), 2)

    @pytest.mark.parametrize("sense", ["<=", ">="])
    def test_at_the_threshold_it_is_zero(self, sense):
        amount, count = violation(torch.full((3,), 0.5), EVERY[:3], 0.5, sense)
        assert (amount, count) == (0.0, 3)

    @pytest.mark.parametrize("rows", [0, 4])
    def test_without_a_valid_sample_it_is_zero_of_zero(self, rows):
        assert violation(torch.ones(rows), torch.zeros(rows, dtype=torch.bool), 0.3, "<=") == (0, 0)

    def test_small_costs_count_beside_a_large_one(self):
        # (2^24 + 4) / 5 = 3,355,444; in float32 2^24 + 1 is 2^24
        costs = torch.tensor([2.0**24, 1.0, 1.0, 1.0, 1.0])
        assert violation(costs, torch.ones(5).bool(), 3355444.0, "<=") == (0.0, 5)


class TestPenalty:
    def test_value(self):
        # j = 1 (<= 0.3, multiplier 2): 2 (c - 0.3); all 2 valid, B / n = 1: (-0.4, 0.4)
        # j = 2 (>= 1.0, multiplier 3): -3 (c - 1.0); 1 valid, B / n = 2: (0, -6 x -0.5) = (0, 3)
        costs = torch.tensor([[0.1, 9.0], [0.5, 0.5]])
        valid = torch.tensor([[True, False], [True, True]])
        multipliers = torch.tensor([2.0, 3.0], dtype=torch.float64)
        penalty = lagrangian_penalty(costs, valid, [0.3, 1.0], multipliers, ["<=", ">="])
        assert penalty.tolist() == pytest.approx([-0.4, 3.4])

    def test_batch_mean_is_the_lagrangian_term_over_valid_samples(self):
        costs, valid = normal(50, 2).float(), normal(50, 2, seed=1) > 0
        multipliers, limits, senses = torch.tensor([0.7, 1.9]), [0.2, -0.1], ["<=", ">="]
        expected = sum(
            multipliers[j].item() * violation(costs[:, j], valid[:, j], limits[j], senses[j])[0]
            for j in range(2)
        )
        penalty = lagrangian_penalty(costs, valid, limits, multipliers, senses)
        assert penalty.mean().item() == pytest.approx(expected, abs=1e-6)

    def test_gradient(self):
        valid = normal(6, 2, seed=1) > 0
        multipliers = torch.tensor([0.7, 1.9])
        assert_gradient_matches_finite_difference(
            lambda c: lagrangian_penalty(c, valid, [0.2, -0.1], multipliers, ["<=", ">="]),
            normal(6, 2),
        )

    def test_zero_multipliers_cost_nothing(self):
        costs = normal(6, 1).float().requires_grad_()
        every = torch.ones(6, 1, dtype=torch.bool)
        penalty = lagrangian_penalty(costs, every, [0.0], torch.zeros(1), ["<="])
        penalty.sum().backward()
        assert penalty.abs().max() == 0
        assert costs.grad.abs().max() == 0

    def test_multipliers_get_no_gradient(self):
        multipliers = torch.ones(1, requires_grad=True)
        costs = torch.ones(2, 1, requires_grad=True)
        every = torch.ones(2, 1, dtype=torch.bool)
        lagrangian_penalty(costs, every, [0.0], multipliers, ["<="]).sum().backward()
        assert multipliers.grad is None

    @pytest.mark.parametrize("poison", [math.nan, math.inf])
    def test_what_does_not_apply_can_not_poison_the_rest(self, poison):
        costs = torch.tensor([[poison], [0.5]], requires_grad=True)
        valid = torch.tensor([[False], [True]])
        # n = 1 of B = 2: 2 x (0.5 - 0.3) x 1
        penalty = lagrangian_penalty(costs, valid, [0.3], torch.ones(1), ["<="])
        assert penalty.tolist() == pytest.approx([0.0, 0.4])
        penalty.sum().backward()
        assert costs.grad.tolist() == [[0.0], [2.0]]

    @pytest.mark.usefixtures("unchecked")
    def test_one_of_each_for_each_constraint(self):
        every = torch.ones(2, 2, dtype=torch.bool)
        message = "has 2 constraints, but there are 1 thresholds, 2 multipliers and 2 senses"
        with pytest.raises(ValueError, match=message):
            lagrangian_penalty(torch.ones(2, 2), every, [0.0], torch.ones(2), ["<=", ">="])

    def test_no_valid_sample_at_all(self):
        none = torch.zeros(3, 1, dtype=torch.bool)
        penalty = lagrangian_penalty(torch.ones(3, 1), none, [0.0], torch.ones(1), ["<="])
        assert penalty.tolist() == [0, 0, 0]


class TestDualAscent:
    def test_three_steps_by_hand(self):
        # rate 2, ema 0.5: e = 0.05, 0.075, -0.1625; lambda = 0.1, 0.25, max(0, 0.25 - 0.325) = 0
        duals = DualAscent(1, learning_rate=2.0, ema=0.5)
        seen = []
        for amount in (0.1, 0.1, -0.4):
            duals.update(torch.tensor([amount], dtype=torch.float64))
            seen.append(duals.multipliers.item())
        assert seen == pytest.approx([0.1, 0.25, 0.0])

    def test_satisfied_stays_zero_and_infeasible_ends_at_the_cap(self):
        duals = DualAscent(2, learning_rate=1.0, cap=5.0)
        for _ in range(100):
            duals.update(torch.tensor([-1.0, 1.0]))
        assert duals.multipliers.tolist() == [0.0, 5.0]

    def test_zero_violation_changes_nothing(self):
        duals = DualAscent(1)
        duals.update(torch.tensor([0.4]))
        before = duals.multipliers.clone()
        duals.update(torch.zeros(1))
        assert torch.equal(duals.multipliers, before)

    def test_finds_the_kkt_point_of_a_known_problem(self):
        # max -(x - 2)^2 subject to x <= 1: x* = 1, and 2 (x* - 2) + lambda* = 0 gives lambda* = 2
        duals, x = DualAscent(1, learning_rate=0.5), torch.zeros(1, 1, dtype=torch.float64)
        every = torch.ones(1, 1, dtype=torch.bool)
        for _ in range(200):
            x = x.detach().requires_grad_()
            penalty = lagrangian_penalty(x, every, [1.0], duals.multipliers, ["<="])
            (gradient,) = torch.autograd.grad((-((x - 2) ** 2)).sum() - penalty.sum(), x)
            x = x + 0.3 * gradient
            duals.update(torch.tensor([violation(x[:, 0], every[:, 0], 1.0, "<=")[0]]))
        assert x.item() == pytest.approx(1.0, abs=1e-3)
        assert duals.multipliers.item() == pytest.approx(2.0, abs=1e-3)

    def test_resumes_exactly(self):
        whole, first, second = (DualAscent(2, 0.3, 0.9) for _ in range(3))
        amounts = normal(10, 2)
        for amount in amounts:
            whole.update(amount)
        for amount in amounts[:5]:
            first.update(amount)
        second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
        for amount in amounts[5:]:
            second.update(amount)
        assert torch.equal(second.multipliers, whole.multipliers)
        assert torch.equal(second.error, whole.error)

    def test_a_kept_state_does_not_change_with_later_updates(self):
        duals = DualAscent(1)
        kept = duals.state_dict()
        duals.update(torch.ones(1))
        assert kept["multipliers"].item() == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"constraints": 0},
            {"learning_rate": 0.0},
            {"learning_rate": math.nan},
            {"ema": 1.0},
            {"ema": -0.1},
            {"cap": 0.0},
            {"cap": math.nan},
        ],
    )
    def test_settings(self, wrong):
        message = "needs constraints >= 1, learning_rate > 0, 0 <= ema < 1, cap > 0; got"
        with pytest.raises(ValueError, match=message):
            DualAscent(**{"constraints": 1, **wrong})

    @pytest.mark.usefixtures("unchecked")
    def test_a_violation_for_each_constraint(self):
        with pytest.raises(ValueError, match=r"`violations` must be 2 finite numbers; got \[1.0\]"):
            DualAscent(2).update(torch.ones(1))

    def test_a_violation_that_is_no_number(self):
        with pytest.raises(
            ValueError, match=r"`violations` must be 2 finite numbers; got \[0.0, nan\]"
        ):
            DualAscent(2).update(torch.tensor([0.0, math.nan]))

    def test_what_is_at_the_cap(self):
        duals = DualAscent(2, learning_rate=1.0, cap=0.5)
        duals.update(torch.tensor([0.4, 0.6]))
        assert duals.capped.tolist() == [False, True]

    def test_state_of_another_number_of_constraints(self):
        with pytest.raises(ValueError, match=r"`multipliers` of 2 constraints expected; got \[1\]"):
            DualAscent(2).load_state_dict(DualAscent(1).state_dict())
