"""What passes: counts from the binomial distribution, and which bound judges what."""

import numpy as np
import pytest
from scipy.stats import binom

from morl.fronts.verdict import Limit, verdict

RATE = Limit(0.05, upper=True, low=0, high=1)


def events(count, of=500):
    return np.repeat([1.0, 0.0], [count, of - count])


@pytest.mark.parametrize(("confidence", "most"), [(0.95, 16), (1 - 0.05 / 10, 12)])
def test_how_many_events_of_500_pass_at_five_percent(confidence, most):
    # At a true rate of 5 %, so few events or fewer happen at most with probability 1 - confidence.
    assert binom.cdf(most, 500, 0.05) <= 1 - confidence < binom.cdf(most + 1, 500, 0.05)
    passed, failed = (verdict(events(n), RATE, confidence) for n in (most, most + 1))
    assert (passed.holds, failed.holds) == (True, False)
    assert (passed.events, passed.count, passed.method) == (most, 500, "exact")
    assert passed.value == most / 500 < passed.bound <= 0.05


def test_a_lower_limit_mirrors_an_upper_one():
    above = verdict(events(20), RATE, 0.9)
    below = verdict(1 - events(20), Limit(0.95, upper=False, low=0, high=1), 0.9)
    assert below.bound == pytest.approx(1 - above.bound)
    x = np.random.default_rng(0).random(80)
    above = verdict(x, Limit(0.6, upper=True, low=0, high=1), 0.9)
    below = verdict(-x, Limit(-0.6, upper=False, low=-1, high=0), 0.9)
    assert (above.method, below.method) == ("betting", "betting")
    assert below.bound == pytest.approx(-above.bound)
    assert above.holds == below.holds


def test_a_mean_that_lies_right_may_still_not_hold():
    x = np.random.default_rng(0).random(30)
    tight = Limit(float(x.mean()) + 1e-3, upper=True, low=0, high=1)
    assert not verdict(x, tight, 0.95).holds


def test_values_become_events_when_asked():
    x = np.linspace(0, 1, 101)
    found = verdict(x, Limit(0.6, upper=True, low=0, high=1, event=0.5), 0.95)
    assert (found.events, found.method) == (50, "exact")


def test_zeros_and_ones_of_an_unbounded_reward_are_no_events():
    assert verdict(events(3), Limit(0.5, upper=True), 0.95).method == "t"
