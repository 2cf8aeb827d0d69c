"""Event rates: pooled counts, exact bounds, JSON form."""

import pytest

from morl.fronts.events import EventRates, Rate
from morl.fronts.intervals import clopper_pearson, upper_bound

RATES = EventRates("unsafe", 0.03, Rate(20, 100), (Rate(0, 100), Rate(5, 90), Rate(1, 110)))


def test_counts_are_pooled_not_rates():
    assert RATES.pooled == Rate(6, 300)
    assert RATES.pooled.value == pytest.approx(0.02)
    assert RATES.pooled.upper_bound() == upper_bound(6, 300)


def test_the_interval_is_exact():
    found = Rate(5, 90).interval()
    assert (found.low, found.high) == clopper_pearson(5, 90)


def test_json_round_trip():
    plain = RATES.to_dict()
    assert plain["weights"][1]["rate"] == pytest.approx(5 / 90)
    assert plain["pooled"]["upper_bound"] == upper_bound(6, 300)
    assert EventRates.from_dict("unsafe", plain) == RATES


def test_a_rate_of_no_image_has_counts_alone():
    assert Rate(0, 0).to_dict() == {"events": 0, "count": 0}
    with pytest.raises(ValueError, match="0 of 0"):
        Rate(0, 0).interval()
