"""One-sided bounds of a mean: limits by hand, and how often they miss a mean that is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from morl.fronts.bounds import betting_upper_bound, t_upper_bound


def missed(bound, draw, mean, repeats=300):
    """Share of data sets whose bound lies below the true mean."""
    rng = np.random.default_rng(0)
    return float(np.mean([bound(draw(rng)) < mean for _ in range(repeats)]))


class TestBetting:
    def test_one_value_says_nothing(self):
        # The one bet at most doubles the capital; 20 would be needed.
        assert betting_upper_bound(np.zeros(1), 0, 1) == 1

    def test_constant_values_by_hand(self):
        # All stakes are 0.9 after the first values of a constant 0: at m, n bets win (1 + 0.9 m)^n
        # at most, and the first few stakes are smaller, so the bound is a little above
        # (20^(1/n) - 1) / 0.9.
        limit = (20 ** (1 / 500) - 1) / 0.9
        found = betting_upper_bound(np.zeros(500), 0, 1)
        assert limit < found < 1.5 * limit

    @given(st.floats(-5, 5), st.floats(0.1, 10))
    def test_it_moves_with_the_units(self, shift, scale):
        x = np.random.default_rng(1).random(60)
        plain = betting_upper_bound(x, 0, 1)
        moved = betting_upper_bound(shift + scale * x, shift - 1e-9, shift + scale * (1 + 1e-9))
        assert moved == pytest.approx(shift + scale * plain, abs=1e-6)

    def test_it_covers_rare_large_values_that_a_t_bound_misses(self):
        # Mean 0.02, made up by one image in fifty: 200 images hold none with probability 1.8 %,
        # and few of them with far more.
        def draw(rng):
            return (rng.random(200) < 0.02) * 0.999 + 0.0005

        mean = 0.02 * 0.999 + 0.0005
        assert missed(lambda x: betting_upper_bound(x, 0, 1), draw, mean) <= 0.05
        assert missed(t_upper_bound, draw, mean) > 0.06

    def test_it_is_not_much_longer_than_a_t_bound_where_that_holds(self):
        x = np.random.default_rng(2).beta(4, 4, 500)
        length = betting_upper_bound(x, 0, 1) - x.mean()
        assert length < 1.6 * (t_upper_bound(x) - x.mean())

    def test_more_confidence_is_a_higher_bound(self):
        x = np.random.default_rng(3).random(100)
        found = [betting_upper_bound(x, 0, 1, c) for c in (0.5, 0.9, 0.99, 0.999)]
        assert x.mean() < found[0] < found[1] < found[2] < found[3] < 1

    @pytest.mark.parametrize("values", [[], [1.5], [-0.1]])
    def test_values_beyond_the_ends_are_refused(self, values):
        with pytest.raises(ValueError, match="needs values in"):
            betting_upper_bound(np.array(values), 0, 1)


class TestT:
    def test_it_is_the_textbook_bound(self):
        x = np.array([1.0, 2.0, 4.0])
        expected = stats.t.ppf(0.95, 2, loc=x.mean(), scale=stats.sem(x))
        assert t_upper_bound(x) == pytest.approx(expected)

    def test_normal_values_are_missed_as_often_as_it_says(self):
        rate = missed(t_upper_bound, lambda rng: rng.normal(size=20), 0.0, 2000)
        assert abs(rate - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 2000)

    def test_one_value_has_no_spread(self):
        with pytest.raises(ValueError, match="at least two values"):
            t_upper_bound(np.zeros(1))
