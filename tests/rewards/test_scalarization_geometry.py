"""PBI and COSMOS: values by hand, which way their rays point, and where they are monotone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import assert_monotone_in_each_reward, normal, simplex

from rewards.scalarization import linear, utility, utility_gradient
from rewards.scalarization_geometry import cosmos, pbi


class TestPBI:
    def test_value(self):
        # w = (0.75, 0.25): ray (1, 3) / sqrt 10. z - r = (2, 1): d1 = 5 / sqrt 10 = 1.581139,
        # d2 = |(2, 1) - 0.5 (1, 3)| = |(1.5, -0.5)| = 1.581139; s = -(1 + 2) x 1.581139
        found = pbi(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.75, 0.25]]), ideal=3.0, theta=2.0)
        assert found.item() == pytest.approx(-4.743416, abs=1e-5)

    def test_on_the_ray_only_the_distance_counts(self):
        # w_i (z - r_i) equal: z - r = (1, 3), |z - r| = sqrt 10, whatever theta
        rewards, weights = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.75, 0.25]])
        for theta in (0.0, 5.0):
            value = pbi(rewards, weights, ideal=3.0, theta=theta).item()
            assert value == pytest.approx(-math.sqrt(10), abs=1e-5)

    def test_more_weight_means_less_shortfall(self):
        # Front r1 + r2 = 0 seen from z = 3: the best point has w1 (3 - r1) = w2 (3 - r2).
        first = torch.linspace(-3, 3, 6001, dtype=torch.float64)
        front = torch.stack([first, -first], dim=1)
        for weight in (0.2, 0.5, 0.8):
            weights = torch.tensor([[weight, 1 - weight]], dtype=torch.float64).expand_as(front)
            best = front[pbi(front, weights).argmax()]
            assert best[0].item() == pytest.approx(3 - 6 * (1 - weight), abs=1e-2)

    def test_a_vertex_asks_for_the_ideal_of_its_objective(self):
        # w = e1: the ray is (0, 1): d1 = z - r2, d2 = |z - r1|
        value = pbi(torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, 0.0]]), ideal=3.0, theta=2.0)
        assert value.item() == pytest.approx(-(2.5 + 2 * 2.0), abs=1e-4)

    @given(st.integers(2, 4), st.floats(0, 1), st.integers(0, 10**6))
    def test_monotone_for_a_small_theta(self, objectives, share, seed):
        weights = simplex(1, objectives, seed=seed).clamp(min=0.02).expand(8, -1)
        ray = 1 / weights[0]
        ray = ray / ray.norm()
        theta = share * (ray / (1 - ray.square()).sqrt()).min().item()
        rewards = 3 * normal(8, objectives, seed=seed)
        assert_monotone_in_each_reward(utility("pbi", {"theta": theta}), rewards, weights)

    def test_not_monotone_far_from_the_ray(self):
        # Equal weights, z - r = (1, 3): the ray wants equal shortfalls, and a gain on the first
        # moves away from it: d s / d r_1 = 1 / sqrt 2 - 5 / sqrt 2 < 0
        gradient = utility_gradient("pbi", torch.tensor([[2.0, 0.0]]), torch.full((1, 2), 0.5))
        expected = [-4 / math.sqrt(2), 6 / math.sqrt(2)]
        assert gradient[0].tolist() == pytest.approx(expected, abs=1e-4)

    def test_theta(self):
        with pytest.raises(ValueError, match="`theta` must be at least 0; got -1"):
            pbi(torch.zeros(1, 2), torch.full((1, 2), 0.5), theta=-1)


class TestCosmos:
    def test_value(self):
        # n = 0: g = (3, 4), w = (0.5, 0.5): 3.5 + 2 x 3.5 / (sqrt 0.5 x 5) = 3.5 + 2 x 0.989949
        rewards, weights = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 0.5]])
        found = cosmos(rewards, weights, nadir=0.0, cosine=2.0)
        assert found.item() == pytest.approx(5.479899, abs=1e-5)

    def test_without_the_cosine_it_is_linear(self):
        rewards, weights = normal(20, 3), simplex(20, 3)
        shifted = cosmos(rewards, weights, cosine=0.0) - 3
        torch.testing.assert_close(shifted, linear(rewards, weights))

    def test_a_vertex_prefers_gains_of_its_objective_alone(self):
        # Equal first gains: the cosine to e1 is 1 without other gains, 1 / sqrt 2 with an equal one
        rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        found = cosmos(rewards, torch.tensor([[1.0, 0.0]]).expand(2, 2), nadir=0.0)
        assert found.tolist() == pytest.approx([2.0, 1 + 1 / math.sqrt(2)])

    @given(st.integers(2, 4), st.floats(0, 5), st.integers(0, 10**6))
    def test_monotone_where_the_weighted_gain_exceeds_the_cosine(self, objectives, cosine, seed):
        rewards, weights = 3 * normal(8, objectives, seed=seed), simplex(8, objectives, seed=seed)
        gradient = utility_gradient("cosmos", rewards, weights, cosine=cosine)
        safe = weights * (rewards + 3).norm(dim=1, keepdim=True) >= cosine
        assert (gradient[safe] >= -1e-9).all()

    def test_not_monotone_near_the_nadir(self):
        # w = e1, g = (0.1, 0.1): d s / d g_2 = -g_1 g_2 / |g|^3 = -3.535534
        at = torch.tensor([[0.1, 0.1]], dtype=torch.float64)
        vertex = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        gradient = utility_gradient("cosmos", at, vertex, nadir=0.0)
        assert gradient[0, 1].item() == pytest.approx(-3.535534, abs=1e-5)

    def test_cosine(self):
        with pytest.raises(ValueError, match="`cosine` must be at least 0; got -1"):
            cosmos(torch.zeros(1, 2), torch.full((1, 2), 0.5), cosine=-1)
