"""Members of an ensemble: comparable units, aggregates, disagreement, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import (
    assert_finite_with_gradient,
    assert_gradient_matches_finite_difference,
    normal,
)

from rewards.expression import AGGREGATES
from rewards.members import NoProtectionError, aggregate, require_disagreement

# Two members on unlike scales. z of the first sample: (3 - 1) / 1 = 2 and (100 - 100) / 50 = 0.
MEMBERS = torch.tensor([[3.0, 100.0], [1.0, 150.0]])
MEAN, STD = torch.tensor([1.0, 100.0]), torch.tensor([1.0, 50.0])
# Back in raw units: mean of means 50.5, mean of stds 25.5.


class TestValues:
    def test_mean(self):
        # z = (2, 0) and (0, 1): means 1 and 0.5; 50.5 + 25.5 x 1 = 76, 50.5 + 25.5 x 0.5 = 63.25
        value, std = aggregate(MEMBERS, MEAN, STD, "mean")
        assert value.tolist() == pytest.approx([76.0, 63.25])
        # unbiased std of (2, 0) is sqrt 2, of (0, 1) sqrt 0.5; times 25.5
        assert std.tolist() == pytest.approx([25.5 * math.sqrt(2), 25.5 * math.sqrt(0.5)])

    def test_min(self):
        # smallest z are 0 and 0: the mean of means
        value, _ = aggregate(MEMBERS, MEAN, STD, "min")
        assert value.tolist() == pytest.approx([50.5, 50.5])

    def test_min_of_raw_scores_would_be_meaningless(self):
        # The first member is always the smaller number; by z-scores the second is lower at first
        assert MEMBERS.argmin(dim=1).tolist() == [0, 0]
        assert ((MEMBERS - MEAN) / STD).argmin(dim=1).tolist() == [1, 0]

    def test_mean_minus_std(self):
        value, _ = aggregate(MEMBERS, MEAN, STD, "mean-std")
        expected = [50.5 + 25.5 * (1 - math.sqrt(2)), 50.5 + 25.5 * (0.5 - math.sqrt(0.5))]
        assert value.tolist() == pytest.approx(expected)

    def test_uwo(self):
        # unbiased variances of (2, 0) and (0, 1): 2 and 0.5; half of them is taken from the mean
        value, _ = aggregate(MEMBERS, MEAN, STD, "uwo")
        assert value.tolist() == pytest.approx([50.5 + 25.5 * (1 - 1), 50.5 + 25.5 * (0.5 - 0.25)])

    def test_soft_min(self):
        # -log((e^-2 + 1) / 2) and -log((1 + e^-1) / 2)
        value, _ = aggregate(MEMBERS, MEAN, STD, "soft-min")
        expected = [50.5 - 25.5 * math.log((math.exp(-z) + 1) / 2) for z in (2, 1)]
        assert value.tolist() == pytest.approx(expected)

    def test_pessimism_of_a_cost_looks_upwards(self):
        # largest z are 2 and 1: 50.5 + 51, 50.5 + 25.5
        value, _ = aggregate(MEMBERS, MEAN, STD, "min", direction=-1)
        assert value.tolist() == pytest.approx([101.5, 76.0])
        value, _ = aggregate(MEMBERS, MEAN, STD, "mean-std", direction=-1)
        assert value[0].item() == pytest.approx(50.5 + 25.5 * (1 + math.sqrt(2)))
        value, _ = aggregate(MEMBERS, MEAN, STD, "uwo", direction=-1)
        assert value[0].item() == pytest.approx(50.5 + 25.5 * (1 + 1))
        value, _ = aggregate(MEMBERS, MEAN, STD, "soft-min", direction=-1)
        assert value[0].item() == pytest.approx(50.5 + 25.5 * math.log((math.exp(2) + 1) / 2))


class TestLimits:
    @pytest.mark.parametrize("how", AGGREGATES)
    @pytest.mark.parametrize("direction", [1, -1])
    def test_agreeing_members_are_that_value(self, how, direction):
        # the same z of every member: whatever the aggregate, and no disagreement
        z = normal(5, 1)
        mean, std = torch.tensor([1.0, 3.0]).double(), torch.tensor([2.0, 2.0]).double()
        value, disagreement = aggregate(mean + std * z, mean, std, how, direction)
        torch.testing.assert_close(value, 2 + 2 * z[:, 0], rtol=0, atol=1e-5)
        assert disagreement.max() <= 1e-5

    def test_like_scales_are_left_alone(self):
        members, zero, one = normal(7, 4), normal(4) * 0, normal(4) * 0 + 1
        value, std = aggregate(members, zero, one)
        torch.testing.assert_close(value, members.mean(1))
        torch.testing.assert_close(std, members.std(1), rtol=0, atol=1e-9)
        torch.testing.assert_close(aggregate(members, zero, one, "min")[0], members.amin(1))

    @pytest.mark.parametrize("direction", [1, -1])
    def test_soft_min_and_uwo_agree_where_members_nearly_do(self, direction):
        members, zero, one = normal(7, 4) / 100, normal(4) * 0, normal(4) * 0 + 1
        soft = aggregate(members, zero, one, "soft-min", direction)[0]
        # The population variance: the expansion is exact in it.
        second = members.mean(1) - direction * members.var(1, correction=0) / 2
        torch.testing.assert_close(soft, second, rtol=0, atol=1e-6)


class TestProperties:
    @given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-100, 100))
    def test_the_unit_of_one_member_plays_no_part_in_agreement(self, seed, scale, shift):
        members, mean, std = (
            normal(6, 3, seed=seed),
            normal(3, seed=1),
            normal(3, seed=2).abs() + 0.1,
        )
        unit = torch.tensor([1.0, scale, 1.0], dtype=torch.float64)
        zero = torch.tensor([0.0, shift, 0.0], dtype=torch.float64)
        back, other = std.mean(), (std * unit).mean()
        value, spread = aggregate(members, mean, std)
        again, wider = aggregate(members * unit + zero, mean * unit + zero, std * unit)
        z = (value - mean.mean()) / back
        torch.testing.assert_close((again - (mean * unit + zero).mean()) / other, z)
        torch.testing.assert_close(wider / other, spread / back)

    @given(st.integers(0, 1000))
    def test_pessimistic_aggregates_lie_below_the_mean(self, seed):
        members, zero, one = normal(6, 3, seed=seed), normal(3) * 0, normal(3) * 0 + 1
        mean = aggregate(members, zero, one, "mean")[0]
        for how in AGGREGATES:
            assert (aggregate(members, zero, one, how)[0] <= mean + 1e-12).all()
            assert (aggregate(members, zero, one, how, -1)[0] >= mean - 1e-12).all()

    @pytest.mark.parametrize("how", AGGREGATES)
    def test_the_order_of_members_plays_no_part(self, how):
        order = torch.tensor([2, 0, 1])
        members, mean, std = normal(6, 3), normal(3, seed=1), normal(3, seed=2).abs() + 0.1
        torch.testing.assert_close(
            aggregate(members[:, order], mean[order], std[order], how),
            aggregate(members, mean, std, how),
        )

    @pytest.mark.parametrize("how", AGGREGATES)
    def test_gradients(self, how):
        mean, std = normal(3, seed=1), normal(3, seed=2).abs() + 0.5
        for part in range(2):
            assert_gradient_matches_finite_difference(
                lambda m, part=part: aggregate(m, mean, std, how)[part], normal(4, 3)
            )


class TestHardInputs:
    @pytest.mark.parametrize("how", AGGREGATES)
    @pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 1e10])
    def test_value_and_gradient_are_finite(self, how, scale):
        members = scale * torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
        zero, one = torch.zeros(3), torch.ones(3)
        for part in range(2):
            assert_finite_with_gradient(
                lambda m, part=part: aggregate(m, zero, one, how)[part], members
            )


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_members(self, count):
        message = f"an ensemble needs at least 2 members to disagree; got {count}"
        with pytest.raises(NoProtectionError, match=message):
            aggregate(torch.zeros(4, count), torch.zeros(count), torch.ones(count))

    def test_unknown_aggregate(self):
        with pytest.raises(
            ValueError, match=r"unknown `how` 'median'; .*known: mean, mean-std, min, soft-min, uwo"
        ):
            aggregate(MEMBERS, MEAN, STD, "median")

    def test_equal_members_protect_from_nothing(self):
        members = normal(10, 3)
        require_disagreement(members)
        members[:, 2] = members[:, 0]
        message = "members 0 and 2 of an ensemble give the same scores on all 10 base samples"
        with pytest.raises(NoProtectionError, match=message):
            require_disagreement(members)
