"""Fronts whose indicators are known in closed form."""

import math

import numpy as np
import pytest

from morl.fronts.dominance import non_dominated
from morl.fronts.indicators import FrontConstants, controllability, edges, hypervolume, igd_plus
from morl.fronts.utility import (
    delivered_utility,
    expected_utility,
    grid_users,
    own_weight_share,
    steering_gap,
    uniform_users,
)
from morl.weights import edge_path

FINE = edge_path(2, 0, 1, 2001).double().numpy()


def gaussian_front(weights: np.ndarray, kl_coef: float) -> np.ndarray:
    """Mean rewards of the KL-regularised optimum, normalised by nadir -1 and ideal 0.

    Base N(0, I_2), r_k(x) = -|x - a_k|^2 / 2 for the unit vectors a_1, a_2. The optimum at w is
    N(c (w_1, w_2), s^2 I) with c = 1 / (1 + b) and s^2 = b / (1 + b) for KL weight b, so that
    E r_1 = -((c w_1 - 1)^2 + (c w_2)^2 + 2 s^2) / 2, and E r_2 likewise.
    """
    c, variance = 1 / (1 + kl_coef), kl_coef / (1 + kl_coef)
    mean = c * weights
    rewards = np.stack(
        [-(np.square(mean - a).sum(axis=1) + 2 * variance) / 2 for a in np.eye(2)], axis=1
    )
    return FrontConstants((-1.0, -1.0), (0.0, 0.0)).normalise(rewards)


class TestGaussian:
    def test_without_kl(self):
        # u = (1 - (1-w)^2, 1 - w^2) for w = w_1.
        # HV = int u_2 du_1 = int_0^1 (1 - w^2) 2 (1 - w) dw = 5/6.
        # v . u(v) = 1 - w (1 - w), whose mean is 1 - 1/6 = 5/6.
        front = gaussian_front(FINE, 0.0)
        users = uniform_users(FINE)
        assert hypervolume(front) == pytest.approx(5 / 6, abs=1e-3)
        assert delivered_utility(front, users) == pytest.approx(5 / 6, abs=1e-6)
        # The optimum at v is the best of all for v: the slider means what it says.
        assert steering_gap(front, users) == pytest.approx(0.0, abs=1e-6)
        assert own_weight_share(front[::100], FINE[::100]) == 1.0
        assert non_dominated(front).all()

    def test_with_kl_the_slider_is_timid(self):
        # For reward alone the best mean for v is a_v = (v_1, v_2); the set holds c a_w. Nearest to
        # a_v is w_1 - w_2 = (v_1 - v_2) / c, beyond the ends where |v_1 - v_2| > c. With b = 1,
        # c = 1/2 and d = v_1 - v_2 uniform on [-1, 1]: |a_w c - a_v|^2 has the component
        # (1 - c)^2 / 2 across the segment for every w, and (c e - d)^2 / 2 along it at e = w_1-w_2.
        # Utility differs by half of that: gap = E [ (c d - d)^2 - (c clip(d/c) - d)^2 ] / 4.
        # E (d/2)^2 = 1/12; E max(|d| - 1/2, 0)^2 = int_{1/2}^1 (x - 1/2)^2 dx = 1/24.
        front = gaussian_front(FINE, 1.0)
        users = uniform_users(FINE)
        assert steering_gap(front, users) == pytest.approx((1 / 12 - 1 / 24) / 4, abs=1e-5)
        # v . u(v) = 1 - (|c a_v|^2 - 2 c |a_v|^2 + 1 + 2 s^2) / 2 at c = s^2 = 1/2:
        # 0.375 |a_v|^2, and |a_v|^2 = (1 + d^2) / 2 has mean 2/3.
        assert delivered_utility(front, users) == pytest.approx(0.25, abs=1e-6)
        assert expected_utility(front, users) == pytest.approx(0.25 + 1 / 96, abs=1e-5)

    @pytest.mark.parametrize("kl_coef", [0.0, 0.3, 1.0])
    def test_each_reward_follows_its_weight(self, kl_coef):
        weights = edge_path(2, 0, 1, 7).double().numpy()
        front = gaussian_front(weights, kl_coef)
        paths = {edge: front[rows] for edge, rows in edges(weights).items()}
        assert controllability(paths, 2) == pytest.approx([1.0, 1.0])

    def test_a_shuffled_slider_covers_the_front_and_delivers_less(self):
        weights = edge_path(2, 0, 1, 21).double().numpy()
        front = gaussian_front(weights, 0.0)
        shuffled = front[np.random.default_rng(0).permutation(21)]
        users = grid_users(weights)
        assert hypervolume(shuffled) == pytest.approx(hypervolume(front))
        assert expected_utility(shuffled, users) == pytest.approx(expected_utility(front, users))
        assert delivered_utility(shuffled, users) < delivered_utility(front, users) - 0.1


def test_zdt1_a_convex_front():
    # Minimised f_2 = 1 - sqrt(f_1) on [0, 1]; maximised u = 1 - f. Volume above it up to (1, 1):
    # int_0^1 sqrt(x) dx = 2/3.
    x = np.linspace(0, 1, 2001)
    front = np.stack([1 - x, np.sqrt(x)], axis=1)
    assert hypervolume(front) == pytest.approx(2 / 3, abs=1e-3)
    assert igd_plus(front[::200], front) < 0.03
    # A linear utility w . u has its best point inside: x = (w_2 / 2 w_1)^2.
    best = front[(front @ [0.5, 0.5]).argmax()]
    np.testing.assert_allclose(best, [0.75, 0.5], atol=1e-3)


def test_zdt2_a_concave_front():
    # f_2 = 1 - f_1^2: volume int_0^1 x^2 dx = 1/3. Linear utilities pick the ends alone, so
    # E max(v, 1 - v) = 3/4 is all that an oracle gets from 2001 points.
    x = np.linspace(0, 1, 2001)
    front = np.stack([1 - x, x**2], axis=1)
    assert hypervolume(front) == pytest.approx(1 / 3, abs=1e-3)
    assert set((FINE @ front.T).argmax(axis=1)) == {0, 2000}
    assert expected_utility(front, uniform_users(FINE)) == pytest.approx(0.75, abs=1e-6)
    assert non_dominated(front).all()


def test_dtlz2_a_sphere():
    # Minimised f on the unit sphere's positive octant; maximised u = 1 - f. What is not dominated
    # inside the unit cube is the octant of the ball: HV = 1 - pi / 6.
    angles = np.linspace(0, np.pi / 2, 61)
    a, b = (grid.ravel() for grid in np.meshgrid(angles, angles))
    front = 1 - np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)], axis=1)
    assert hypervolume(front) == pytest.approx(1 - math.pi / 6, abs=0.02)
