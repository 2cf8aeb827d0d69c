"""Delivered and expected utility: closed forms, the exactness of the rule, what must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from morl.fronts.utility import (
    delivered_utility,
    expected_utility,
    grid_users,
    own_weight_share,
    steering_gap,
    uniform_users,
)
from morl.weights import das_dennis


def grid(objectives: int, partitions: int) -> np.ndarray:
    return das_dennis(objectives, partitions).double().numpy()


GRIDS = [grid(1, 1), grid(2, 4), grid(3, 3), grid(4, 2)]
FRONT = arrays(np.float64, (10, 3), elements=st.floats(-2, 2))


def test_values_by_hand_on_the_grid():
    # Users (1,0), (.5,.5), (0,1) get 1, .5 * .4 + .5 * .2 = .3, 1; mean 2.3 / 3. The middle user's
    # best point is either end: .5. So expected 2.5 / 3 and gap .2 / 3.
    points = np.array([[1.0, 0.0], [0.4, 0.2], [0.0, 1.0]])
    users = grid_users(grid(2, 2))
    assert delivered_utility(points, users) == pytest.approx(2.3 / 3)
    assert expected_utility(points, users) == pytest.approx(2.5 / 3)
    assert steering_gap(points, users) == pytest.approx(0.2 / 3)


def test_own_weight_share_by_hand():
    # In quarters, a step is 0.5 in L1. Users at w_0 = 1, .75 are best served by the first point and
    # the others by the last: the distances to it are 0 0.5 for the former, and 1, .5, 0.
    weights = grid(2, 4)
    points = np.array([[1.0, 0.5], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    # v . u at the ends: 1 | 0, .875 | .25, .75 | .5, .625 | .75, .5 | 1
    assert own_weight_share(points, weights) == pytest.approx(4 / 5)


def test_own_weight_share_counts_the_nearest_of_equal_points():
    assert own_weight_share(np.ones((5, 2)), grid(2, 4)) == 1.0


@pytest.mark.parametrize("weights", GRIDS, ids=lambda w: f"{w.shape[1]} objectives")
def test_uniform_users_are_exact_for_the_identity_front(weights):
    # u(v) = v gives DU = E |v|^2 = sum_k Var v_k + (E v_k)^2 under Dirichlet(1) with K classes:
    # K ((K - 1) / (K^2 (K + 1)) + 1 / K^2) = 2 / (K + 1).
    k = weights.shape[1]
    users = uniform_users(weights)
    assert delivered_utility(weights, users) == pytest.approx(2 / (k + 1))
    np.testing.assert_allclose(users.shares @ users.vectors, np.full(k, 1 / k))


@pytest.mark.parametrize("weights", GRIDS, ids=lambda w: f"{w.shape[1]} objectives")
def test_users_are_a_distribution_over_the_simplex(weights):
    for users in (grid_users(weights), uniform_users(weights)):
        assert (users.shares >= 0).all()
        assert users.shares.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(users.vectors.sum(axis=1), 1.0)
        np.testing.assert_allclose(users.blend.sum(axis=1), 1.0)
        assert (users.blend >= -1e-12).all()
        np.testing.assert_allclose(users.blend @ weights, users.vectors, atol=1e-12)


def test_the_uniform_estimate_matches_random_users():
    rng = np.random.default_rng(0)
    weights = grid(3, 3)
    front = 1 - (1 - weights) ** 2
    random = rng.dirichlet(np.ones(3), size=100_000)
    # The front itself, not its interpolation: sum_k v_k (1 - (1 - v_k)^2).
    expected = (random * (1 - (1 - random) ** 2)).sum(axis=1).mean()
    # Interpolating a concave front in thirds costs a little, always downwards.
    assert expected - 0.02 < delivered_utility(front, uniform_users(weights)) < expected
    fine = grid(3, 12)
    found = delivered_utility(1 - (1 - fine) ** 2, uniform_users(fine))
    assert found == pytest.approx(expected, abs=0.003)
    best = (random @ front.T).max(axis=1).mean()
    assert expected_utility(front, uniform_users(weights)) == pytest.approx(best, abs=0.005)


@pytest.mark.parametrize("spread", [grid_users, uniform_users])
class TestProperties:
    @given(front=FRONT)
    def test_the_gap_is_never_negative(self, spread, front):
        assert steering_gap(front, spread(grid(3, 3))) >= -1e-12

    @given(front=FRONT)
    def test_one_point_everywhere_has_no_gap(self, spread, front):
        same = np.repeat(front[:1], 10, axis=0)
        assert steering_gap(same, spread(grid(3, 3))) == pytest.approx(0.0, abs=1e-12)

    @given(front=FRONT, order=st.permutations(range(3)))
    def test_objectives_have_no_order(self, spread, front, order):
        weights = grid(3, 3)
        before = delivered_utility(front, spread(weights))
        after = delivered_utility(front[:, order], spread(weights[:, order]))
        assert after == pytest.approx(before, abs=1e-12)

    @given(front=FRONT, raised=st.integers(0, 2))
    def test_raising_a_reward_never_lowers_either(self, spread, front, raised):
        users = spread(grid(3, 3))
        more = front.copy()
        more[:, raised] += 0.5
        assert delivered_utility(more, users) > delivered_utility(front, users)
        assert expected_utility(more, users) > expected_utility(front, users)


def test_the_order_of_weight_vectors_does_not_matter():
    weights = grid(3, 3)
    front = np.sqrt(weights)
    order = np.random.default_rng(0).permutation(10)
    for spread in (grid_users, uniform_users):
        before = delivered_utility(front, spread(weights))
        after = delivered_utility(front[order], spread(weights[order]))
        assert after == pytest.approx(before)


@pytest.mark.parametrize("weights", [np.eye(3)[:2], grid(2, 2)[:, [0, 0, 1]] / [2, 2, 1]])
def test_vectors_that_span_no_region_are_refused(weights):
    with pytest.raises(ValueError, match="span no region of the simplex of 3 objectives"):
        uniform_users(weights)
