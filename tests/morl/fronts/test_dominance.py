"""Which points survive, by hand and by what must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from morl.fronts.dominance import non_dominated, non_dominated_share

POINTS = arrays(
    np.float64,
    st.tuples(st.integers(1, 7), st.integers(1, 3)),
    elements=st.integers(-3, 3).map(float),  # few values: ties and duplicates are common
)


def test_value_by_hand():
    # (1, 3) and (3, 1) trade off; (1, 2) has an equal first and a worse second than (1, 3);
    # (0, 0) is worse than all.
    points = np.array([[1.0, 3.0], [3.0, 1.0], [1.0, 2.0], [0.0, 0.0]])
    assert non_dominated(points).tolist() == [True, True, False, False]
    assert non_dominated_share(points) == 0.5


def test_a_tolerance_forgives_gaps_up_to_its_size():
    # (2, 2) beats (2, 1.5) by 0.5 and (1, 1) by 1, in one objective at least.
    points = np.array([[2.0, 2.0], [2.0, 1.5], [1.0, 1.0]])
    assert non_dominated(points, 0.25).tolist() == [True, False, False]
    assert non_dominated(points, 0.5).tolist() == [True, True, False]
    assert non_dominated(points, 1.0).all()


def test_a_tolerance_for_each_objective():
    points = np.array([[2.0, 2.0], [2.0, 1.5], [1.5, 2.0]])
    assert non_dominated(points, np.array([0.0, 0.6])).tolist() == [True, True, False]


def test_a_tolerance_for_each_pair_is_read_as_winner_then_loser():
    points = np.array([[2.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    slack = np.zeros((3, 3, 2))
    slack[0, 1] = 5.0  # of point 0 over point 1 alone
    assert non_dominated(points, slack).tolist() == [True, True, False]


def test_duplicates_do_not_beat_each_other():
    assert non_dominated(np.ones((3, 2))).all()


def test_one_objective_leaves_the_largest():
    assert non_dominated(np.array([[1.0], [3.0], [2.0]])).tolist() == [False, True, False]


@given(POINTS)
def test_some_point_always_survives(points):
    assert non_dominated(points).any()


@given(POINTS, st.randoms())
def test_order_does_not_matter(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    np.testing.assert_array_equal(non_dominated(points[order]), non_dominated(points)[order])


@given(POINTS)
def test_survivors_alone_all_survive_and_every_other_point_is_beaten_by_one_of_them(points):
    mask = non_dominated(points)
    assert non_dominated(points[mask]).all()
    for loser in points[~mask]:
        assert any((winner >= loser).all() and (winner > loser).any() for winner in points[mask])


@given(POINTS, st.floats(0, 3), st.floats(0, 3))
def test_a_larger_tolerance_beats_no_more_points(points, one, other):
    small, large = sorted([one, other])
    assert (non_dominated(points, large) >= non_dominated(points, small)).all()


@pytest.mark.parametrize(
    ("points", "tolerance", "message"),
    [
        (np.empty((0, 2)), 0.0, r"at least one number.*\[0, 2\]"),
        (np.array([[0.0, 1.0], [np.nan, 2.0]]), 0.0, r"row 1 is \[nan, 2\.0\]"),
        (np.array([[np.inf, 1.0]]), 0.0, "finite"),
        (np.ones((2, 2)), -0.1, "at least 0; got -0.1"),
    ],
)
def test_errors_name_what_is_wrong(points, tolerance, message):
    with pytest.raises(ValueError, match=message):
        non_dominated(points, tolerance)
