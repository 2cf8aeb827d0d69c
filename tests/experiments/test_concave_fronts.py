"""Concave fronts: linear scalarisation ends at the ends, smooth Chebyshev covers them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from properties import simplex
from pymoo.problems.many.dtlz import DTLZ2
from pymoo.problems.multi.zdt import ZDT2

from experiments.concave_fronts import run
from experiments.concave_fronts.policies import inside
from experiments.concave_fronts.problems import PROBLEMS, optima
from experiments.concave_fronts.run import judged, share_at_ends, spacing, widest_gap
from morl.weights import das_dennis
from rewards.scalarization import utility

THEIRS = {"ZDT2": ZDT2(n_var=10), "DTLZ2": DTLZ2(n_var=12, n_obj=3)}


@pytest.mark.parametrize("name", PROBLEMS)
def test_rewards_are_minus_the_objectives_of_pymoo(name):
    x = torch.rand(20, PROBLEMS[name].variables, generator=torch.Generator().manual_seed(0))
    expected = -THEIRS[name].evaluate(x.double().numpy())
    np.testing.assert_allclose(PROBLEMS[name].rewards(x.double()).numpy(), expected, rtol=1e-9)


class TestExactOptima:
    def test_chebyshev_stands_where_the_weighted_shortfalls_are_equal(self):
        # w_i f_i = c on the sphere: f = v / |v| with v = 1 / w
        weights = inside(das_dennis(3, 6).double())
        found = -optima(PROBLEMS["DTLZ2"].front(), utility("chebyshev", {"ideal": 0.0}), weights)
        expected = torch.nn.functional.normalize(1 / weights, dim=1)
        assert (found - expected).abs().max() < 0.02  # three steps of the grid

    def test_chebyshev_of_means_has_probabilities_inverse_to_the_weights(self):
        # On the simplex p: w_i p_i equal
        weights = inside(das_dennis(2, 10).double())
        score = utility("chebyshev", {"ideal": 0.0})
        found = -optima(PROBLEMS["ZDT2"].mixed_front(), score, weights)
        expected = (1 / weights) / (1 / weights).sum(dim=1, keepdim=True)
        assert (found - expected).abs().max() < 1e-3

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_linear_has_its_optima_at_the_ends(self, name):
        problem = PROBLEMS[name]
        # Nowhere equal: with equal weights all mixtures of their ends are equally good.
        weights = simplex(30, problem.objectives)
        for front in (problem.front(), problem.mixed_front()):
            assert share_at_ends(optima(front, utility("linear"), weights)) == 1.0

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_mixing_the_ends_dominates_the_deterministic_front(self, name):
        # Every deterministic point has a sum of objectives of at least 1, every mixture exactly 1.
        problem = PROBLEMS[name]
        assert (-problem.front().sum(dim=1)).min() >= 1 - 1e-9
        torch.testing.assert_close(
            -problem.mixed_front().sum(dim=1),
            torch.ones(len(problem.mixed_front()), dtype=torch.float64),
            rtol=0,
            atol=1e-6,
        )


class TestMeasures:
    def test_gap_and_spacing(self):
        even = -torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
        assert widest_gap(even) == pytest.approx(1.0)
        assert spacing(even) == pytest.approx(0.0)
        # Two pairs 0.1 apart within and 1.8 between: the hole counts once
        pairs = -torch.tensor([[0.0, 1.0], [0.05, 0.95], [0.95, 0.05], [1.0, 0.0]])
        assert widest_gap(pairs) == pytest.approx(1.8)
        assert share_at_ends(pairs) == 1.0


def test_a_deterministic_policy_needs_more_than_linear():
    problem = PROBLEMS["ZDT2"]
    smooth = judged(problem, False, "smooth_chebyshev", steps=400, seed=0)
    assert smooth.hypervolume >= 0.95
    assert smooth.ends <= 0.3
    linear = judged(problem, False, "linear", steps=400, seed=0)
    assert linear.exact_ends == 1.0
    assert linear.ends >= 0.8


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "PROBLEMS", {"ZDT2": PROBLEMS["ZDT2"]})
    target = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["run", "--steps", "2", "--results", str(target)])
    run.main()
    rows = json.loads(target.read_text())
    assert [(row["policy"], row["scalarization"]) for row in rows] == [
        ("deterministic", "linear"),
        ("deterministic", "smooth_chebyshev"),
        ("mixing", "linear"),
        ("mixing", "smooth_chebyshev"),
    ]
    assert capsys.readouterr().out.count("| ZDT2 |") == 4
