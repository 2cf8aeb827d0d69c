"""The units study: its arms differ where they should, and its table says what moved."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.cells import differences, origin, with_rate
from experiments.units.run import NORMALIZATIONS, SCALES, kind, setting
from experiments.units.table import move, stored, units
from morl.errors import ConfigError, DataError
from morl.fronts.front import Front
from morl.fronts.indicators import FrontConstants
from morl.weights import das_dennis

NAMES = ("aesthetic", "alignment", "preference")
WEIGHTS = das_dennis(3, 3).double().numpy()


def front(shift: float) -> Front:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 12, 3))
    samples = WEIGHTS[:, None] + noise
    samples[:, :, 0] += shift
    constants = FrontConstants((-2.0,) * 3, (2.0,) * 3)
    return Front("gold", NAMES, WEIGHTS, samples, noise[0], tuple(range(12)), constants)


@pytest.fixture
def results(tmp_path):
    """Two seeds; the unit moves the front of group_std_sum by 0.4 of an axis of length 4."""
    for seed in (0, 1):
        for name in ("base", "group_std_sum"):
            for scale in SCALES:
                hijacked = name == "group_std_sum" and scale == 100
                made = origin(with_rate(setting(name, scale), 1.0, seed))
                counted = 0.97 if hijacked else 0.33
                cell = {
                    **made,
                    "gold": front(-0.4 if hijacked else 0.0).to_dict(),
                    "effective": dict(zip(NAMES, (counted, 0.0, 0.0), strict=True)),
                }
                (tmp_path / f"{kind(name, scale)}-{seed}.json").write_text(json.dumps(cell))
    return tmp_path


def test_arms_differ_in_normalisation_and_unit_alone():
    assert setting("base", 100).objective.maximize["aesthetic"] == "100 * (shapes_aesthetic)"
    first = origin(setting("base", 1))
    for name in NORMALIZATIONS:
        for scale in SCALES:
            lines = differences(first, origin(setting(name, scale)))
            assert len(lines) == (name != "base") + (scale != 1)
    with pytest.raises(ConfigError, match=r"objective\.normalize"):
        setting("group_sdt", 1)


def test_the_table_shows_what_the_unit_changed(results):
    first, second = units(stored(results)).splitlines()[2:]
    assert first.startswith("| base | 0, 1 | 0.33 | 0.33 |")
    assert "| 0.000 [0.000, 0.000] | 0.000 |" in first
    assert second.startswith("| group_std_sum | 0, 1 | 0.33 | 0.97 |")
    assert second.endswith("| 0.100 |")
    # Delivered utility falls by the mean weight of aesthetic, 1/3, times 0.1.
    assert "| -0.033 [-0.033, -0.033] |" in second


def test_a_move_is_measured_at_each_weight_vector():
    assert move([front(0.0)], [front(0.4)]) == pytest.approx(0.1)


def test_no_results_say_what_to_run(tmp_path):
    with pytest.raises(DataError, match=r"experiments\.units\.run"):
        stored(tmp_path)
