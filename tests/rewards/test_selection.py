"""where(condition, a, b) and rank(x): text, values, validity, gradients, refusals."""

from __future__ import annotations

import pytest
import torch

from rewards import R, ensemble, maximize, rank, where
from rewards.errors import ExpressionError
from rewards.panel import Panel, RewardTable
from rewards.parse import parse_expression
from rewards.ranges import bounds
from rewards.reward import ImageBatch
from rewards.scorers.quality import Brightness
from rewards.semantics import value_of

A, B, C = R("a"), R("b"), R("c")


def table(*columns, valid=None, std=None, group=None) -> RewardTable:
    values = torch.tensor(columns).T
    valid = torch.ones_like(values).bool() if valid is None else torch.tensor(valid).T
    std = torch.zeros_like(values) if std is None else torch.tensor(std).T
    names = ("a", "b", "c")[: len(columns)]
    return RewardTable(values, valid, std, names, None if group is None else torch.tensor(group))


class TestText:
    @pytest.mark.parametrize(
        ("expression", "text"),
        [
            (where(A <= 0.5, B, C), "where(a <= 0.5, b, c)"),
            (where(A >= B, B, 0), "where(a - b >= 0, b, 0)"),
            (where(0.5 >= A, 1 - B, -C), "where(a <= 0.5, 1 - b, -c)"),  # noqa: SIM300
            (2 * where(A <= 0.5, B, C) + 1, "2 * where(a <= 0.5, b, c) + 1"),
            (rank(A + B), "rank(a + b)"),
            (-rank(A).clip(0, 0.5), "-clip(rank(a), 0, 0.5)"),
        ],
    )
    def test_reads_as_mathematics_and_back(self, expression, text):
        assert str(expression) == text
        assert parse_expression(text) == expression

    def test_sides_may_be_exchanged(self):
        assert parse_expression("where(0.5 >= a, b, c)") == where(A <= 0.5, B, C)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("where(a, b, c)", r"where\(\) takes a comparison and two expressions, as in where"),
            ("where(a <= 1, b)", r"where\(\) takes a comparison and two expressions"),
            ("where(a < 1, b, c)", "is no constraint; write it as `expression <= number`"),
            ("where(0 <= a <= 1, b, c)", "is no constraint"),
            ("where(1 <= 2, b, c)", "the condition of where.* reads no reward"),
            ("rank(a, b)", r"rank\(\) takes 1 arguments; got 2"),
            ("min(a <= 1, b)", "'a <= 1' is not part of an expression"),
        ],
    )
    def test_errors(self, text, message):
        with pytest.raises(ExpressionError, match=message):
            parse_expression(text)

    @pytest.mark.usefixtures("unchecked")
    def test_a_condition_is_a_comparison(self):
        with pytest.raises(ExpressionError, match=r"where\(\) takes a comparison such as"):
            where(A, B, C)


class TestWhere:
    def test_value_and_disagreement_are_those_of_the_branch(self):
        raw = table([0.2, 0.5, 0.9], [1.0, 2.0, 3.0], [10.0, 20.0, 30.0], std=[[0.5] * 3] * 3)
        found = value_of(where(A <= 0.5, B, 2 * C), raw, {})
        assert found.values.tolist() == [1.0, 2.0, 60.0]
        assert found.disagreement.tolist() == [0.5, 0.5, 1.0]
        assert value_of(where(A >= 0.5, B, C), raw, {}).values.tolist() == [10.0, 2.0, 3.0]

    def test_needs_the_condition_and_the_branch_that_it_takes(self):
        raw = table(
            [0.0, 1.0, 0.0, 1.0],
            [1.0, 0.0, 0.0, 1.0],
            [0.0, 2.0, 2.0, 2.0],
            valid=[
                [True, True, True, False],
                [True, False, False, True],
                [False, True, True, True],
            ],
        )
        found = value_of(where(A <= 0.5, B, C), raw, {})
        assert found.valid.tolist() == [True, True, False, False]

    def test_the_condition_gets_no_gradient(self):
        values = torch.tensor([[0.2, 1.0, 5.0], [0.8, 1.0, 5.0]], requires_grad=True)
        raw = RewardTable(values, torch.ones(2, 3).bool(), torch.zeros(2, 3), ("a", "b", "c"))
        value_of(where(A <= 0.5, 2 * B, C), raw, {}).values.sum().backward()
        assert values.grad.tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]

    def test_range(self):
        saturation, contrast = R("saturation"), R("contrast")
        chosen = where(R("brightness") <= 0.5, saturation, 2 * contrast - 1)
        assert bounds(chosen) == (-1.0, 1.0)

    def test_a_lower_is_better_reward_may_decide(self):
        safe = where(R("shapes_unsafe") <= 0.5, R("contrast"), -1)
        assert maximize(look=safe).problems() == []
        with pytest.raises(ExpressionError, match="shapes_unsafe is lower-is-better and would be"):
            maximize(look=where(R("contrast") <= 0.2, R("shapes_unsafe"), 0))

    @pytest.mark.parametrize(
        ("condition", "said"),
        [
            (R("saturation") <= 2, "always"),
            (R("saturation") >= 2, "never"),
            (R("saturation") <= -1, "never"),
            (R("saturation") >= -1, "always"),
        ],
    )
    def test_a_condition_that_decides_nothing(self, condition, said):
        message = f"maximize.look: where.*: its condition {said} holds, since saturation ranges"
        with pytest.raises(ExpressionError, match=message):
            maximize(look=where(condition, R("contrast"), R("brightness")))

    def test_a_pessimistic_ensemble_has_no_side_in_a_condition(self):
        members = ensemble(R("contrast"), R("brightness"), aggregate="min")
        with pytest.raises(ExpressionError, match="it is unclear which way that is"):
            maximize(look=where(members <= 0.2, R("saturation"), 0))


