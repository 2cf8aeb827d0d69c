"""Raw rewards to comparable units."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import assert_gradient_matches_finite_difference, normal

from rewards.calibration import Calibration, moments
from rewards.errors import CalibrationError

NAMES = ("aesthetic", "alignment")
VALUES = torch.tensor([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]])
EVERY = torch.ones(3, 2, dtype=torch.bool)


class TestFit:
    def test_value(self):
        # means 3 and 20; squared deviations 4 + 1 + 9 = 14, / 2 = 7; 100 + 100 + 0 = 200, / 2
        calibration = Calibration.fit(NAMES, VALUES, EVERY)
        assert calibration.mean == pytest.approx((3.0, 20.0))
        assert calibration.std == pytest.approx((math.sqrt(7), 10.0))

    def test_only_valid_samples_count(self):
        # aesthetic: 1 and 2, mean 1.5, std sqrt(0.5); NaN would show if it were read
        valid = EVERY.clone()
        valid[2, 0] = False
        values = VALUES.clone()
        values[2, 0] = math.nan
        calibration = Calibration.fit(NAMES, values, valid)
        assert calibration.mean == pytest.approx((1.5, 20.0))
        assert calibration.std[0] == pytest.approx(math.sqrt(0.5))

    def test_small_spread_on_a_large_mean(self):
        # 1000 +- 0.5: float32 sums of squares would lose it
        values = torch.tensor([999.5, 1000.5])
        mean, std = moments("r", values, torch.ones(2, dtype=torch.bool))
        assert (mean, std) == pytest.approx((1000.0, math.sqrt(0.5)))

    @pytest.mark.parametrize("constant", [0.0, 0.1, 1e10, -3.0])
    def test_a_constant_reward_is_refused(self, constant):
        values = torch.full((1000, 2), constant)
        values[:, 0] = torch.linspace(0, 1, 1000)
        with pytest.raises(CalibrationError, match="'alignment' takes one value"):
            Calibration.fit(NAMES, values, torch.ones_like(values, dtype=torch.bool))

    def test_rounding_is_no_spread(self):
        # the next float32 after 0.1 is 7e-9 away
        values = torch.full((100,), 0.1)
        values[::2] = torch.nextafter(values[::2], torch.tensor(1.0))
        assert values.unique().numel() == 2
        with pytest.raises(CalibrationError, match="'r' takes one value"):
            moments("r", values, torch.ones(100).bool())

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_samples_are_refused(self, count):
        valid = torch.zeros(3, 2, dtype=torch.bool)
        valid[:count] = True
        message = rf"'aesthetic' is valid on {count} of 3 images.*at least 2"
        with pytest.raises(CalibrationError, match=message):
            Calibration.fit(NAMES, VALUES, valid)


class TestApply:
    def test_value(self):
        # (5 - 3) / 2 = 1;  (0 - 20) / 10 = -2
        calibration = Calibration(NAMES, (3.0, 20.0), (2.0, 10.0))
        assert calibration.apply(torch.tensor([[5.0, 0.0]])).tolist() == [[1.0, -2.0]]

    def test_identity(self):
        values = normal(5, 2)
        assert torch.equal(Calibration(NAMES, (0.0, 0.0), (1.0, 1.0)).apply(values), values)

    @given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 100))
    def test_what_it_was_fitted_on_has_mean_0_and_std_1(self, mean, std, seed):
        values = mean + std * normal(64, 2, seed=seed)
        every = torch.ones(64, 2, dtype=torch.bool)
        units = Calibration.fit(NAMES, values, every).apply(values)
        torch.testing.assert_close(units.mean(0), units.new_zeros(2), rtol=0, atol=1e-6)
        torch.testing.assert_close(units.std(0), units.new_ones(2), rtol=0, atol=1e-6)

    def test_gradient(self):
        calibration = Calibration(NAMES, (3.0, 20.0), (2.0, 10.0))
        assert_gradient_matches_finite_difference(calibration.apply, normal(3, 2))

    def test_columns_must_be_its_own(self):
        calibration = Calibration(NAMES, (3.0, 20.0), (2.0, 10.0))
        message = "one column for each of aesthetic, alignment; got 3"
        with pytest.raises(CalibrationError, match=message):
            calibration.apply(torch.zeros(1, 3))


class TestStored:
    def test_round_trip_through_json_is_exact(self):
        calibration = Calibration.fit(NAMES, normal(7, 2), torch.ones(7, 2, dtype=torch.bool))
        assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration

    def test_a_missing_part(self):
        with pytest.raises(CalibrationError, match="a calibration lacks mean, std"):
            Calibration.from_dict({"names": ["a"]})

    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            ((0.0,), (1.0, 1.0), "`mean` must have one number for each of aesthetic, alignment"),
            ((0.0, 0.0), (1.0,), "`std` must have one number for each.*got 1"),
            ((0.0, math.nan), (1.0, 1.0), "`mean` of 'alignment' must be finite; got nan"),
            ((0.0, 0.0), (0.0, 1.0), "`std` of 'aesthetic' must be positive and finite; got 0.0"),
            ((0.0, 0.0), (1.0, -1.0), "`std` of 'alignment' must be positive and finite; got -1"),
            ((0.0, 0.0), (1.0, math.inf), "`std` of 'alignment' must be positive and finite"),
        ],
    )
    def test_what_it_refuses(self, mean, std, message):
        with pytest.raises(CalibrationError, match=message):
            Calibration(NAMES, mean, std)
