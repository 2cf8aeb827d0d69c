"""K rewards to one number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import (
    assert_finite_with_gradient,
    assert_gradient_matches_finite_difference,
    assert_monotone_in_each_reward,
    assert_weight_permutation_equivariant,
    normal,
    simplex,
)

from rewards.scalarization import (
    chebyshev,
    linear,
    nash,
    p_norm,
    smooth_chebyshev,
    utility,
    utility_gradient,
)
from rewards.scalarization_facts import SCALARIZATIONS

# Two samples, three objectives.
REWARDS = torch.tensor([[1.0, 0.0, -1.0], [2.0, 2.0, 2.0]])
WEIGHTS = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])
EVERY = [
    ("linear", {}),
    ("chebyshev", {}),
    ("chebyshev", {"ideal": 2.0, "rho": 0.05}),
    ("smooth_chebyshev", {}),
    ("smooth_chebyshev", {"ideal": 1.0, "mu": 1.0}),
    ("augmented_chebyshev", {}),
    ("p_norm", {}),
    ("p_norm", {"ideal": 1.0, "p": 1.5}),
    ("nash", {}),
    ("nash", {"nadir": 0.0, "floor": 1.0}),
    ("pbi", {}),
    ("cosmos", {}),
]
MONOTONE = [(name, params) for name, params in EVERY if SCALARIZATIONS[name].monotone]


class TestValues:
    def test_linear(self):
        # 0.5 x 1 + 0.25 x 0 - 0.25 x 1 = 0.25;  (0.2 + 0.3 + 0.5) x 2 = 2
        assert linear(REWARDS, WEIGHTS).tolist() == pytest.approx([0.25, 2.0])

    def test_chebyshev(self):
        # z = 3: shortfalls (0.5 x 2, 0.25 x 3, 0.25 x 4) = (1, 0.75, 1); (0.2, 0.3, 0.5) x 1
        assert chebyshev(REWARDS, WEIGHTS, ideal=3.0).tolist() == pytest.approx([-1.0, -0.5])

    def test_augmented_chebyshev(self):
        # -1 - 0.1 x (1 + 0.75 + 1) = -1.275;  -0.5 - 0.1 x (0.2 + 0.3 + 0.5) = -0.6
        values = chebyshev(REWARDS, WEIGHTS, ideal=3.0, rho=0.1)
        assert values.tolist() == pytest.approx([-1.275, -0.6])

    def test_smooth_chebyshev(self):
        # mu = 1, z = 3: -log(e^1 + e^0.75 + e^1) = -log 7.553564 = -2.022020
        #                -log(e^0.2 + e^0.3 + e^0.5) = -log 4.219983 = -1.439831
        values = smooth_chebyshev(REWARDS, WEIGHTS, ideal=3.0, mu=1.0)
        assert values.tolist() == pytest.approx([-2.022020, -1.439831], abs=1e-5)

    def test_augmented_chebyshev_by_name(self):
        # rho = 0.05: -1 - 0.05 x 2.75;  -0.5 - 0.05 x 1
        values = utility("augmented_chebyshev")(REWARDS, WEIGHTS)
        assert values.tolist() == pytest.approx([-1.1375, -0.55])

    def test_p_norm(self):
        # p = 2, z = 3: -sqrt(1^2 + 0.75^2 + 1^2) = -sqrt 2.5625;  -sqrt(0.04 + 0.09 + 0.25)
        values = p_norm(REWARDS, WEIGHTS, ideal=3.0, p=2.0)
        assert values.tolist() == pytest.approx([-1.600781, -0.616441], abs=1e-5)

    def test_nash(self):
        # n = -3: 0.5 log 4 + 0.25 log 3 + 0.25 log 2 = 1.141087;  log 5
        assert nash(REWARDS, WEIGHTS, nadir=-3.0).tolist() == pytest.approx(
            [1.141087, math.log(5)], abs=1e-5
        )

    def test_nash_outside_of_the_domain_goes_on_as_a_tangent(self):
        # One objective, f = 0.5: at g = -1, log 0.5 + (-1 - 0.5) / 0.5 = -0.693147 - 3
        value = nash(torch.tensor([[-1.0]]), torch.ones(1, 1), nadir=0.0, floor=0.5)
        assert value.item() == pytest.approx(-3.693147, abs=1e-5)

    def test_samples_do_not_mix(self):
        for name, params in EVERY:
            score = utility(name, params)
            alone = torch.cat([score(REWARDS[i : i + 1], WEIGHTS[i : i + 1]) for i in range(2)])
            assert torch.equal(score(REWARDS, WEIGHTS), alone), name


class TestLimits:
    @pytest.mark.parametrize("mu", [1e-1, 1e-2, 1e-3])
    def test_small_mu_gives_chebyshev(self, mu):
        # max x <= mu log sum exp(x / mu) <= max x + mu log K
        rewards, weights = normal(200, 4), simplex(200, 4)
        gap = chebyshev(rewards, weights) - smooth_chebyshev(rewards, weights, mu=mu)
        assert gap.min() >= -1e-12
        assert gap.max() <= mu * math.log(4) + 1e-12

    def test_large_mu_ranks_as_linear(self):
        # -mu log sum exp(x_i / mu) = -mu log K - mean x + O(1 / mu), and w_i (z - r_i) is linear
        rewards, weights = normal(50, 3), simplex(50, 3)
        mu = 1e6
        shifted = smooth_chebyshev(rewards, weights, ideal=3.0, mu=mu) + mu * math.log(3)
        expected = (linear(rewards, weights) - 3.0) / 3
        torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("name", "params"), EVERY)
    def test_one_objective_is_ranked_by_its_reward(self, name, params):
        # Below the ideal point: beyond it a p-norm is flat.
        rewards = torch.linspace(-8, 1, 9)[:, None]
        scores = utility(name, params)(rewards, torch.ones_like(rewards))
        assert (scores.diff() > 0).all()

    def test_one_objective_in_closed_form(self):
        # K = 1: -w (z - r) = r - z for both Chebyshev forms; r for linear
        rewards, weights = normal(8, 1), torch.ones(8, 1, dtype=torch.float64)
        torch.testing.assert_close(linear(rewards, weights), rewards[:, 0])
        torch.testing.assert_close(chebyshev(rewards, weights), rewards[:, 0] - 3)
        torch.testing.assert_close(smooth_chebyshev(rewards, weights), rewards[:, 0] - 3)

    def test_p_norm_lies_between_linear_and_chebyshev(self):
        rewards, weights = normal(200, 4).clamp(max=3), simplex(200, 4)
        shift = 3 * weights.sum(dim=1)
        torch.testing.assert_close(p_norm(rewards, weights, p=1), linear(rewards, weights) - shift)
        torch.testing.assert_close(
            p_norm(rewards, weights, p=500.0), chebyshev(rewards, weights), rtol=3e-3, atol=0
        )

    def test_p_norm_is_flat_where_every_goal_is_reached(self):
        gradient = utility_gradient("p_norm", torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 0.5))
        assert gradient.tolist() == [[0.0, 0.0]]

    def test_nash_trades_relative_gains(self):
        # d s / d r_i = w_i / g_i: with equal weights a gain that is half as large counts double
        gradient = utility_gradient("nash", torch.tensor([[-1.0, 1.0]]), torch.full((1, 2), 0.5))
        assert gradient.tolist() == [[0.25, 0.125]]

    def test_equal_weights_and_equal_rewards(self):
        # r_i = r, w_i = 1 / K: r;  -(z - r) / K;  -(z - r) / K - mu log K
        rewards, weights = torch.full((1, 4), 2.0), torch.full((1, 4), 0.25)
        assert linear(rewards, weights).item() == pytest.approx(2.0)
        assert chebyshev(rewards, weights).item() == pytest.approx(-0.25)
        expected = -0.25 - 0.1 * math.log(4)
        assert smooth_chebyshev(rewards, weights, mu=0.1).item() == pytest.approx(expected)

    def test_a_vertex_sees_one_objective(self):
        rewards = normal(20, 3)
        weights = torch.zeros(20, 3, dtype=torch.float64)
        weights[:, 1] = 1
        torch.testing.assert_close(linear(rewards, weights), rewards[:, 1])
        below = rewards.clamp(max=2.0)  # under the ideal point a shortfall of 0 never is the worst
        torch.testing.assert_close(chebyshev(below, weights), below[:, 1] - 3)


class TestProperties:
    @pytest.mark.parametrize(("name", "params"), MONOTONE)
    @given(st.integers(1, 5), st.integers(0, 10**6))
    def test_monotone_in_each_reward(self, name, params, objectives, seed):
        rewards, weights = 3 * normal(5, objectives, seed=seed), simplex(5, objectives, seed=seed)
        assert_monotone_in_each_reward(utility(name, params), rewards, weights)
        vertices = torch.eye(objectives, dtype=torch.float64)[torch.arange(5) % objectives]
        assert_monotone_in_each_reward(utility(name, params), rewards, vertices)

    @pytest.mark.parametrize(("name", "params"), EVERY)
    @given(st.integers(2, 5), st.integers(0, 10**6))
    def test_objectives_have_no_order(self, name, params, objectives, seed):
        rewards, weights = 3 * normal(5, objectives, seed=seed), simplex(5, objectives, seed=seed)
        assert_weight_permutation_equivariant(utility(name, params), rewards, weights)

    @pytest.mark.parametrize(("name", "params"), EVERY)
    def test_shared(self, name, params):
        score, rewards, weights = utility(name, params), normal(30, 4), simplex(30, 4, seed=1)
        assert_weight_permutation_equivariant(score, rewards, weights)
        assert_gradient_matches_finite_difference(lambda r: score(r, weights), rewards)
        assert_gradient_matches_finite_difference(lambda w: score(rewards, w), weights)

    @pytest.mark.parametrize(
        ("name", "params"), [entry for entry in MONOTONE if entry[0] != "nash"]
    )
    def test_one_unit_on_every_reward_is_worth_at_most_one(self, name, params):
        # d s / d r_i >= 0 and sum_i d s / d r_i <= (1 + rho) max_i w_i <= 1 + rho; for a p-norm
        # sum_i w_i q_i with |q|_p' = 1, so at most the p-norm of w, which is at most its sum
        gradient = utility_gradient(name, normal(30, 4), simplex(30, 4), **params)
        rho = {"rho": 0.05, **params}["rho"] if "chebyshev" in name else 0.0
        assert gradient.min() >= 0
        assert gradient.sum(dim=1).max() <= 1 + rho + 1e-9

    @given(st.floats(0.01, 10), st.integers(1, 6), st.integers(0, 10**6))
    def test_smooth_never_exceeds_hard(self, mu, objectives, seed):
        rewards, weights = normal(5, objectives, seed=seed), simplex(5, objectives, seed=seed)
        gap = chebyshev(rewards, weights) - smooth_chebyshev(rewards, weights, mu=mu)
        assert (gap >= -1e-9).all()
        assert (gap <= mu * math.log(objectives) + 1e-9).all()

    def test_chebyshev_reaches_a_concave_front_and_linear_does_not(self):
        # Front r1^2 + r2^2 = 1 seen from inside: points (1 - cos t, 1 - sin t) bend inwards. With
        # equal weights linear maximises 2 - cos t - sin t, at an end; Chebyshev the middle t = 45.
        t = torch.linspace(0, math.pi / 2, 91, dtype=torch.float64)
        front = torch.stack([1 - t.cos(), 1 - t.sin()], dim=1)
        half = torch.full_like(front, 0.5)
        assert linear(front, half).argmax().item() in (0, 90)
        assert chebyshev(front, half, ideal=1.0).argmax().item() == 45


class TestUtilityGradient:
    def test_linear_is_the_weight_vector(self):
        torch.testing.assert_close(utility_gradient("linear", REWARDS, WEIGHTS), WEIGHTS)

    def test_chebyshev_is_the_weight_of_the_worst(self):
        # Weighted shortfalls (0.2, 0.3, 0.5): the third is worst, with weight 0.5
        gradient = utility_gradient("chebyshev", REWARDS[1:], WEIGHTS[1:])
        assert gradient.tolist() == [[0.0, 0.0, 0.5]]

    def test_smooth_chebyshev_is_a_softmax_times_the_weights(self):
        # w_i softmax_i(w (z - r) / mu), mu = 1: softmax(0.2, 0.3, 0.5) = e^x / 4.219983
        gradient = utility_gradient("smooth_chebyshev", REWARDS[1:], WEIGHTS[1:], mu=1.0)
        expected = [0.2 * 0.289434, 0.3 * 0.319873, 0.5 * 0.390693]
        assert gradient[0].tolist() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(("name", "params"), EVERY)
    def test_is_a_constant(self, name, params):
        rewards = REWARDS.clone().requires_grad_()
        weights = WEIGHTS.clone().requires_grad_()
        gradient = utility_gradient(name, rewards, weights, **params)
        assert not gradient.requires_grad
        assert rewards.grad is None

    @pytest.mark.parametrize(("name", "params"), EVERY)
    def test_is_the_same_without_gradient_mode(self, name, params):
        expected = utility_gradient(name, REWARDS, WEIGHTS, **params)
        with torch.no_grad():
            assert torch.equal(utility_gradient(name, REWARDS, WEIGHTS, **params), expected)


class TestHardInputs:
    @pytest.mark.parametrize(("name", "params"), EVERY)
    @pytest.mark.parametrize("scale", [0.0, 1e-10, 1.0, 1e10])
    def test_value_and_gradient_are_finite(self, name, params, scale):
        score = utility(name, params)
        signs = torch.tensor([[1.0, -1.0, 0.5], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
        vertex = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3)
        for weights in (vertex, torch.full((3, 3), 1 / 3)):
            assert_finite_with_gradient(lambda r, w=weights: score(r, w), scale * signs)

    def test_tiny_mu_is_finite(self):
        assert_finite_with_gradient(lambda r: smooth_chebyshev(r, WEIGHTS, mu=1e-6), 1e6 * REWARDS)

    def test_ties_share_the_gradient(self):
        gradient = utility_gradient("chebyshev", torch.zeros(1, 2), torch.full((1, 2), 0.5))
        assert gradient.tolist() == [[0.25, 0.25]]

    @pytest.mark.parametrize(("name", "params"), EVERY)
    def test_an_empty_batch_gives_an_empty_score(self, name, params):
        assert utility(name, params)(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


class TestErrors:
    @pytest.mark.parametrize("mu", [0.0, -1.0, math.nan])
    def test_mu(self, mu):
        with pytest.raises(ValueError, match=r"`mu` must be positive; got"):
            smooth_chebyshev(REWARDS, WEIGHTS, mu=mu)

    @pytest.mark.parametrize("rho", [-0.1, math.nan])
    def test_rho(self, rho):
        with pytest.raises(ValueError, match=r"`rho` must be at least 0; got"):
            chebyshev(REWARDS, WEIGHTS, rho=rho)

    @pytest.mark.parametrize(("name", "params"), EVERY)
    @pytest.mark.usefixtures("unchecked")
    def test_shape(self, name, params):
        message = r"`weights` must have the shape of `rewards`.*= \[2, 3\]; got \[2, 2\]"
        with pytest.raises(ValueError, match=message):
            utility(name, params)(REWARDS, WEIGHTS[:, :2])

    def test_unknown_name(self):
        with pytest.raises(
            ValueError, match=r"scalarization: unknown 'chebychev'; nearest: 'chebyshev'"
        ):
            utility("chebychev")

    def test_p(self):
        with pytest.raises(ValueError, match=r"`p` must be at least 1; got 0\.5"):
            p_norm(REWARDS, WEIGHTS, p=0.5)

    def test_floor(self):
        with pytest.raises(ValueError, match=r"`floor` must be positive; got 0"):
            nash(REWARDS, WEIGHTS, floor=0.0)

    def test_augmented_chebyshev_is_augmented(self):
        message = r"augmented_chebyshev: rho must be a finite number above 0; got 0\.0"
        with pytest.raises(ValueError, match=message):
            utility("augmented_chebyshev", {"rho": 0.0})

    @pytest.mark.parametrize("name", ["linear", "chebyshev"])
    def test_unknown_parameter(self, name):
        message = rf"scalarization: {name} has no parameter 'mu'; known: "
        with pytest.raises(ValueError, match=message):
            utility(name, {"mu": 0.1})
        with pytest.raises(ValueError, match=message):
            utility_gradient(name, REWARDS, WEIGHTS, mu=0.1)


def test_what_may_be_named_is_what_exists():
    for name, facts in SCALARIZATIONS.items():
        given = {key: parameter.default for key, parameter in facts.parameters.items()}
        assert torch.equal(utility(name, given)(REWARDS, WEIGHTS), utility(name)(REWARDS, WEIGHTS))