class TestRank:
    def test_values(self):
        # Of the three others of 3: two are below, one is equal: (2 + 1/2) / 3
        found = value_of(rank(A), table([1.0, 3.0, 2.0, 3.0]), {})
        assert found.values.tolist() == pytest.approx([0.0, 2.5 / 3, 1 / 3, 2.5 / 3])

    def test_inside_groups(self):
        found = value_of(rank(A), table([1.0, 9.0, 2.0, 8.0, 5.0], group=[0, 1, 0, 1, 2]), {})
        assert found.values.tolist() == [0.0, 1.0, 1.0, 0.0, 0.5]

    def test_samples_that_do_not_apply_are_not_beaten(self):
        raw = table([1.0, 0.0, 2.0], valid=[[True, False, True]])
        found = value_of(rank(A), raw, {})
        assert found.values[[0, 2]].tolist() == [0.0, 1.0]
        assert found.valid.tolist() == [True, False, True]

    def test_disagreement_is_how_far_the_std_moves_it(self):
        # 2 +- 1.5 beats all three others, or none: (1 - 0) / 2
        raw = table([1.0, 2.0, 3.0, 1.5], std=[[0.0, 1.5, 0.0, 0.0]])
        assert value_of(rank(A), raw, {}).disagreement.tolist() == [0.0, 0.5, 0.0, 0.0]

    def test_groups_come_from_the_batch_and_survive_chunks(self):
        images = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 3, 8, 8)
        batch = ImageBatch(images, ["x"] * 6, group=[7, 3, 7, 3, 7, 3])
        expected = [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
        for chunk in (None, 2, 4):
            raw = Panel([Brightness()], chunk=chunk)(batch)
            found = value_of(rank(R("brightness")), raw, {})
            assert found.values.tolist() == expected, chunk

    def test_joined_tables_keep_their_groups_apart(self):
        first, second = table([1.0, 2.0]), table([5.0, 6.0, 7.0], group=[4, 4, 9])
        joined = RewardTable.joined([first, second])
        found = value_of(rank(A), joined, {})
        assert found.values.tolist() == [0.0, 1.0, 0.0, 1.0, 0.5]

    def test_range(self):
        assert bounds(rank(A)) == (0.0, 1.0)


class TestGradients:
    @pytest.mark.parametrize(
        ("expression", "named"),
        [
            (R("contrast") + rank(R("saturation")), ["rank(saturation)"]),
            (rank(R("jpeg_compressibility")), ["rank(jpeg_compressibility)"]),
            (R("contrast") * R("jpeg_compressibility"), ["jpeg_compressibility"]),
            (where(R("jpeg_compressibility") <= -1, R("contrast"), 0), []),
            (
                where(R("contrast") <= 0.2, R("jpeg_compressibility"), R("saturation")),
                ["jpeg_compressibility"],
            ),
            (
                where(R("contrast") <= 0.2, 1, 0),
                ["where(contrast <= 0.2, 1, 0)"],
            ),
        ],
    )
    def test_what_breaks_them_is_named(self, expression, named):
        assert maximize(look=expression).undifferentiable() == named


def test_a_constant_objective_is_refused():
    with pytest.raises(ExpressionError, match=r"maximize.look: 0 \* contrast is 0 whatever the"):
        maximize(look=0 * R("contrast"))
