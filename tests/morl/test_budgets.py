"""What a person asks of budgets, and which of them training draws."""

from __future__ import annotations

import pytest
import torch

from morl.budgets import BudgetNote, budget_rows, parse_budgets, sample_positions
from morl.errors import ConfigError
from morl.randomness import generator
from rewards.budgets import Budget

UNSAFE = Budget("shapes_unsafe", 0.01, 0.2)
SHARP = Budget("quantile(mean(sharpness, 2), 0.95, where='dark')", 0.5, 0.1)


class TestParse:
    @pytest.mark.parametrize(
        "given", ["shapes_unsafe=0.05", " shapes_unsafe = 5e-2 ", "0.05", {"shapes_unsafe": 0.05}]
    )
    def test_one_budget(self, given):
        assert parse_budgets(given, [UNSAFE]) == {"shapes_unsafe": 0.05}

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_name_may_hold_commas_and_equals_signs(self, turned):
        parts = [f"{SHARP.name}=0.2", "shapes_unsafe=0.01"]
        text = ",".join(parts[::-1] if turned else parts)
        assert parse_budgets(text, [UNSAFE, SHARP]) == {"shapes_unsafe": 0.01, SHARP.name: 0.2}

    def test_what_is_left_out_is_the_strictest_and_said(self):
        with pytest.warns(BudgetNote, match=r"strictest: shapes_unsafe = 0\.01 of 0\.01 \.\. 0\.2"):
            found = parse_budgets({SHARP.name: 0.3}, [UNSAFE, SHARP])
        assert found == {"shapes_unsafe": 0.01, SHARP.name: 0.3}
        with pytest.warns(BudgetNote):
            assert parse_budgets(None, [SHARP]) == {SHARP.name: 0.5}

    def test_an_adapter_without_budgets_needs_none(self):
        assert parse_budgets(None, []) == {}
        with pytest.raises(ConfigError, match=r"shapes_unsafe does not slide: .*without budgets"):
            parse_budgets("shapes_unsafe=0.1", [])

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("shapes_unsafe=0.5", r"budgets\.shapes_unsafe: must lie in 0\.01 \.\. 0\.2, .*0\.5 "),
            ("shapes_unsafe=0", r"nearest: 0\.01"),
            ("shapes_unsafe=nan", "got nan"),
            ("shapes_unsave=0.1", "no bound of 'shapes_unsave' slides; .*shapes_unsafe"),
            ("shapes_unsafe=0.1,shapes_unsafe=0.2", "is given twice"),
            ("shapes_unsafe=low", "written name=number"),
            ("", "written name=number"),
        ],
    )
    def test_errors(self, given, message):
        with pytest.raises(ConfigError, match=message):
            parse_budgets(given, [UNSAFE])

    def test_every_problem_in_one_go(self):
        with pytest.raises(ConfigError) as caught:
            parse_budgets({"a": 1.0, "shapes_unsafe": 1.0}, [UNSAFE])
        assert len(caught.value.problems) == 2

    def test_rows_are_positions(self):
        rows = budget_rows([{"shapes_unsafe": 0.01}, {"shapes_unsafe": 0.2}], [UNSAFE])
        assert rows.tolist() == [[0.0], [1.0]]
        assert budget_rows([{}], []).shape == (1, 0)


class TestSample:
    @pytest.mark.parametrize("n", [16, 7])
    def test_ends_get_their_share_and_the_rest_is_stratified(self, n):
        drawn = [sample_positions(generator(0, step, 0, "b"), n, 2, ends=0.5) for step in range(99)]
        every = torch.stack(drawn)
        assert every.shape == (99, n, 2)
        assert ((every >= 0) & (every <= 1)).all()
        strictest, loosest = ((every == end).float().mean(dim=(0, 1)) for end in (0.0, 1.0))
        torch.testing.assert_close(strictest, torch.full((2,), 0.25), atol=0.02, rtol=0)
        torch.testing.assert_close(loosest, torch.full((2,), 0.25), atol=0.02, rtol=0)
        if n == 16:  # 8 between the ends, one in each eighth
            inside = every[..., 0][(every[..., 0] > 0) & (every[..., 0] < 1)].view(99, 8)
            eighth = (inside.sort(dim=1).values * 8).floor()
            assert torch.equal(eighth, torch.arange(8.0).expand(99, -1))

    def test_budgets_are_independent_of_each_other(self):
        drawn = sample_positions(generator(1, 0, 0, "b"), 4000, 2, ends=0.5)
        assert abs(float(torch.corrcoef(drawn.T)[0, 1])) < 0.05

    def test_the_same_generator_draws_the_same(self):
        first, again, other = (
            sample_positions(generator(seed, 3, 1, "b"), 8, 1, ends=0.5) for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_limits(self):
        draw = generator(0, 0, 0, "b")
        assert sample_positions(draw, 5, 0, ends=0.5).shape == (5, 0)
        assert set(sample_positions(draw, 8, 1, ends=1.0).flatten().tolist()) == {0.0, 1.0}
        inside = sample_positions(draw, 8, 1, ends=0.0)
        assert ((inside > 0) & (inside < 1)).all()
