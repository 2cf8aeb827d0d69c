"""Contributions of rewards to a value: by hand, exact sums, symmetry, what does not apply."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import normal

from rewards import R, max_, min_, rank, where
from rewards.contributions import EXACT, contributions
from rewards.panel import RewardTable
from rewards.semantics import value_of

NAMES = ("a", "b", "c")
A, B, C = map(R, NAMES)


def table(values, valid=None, std=None, group=None) -> RewardTable:
    valid = torch.ones_like(values).bool() if valid is None else valid
    std = torch.zeros_like(values) if std is None else std
    names = tuple("abcdefgh"[: values.shape[1]])
    return RewardTable(values, valid, std, names, group)


def shares(expression, raw):
    leaves = [leaf.name for leaf in expression.leaves()]
    return contributions(lambda t: value_of(expression, t, {}).values, raw, leaves)


def change(expression, raw):
    """The value of each sample minus that of the mean sample, in a batch of its own."""
    mean = raw.values.mean(dim=0).expand_as(raw.values)
    at_mean = value_of(expression, table(mean, group=raw.group), {}).values
    return value_of(expression, raw, {}).values - at_mean


class TestByHand:
    def test_a_weighted_sum(self):
        raw = table(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
        # Means 2 and 20: 2 (r_a - 2), -0.1 (r_b - 20)
        found = shares(2 * A - 0.1 * B, raw)
        torch.testing.assert_close(found, torch.tensor([[-2.0, 1.0], [2.0, -1.0]]))

    def test_a_product(self):
        # Means 2 and 3; sample (4, 5): (a alone: 4 x 3 - 6 = 6, after b: 4 x 5 - 2 x 5 = 10),
        # (b alone: 2 x 5 - 6 = 4, after a: 20 - 12 = 8): (8, 6), sum 14 = 20 - 6
        raw = table(torch.tensor([[4.0, 5.0], [0.0, 1.0]]))
        assert shares(A * B, raw)[0].tolist() == pytest.approx([8.0, 6.0])

    def test_a_minimum_credits_what_lifts_it(self):
        # Means (2, 2); sample (4, 4): neither lifts the minimum alone, both do: 1 each
        raw = table(torch.tensor([[4.0, 4.0], [0.0, 0.0]]))
        assert shares(min_(A, B), raw)[0].tolist() == pytest.approx([1.0, 1.0])

    def test_a_condition_is_credited_for_its_jump(self):
        # Mean a = 0.5 fails the condition, mean b = 1. Sample (1, 1, .): b is at its mean, so all
        # of the change from 0 to 1 is that the condition holds.
        raw = table(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
        assert shares(where(A >= 0.9, B, 0), raw)[0].tolist() == pytest.approx([1.0, 0.0])

    def test_a_rank_against_a_tied_group(self):
        # At the mean all are tied: 1/2. The best of three has rank 1, the worst 0.
        raw = table(torch.tensor([[3.0], [2.0], [1.0]]))
        assert shares(rank(A), raw)[:, 0].tolist() == pytest.approx([0.5, 0.0, -0.5])

    def test_groups_stay_groups(self):
        raw = table(torch.tensor([[3.0], [9.0], [1.0], [7.0]]), group=torch.tensor([5, 8, 5, 8]))
        assert shares(rank(A), raw)[:, 0].tolist() == pytest.approx([0.5, 0.5, -0.5, -0.5])

    def test_disagreement_moves_with_its_reward(self):
        raw = table(torch.zeros(2, 1), std=torch.tensor([[0.3], [0.1]]))
        found = contributions(lambda t: -value_of(A, t, {}).disagreement, raw, ["a"])
        assert found[:, 0].tolist() == pytest.approx([-0.1, 0.1])


EXPRESSIONS = [
    A + 2 * B - C,
    A * B * C,
    min_(A, max_(B, C)),
    where(A <= B, C, -A),
    rank(A) + B * rank(C),
    A.clip(-0.5, 0.5) / (B.clip(-1, 1) + 2),
]


class TestProperties:
    @pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
    @given(st.integers(0, 10**6))
    def test_they_sum_to_the_change(self, expression, seed):
        raw = table(normal(6, 3, seed=seed), group=torch.tensor([0, 0, 0, 1, 1, 1]))
        torch.testing.assert_close(shares(expression, raw).sum(dim=1), change(expression, raw))

    def test_equal_roles_get_equal_shares(self):
        values = normal(5, 1).expand(5, 3)
        found = shares(A * B * C, table(values))
        torch.testing.assert_close(found, found[:, :1].expand(5, 3))

    def test_what_is_not_read_adds_nothing(self):
        raw = table(normal(5, 3))
        found = contributions(lambda t: t.values[:, 0], raw, NAMES)
        assert found[:, 1:].abs().max() < 1e-12

    def test_many_rewards_still_sum_exactly(self):
        # Above EXACT the orders are sampled: for a sum every order says the same.
        count = EXACT + 2
        raw = table(normal(4, count))
        scale = torch.arange(1.0, count + 1, dtype=torch.float64)
        found = contributions(lambda t: t.values @ scale, raw, raw.names)
        torch.testing.assert_close(found, scale * (raw.values - raw.values.mean(dim=0)))
        product = contributions(lambda t: t.values.prod(dim=1), raw, raw.names)
        expected = raw.values.prod(dim=1) - raw.values.mean(dim=0).prod()
        torch.testing.assert_close(product.sum(dim=1), expected)

    def test_agrees_with_the_definition(self):
        raw = table(normal(3, 3))
        mean = raw.values.mean(dim=0)
        expected = torch.zeros(3, 3, dtype=torch.float64)
        for order in permutations(range(3)):
            at = mean.expand(3, 3).clone()
            for leaf in order:
                before = at[:, 0] * at[:, 1].exp() * at[:, 2]
                at[:, leaf] = raw.values[:, leaf]
                expected[:, leaf] += (at[:, 0] * at[:, 1].exp() * at[:, 2] - before) / 6
        found = contributions(
            lambda t: t.values[:, 0] * t.values[:, 1].exp() * t.values[:, 2], raw, NAMES
        )
        torch.testing.assert_close(found, expected)


def test_what_does_not_apply_stands_at_the_mean():
    valid = torch.tensor([[True, True], [False, True], [True, True]])
    raw = table(torch.tensor([[1.0, 4.0], [0.0, 8.0], [3.0, 6.0]]), valid)
    found = shares(A + B, raw)
    # The mean of a is that of the samples it applies to, 2
    torch.testing.assert_close(found, torch.tensor([[-1.0, -2.0], [0.0, 2.0], [1.0, 0.0]]))


def test_no_gradient_and_one_sample():
    values = torch.tensor([[1.0, 2.0]], requires_grad=True)
    found = shares(A * B, table(values))
    assert not found.requires_grad
    assert found.tolist() == [[0.0, 0.0]]
