"""The constraint study: what its methods set, and what its table says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.cells import differences, origin
from experiments.constraints.run import METHODS, UNCONSTRAINED, setting, study
from experiments.constraints.table import RULES, Study, comparison, slack_weights, stored, way
from morl.config import check, load_config
from morl.errors import ConfigError, DataError
from morl.fronts.front import Front
from morl.fronts.indicators import FrontConstants
from morl.weights import das_dennis

NAMES = ("aesthetic", "alignment", "preference")
LEVELS = {
    "unconstrained": (0.6, [0.01, *[0.11] * 9]),
    "penalty_1": (0.3, [0.06] * 10),
    "penalty_3": (0.0, [0.02] * 10),
    "penalty_9": (-0.3, [0.0] * 10),
    "dual_ascent": (0.3, [0.04] * 10),
}
"""Reward of every objective, and mean cost at each weight vector."""
TRACE = [{"violation": v, "multiplier": 1.0} for v in (0.1, 0.1, -0.1, -0.3)]


@pytest.fixture(scope="module")
def config():
    return study(load_config("shapes"), steps=6, images=8)


def cell(config, method: str, seed: int) -> dict:
    reward, rates = LEVELS[method]
    weights = das_dennis(3, 3).double().numpy()
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 12, 3))
    samples = np.full((10, 12, 3), reward) + noise - noise.mean(axis=1, keepdims=True)
    constants = FrontConstants((-1.0,) * 3, (2.0,) * 3)
    front = Front("gold", NAMES, weights, samples, noise[0], tuple(range(12)), constants)
    costs = [[*[rate] * 11, None] for rate in rates]
    return {
        **origin(setting(config, method, seed)),
        "threshold": 0.03,
        "fronts": {"gold": front.to_dict()},
        "costs": {"gold": {"weights": costs}},
        "trace": TRACE,
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_valid_recipe_and_differs_in_its_multipliers_alone(config, method):
    made = setting(config, method, 0)
    assert check(made) == []
    changed = differences(origin(setting(config, "dual_ascent", 0)), origin(made))
    assert bool(changed) == (method != "dual_ascent")
    assert not differences(origin(setting(config, "nupi", 0)), origin(made), RULES)


@pytest.mark.parametrize("constraints", ["[]", "[shapes_unsafe <= 0.03, contrast <= 0.9]"])
def test_the_study_needs_one_judged_constraint(constraints):
    other = load_config("shapes", [f"objective.subject_to={constraints}"])
    with pytest.raises(ConfigError, match="one constraint on a mean"):
        study(other, 6, 8)


def test_the_way_to_a_held_constraint_by_hand():
    # running means of 0.1, 0.1, -0.1, -0.3 with weights 0.9^age: 0.1, 0.1,
    # (0.09 x 0.9 + 0.09 + ... ) = (0.081 + 0.09 - 0.1) / 2.71 = 0.0262,
    # (0.0729 + 0.081 - 0.09 - 0.3) / 3.439 = -0.0686
    found = way(TRACE)
    assert found.held == 4
    assert found.late_mean == pytest.approx(-0.2)
    assert found.late_std == pytest.approx((0.026199 + 0.068654) / 2, abs=1e-5)
    assert way(TRACE[:2]).held is None


class TestTable:
    def both(self, config) -> Study:
        cells = {m: {seed: cell(config, m, seed) for seed in (0, 1)} for m in LEVELS}
        return Study(cells, (0, 1))

    def test_a_method_is_compared_with_penalties_at_its_own_violation(self, config):
        # Utilities (r + 1) / 3: 0.533 at violation 0.07, 0.433 at 0.03, 0.333 at -0.01. Dual
        # ascent has 0.433 at 0.01, where the penalties have 0.383; the unconstrained adapter is
        # slack at the first weight vector alone and has 0.1 more there.
        lines = comparison(self.both(config), replicates=20).splitlines()
        row = next(line for line in lines if line.startswith("| dual_ascent"))
        found = [text.strip().split(" [")[0] for text in row.split("|")[2:-1]]
        assert found == [
            "0.010", "0.010", "0.433", "0.050", "-0.100", "4, 4", "-0.200, -0.200", "0.047, 0.047"
        ]  # fmt: skip
        penalty = next(line for line in lines if line.startswith("| penalty_3"))
        assert abs(float(penalty.split("|")[5].split(" [")[0])) < 5e-4
        assert "(1, 0, 0)" in lines[-1] or "(0, 0, 1)" in lines[-1]

    def test_slack_is_where_the_unconstrained_adapter_holds_it(self, config):
        assert slack_weights(self.both(config)) == [0]

    def test_stored_cells_are_read_and_checked(self, config, tmp_path):
        with pytest.raises(DataError, match="no results of unconstrained, penalty_1"):
            stored(tmp_path)
        for method in LEVELS:
            self.write(tmp_path, f"{method}-0", cell(config, method, 0))
        self.write(tmp_path, f"{UNCONSTRAINED}-1", cell(config, UNCONSTRAINED, 1))
        assert stored(tmp_path).seeds == (0,)
        longer = {**cell(config, "penalty_1", 0), **origin(study(config, 7, 8))}
        self.write(tmp_path, "dual_ascent-0", longer)
        with pytest.raises(DataError, match=r"differ in .*training.steps"):
            stored(tmp_path)

    def write(self, folder, name, values):
        (folder / f"{name}.json").write_text(json.dumps(values))
