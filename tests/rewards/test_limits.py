"""Constraints on quantiles, on classes of prompts and relative to the base model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from properties import normal

from rewards import baseline, maximize, mean, prompt_class, quantile
from rewards.bound import Constraint
from rewards.constraints import exceedances, measured, violation
from rewards.errors import CalibrationError, ExpressionError
from rewards.expression import Leaf
from rewards.limits import Limit, limits_of
from rewards.objective import Objective
from rewards.parse import parse_constraint
from rewards.prompt_classes import class_problem, members
from rewards.reward import ImageBatch

bright, contrast = Leaf("brightness"), Leaf("contrast")
GREY = (0.1, 0.2, 0.6, 0.9)
"""Brightness of four plain images."""


def plain(*values, prompts=None, metadata=None):
    images = torch.tensor(values)[:, None, None, None].expand(-1, 3, 8, 8)
    return ImageBatch(images, prompts or ["a"] * len(values), metadata)


class TestText:
    @pytest.mark.parametrize(
        ("text", "constraint"),
        [
            ("mean(brightness) <= 0.3", bright <= 0.3),
            ("quantile(brightness, 0.95) <= 0.2", quantile(bright, 0.95) <= 0.2),
            ("0.2 >= quantile(brightness, 0.95)", quantile(bright, 0.95) <= 0.2),
            (
                "mean(brightness + contrast, where='prompt does not ask') >= 1",
                mean(bright + contrast, where="prompt does not ask") >= 1,
            ),
            (
                'quantile(brightness, 0.5, where="it\'s") <= baseline()',
                quantile(bright, 0.5, where="it's") <= baseline(),
            ),
            ("brightness <= baseline() + 0.5", bright <= baseline() + 0.5),
            ("brightness <= 0.5 * baseline() - 2", bright <= baseline() / 2 - 2),
            ("(baseline() - 1) * 2 <= brightness", bright >= 2 * baseline() - 2),
            ("baseline() >= brightness", bright <= baseline()),
        ],
    )
    def test_what_is_written_in_either_way_is_the_same_and_reads_back(self, text, constraint):
        assert parse_constraint(text) == constraint
        assert parse_constraint(str(constraint)) == constraint

    def test_python_reads_a_bound_on_the_left(self):
        assert (baseline() + 0.5 >= bright) == (bright <= baseline() + 0.5)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("quantile(brightness) <= 1", r"write quantile\(expression, 0.95, where="),
            ("quantile(brightness, 1.5) <= 1", "lies strictly between 0 and 1; got 1.5"),
            ("quantile(brightness, contrast) <= 1", "is a number between 0 and 1; got contrast"),
            ("mean(brightness, who='a') <= 1", r"write mean\(expression, where="),
            ("mean(brightness, where=portrait) <= 1", "`where` is quoted"),
            ("mean(brightness) <= contrast", "bounded by a number or by baseline"),
            ("brightness <= mean(contrast)", "is no constraint"),
            ("brightness <= contrast + baseline()", "combined with numbers alone"),
            ("brightness <= baseline() * baseline()", "combined with numbers alone"),
            ("brightness <= 1 / baseline()", "cannot divide by baseline"),
            ("brightness <= baseline() / 0", "cannot divide by 0"),
            ("brightness <= 0 * baseline()", "a factor that is not 0"),
            ("brightness <= baseline() + 1e999", "finite"),
            ("baseline() <= baseline()", "is no constraint"),
        ],
    )
    def test_what_means_nothing(self, text, message):
        with pytest.raises(ExpressionError, match=message):
            parse_constraint(text)

    def test_a_whole_objective_reads_back(self):
        texts = ["quantile(contrast, 0.9) <= 0.4", "mean(contrast, where='x') >= 0.1"]
        objective = Objective.from_dict({"maximize": {"a": "brightness"}, "subject_to": texts})
        assert Objective.from_dict(objective.to_dict()) == objective
        assert objective.constraint_names == (
            "quantile(contrast, 0.9)",
            "mean(contrast, where='x')",
        )
        assert "  quantile(contrast, 0.9) <= 0.4" in str(objective).splitlines()

    def test_everything_wrong_at_once_with_its_key(self):
        found = Objective(
            (("a", bright),),
            (
                quantile(bright, 0.9) <= 1.5,
                Constraint(contrast, "<=", math.nan),
                contrast <= baseline() - 0.2,
                contrast >= baseline() + 0.1,
                Constraint(contrast, "<=", 0.5, quantile=2.0),
                mean(contrast, where=" ") <= 0.3,
            ),
        ).problems()
        for line, start in zip(
            found,
            [
                "subject_to[0]: quantile(brightness, 0.9) <= 1.5: the threshold must lie in",
                "subject_to[1]: the threshold of contrast must be finite; got nan",
                "subject_to[3]: contrast cannot be both >= baseline() + 0.1 and <= baseline() - ",
                "subject_to[4]: quantile(contrast, 2.0) <= 0.5: a quantile's level lies strictly",
                "subject_to[5]: mean(contrast, where=' ') <= 0.3: `where` names a class",
            ],
            strict=True,
        ):
            assert line.startswith(start)


class TestQuantile:
    def test_value_and_gradient(self):
        # z = (c - 0.5) / 0.2 = -2.5, 0, 1: x = 0, 0, 1; dx/dc = sigmoid(z / 0.25) / 0.2
        costs = torch.tensor([0.0, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
        found = exceedances(costs, 0.5, "<=", 0.2)
        assert found.tolist() == [0.0, 0.0, 1.0]
        found.sum().backward()
        slope = [5 / (1 + math.exp(10)), 2.5, 5 / (1 + math.exp(-4))]
        assert costs.grad.tolist() == pytest.approx(slope)

    @pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
    @pytest.mark.parametrize("threshold", [-0.5, 0.3, 1.2])
    def test_the_share_beyond_the_bound_says_where_the_quantile_is(self, level, threshold):
        # Q_p = inf {x: F(x) >= p} <= d exactly where P(c > d) <= 1 - p.
        for seed in range(20):
            costs = normal(23, seed=seed)
            limit = Limit(threshold, "<=", level)
            every = torch.ones(23, dtype=torch.bool)
            amount, _ = violation(limit.values(costs), every, limit.budget, limit.side)
            exact = np.quantile(costs.numpy(), level, method="inverted_cdf")
            assert (amount <= 1e-12) == (exact <= threshold)

    def test_from_below(self):
        # at most 10 % may lie below 0.2: one of four is 15 % too many
        limit = Limit(0.2, ">=", 0.1)
        values = limit.values(torch.tensor([0.1, 0.3, 0.4, 0.5]))
        assert violation(values, torch.ones(4).bool(), limit.budget, limit.side)[0] == (
            pytest.approx(0.15)
        )

    def test_the_log_shows_the_quantile_in_raw_units(self):
        assert measured(torch.tensor([1.0, 2.0, 9.0]), 0.5) == 2.0
        assert measured(torch.tensor([1.0, 2.0, 9.0]), None) == 4.0


class TestRelativeToTheBase:
    def test_the_bound_is_measured_and_kept(self):
        # brightness of the base: mean 0.45, halved and 0.1 above
        bound = maximize(a=bright).subject_to(bright <= baseline() / 2 + 0.1).bind()
        with pytest.raises(CalibrationError, match="needs the base model's brightness; call `fit`"):
            bound.limits()
        bound.fit([bound.panel(plain(*GREY))])
        (limit,) = bound.limits()
        assert limit.threshold == pytest.approx(0.325)
        assert limits_of(bound.objective.constraints, bound.statistics) == (limit,)

    def test_a_quantile_of_the_base_on_its_class_of_prompts(self):
        # prompts "in": 0.1, 0.6, 0.9; their median is 0.6, their spread that of three
        bound = (
            maximize(a=bright)
            .subject_to(quantile(bright, 0.5, where="in") <= baseline() + 0.1)
            .bind()
        )
        records = [{"classes": ["in"]}, {}, {"classes": ["in"]}, {"classes": ["in"]}]
        base = plain(*GREY, metadata=records)
        bound.fit([bound.panel(base)], [bound.applies(base)])
        (limit,) = bound.limits()
        assert limit.threshold == pytest.approx(0.7)
        assert limit.spread == pytest.approx(torch.tensor([0.1, 0.6, 0.9]).std().item())
        assert bound(base).cost_valid.flatten().tolist() == [True, False, True, True]

    def test_the_base_counts_without_pessimism(self):
        plainly = maximize(a=bright).subject_to(bright <= baseline())
        found = []
        for objective in (plainly, plainly.pessimistic(2.0)):
            bound = objective.bind()
            bound.fit([bound.panel(plain(*GREY))])
            found.append(bound.limits())
        assert found[0] == found[1]

    @pytest.mark.parametrize(
        ("constraint", "values", "message"),
        [
            (bright <= baseline(), (0.5,), "applies to 1 of 1 images of the base model"),
            (quantile(bright, 0.9) <= 0.5, (0.3, 0.3), "takes one value"),
            (mean(bright, where="none") <= baseline(), GREY, "applies to 0 of 4 images"),
        ],
    )
    def test_a_base_that_says_nothing(self, constraint, values, message):
        bound = maximize(a=bright).subject_to(constraint).bind()
        base = plain(*values)
        with pytest.raises(CalibrationError, match=message):
            bound.fit([bound.panel(base)], [bound.applies(base)])

    def test_masks_are_asked_for_where_they_matter(self):
        bound = maximize(a=bright).subject_to(mean(bright, where="in") <= baseline()).bind()
        raw = bound.panel(plain(*GREY))
        with pytest.raises(ValueError, match="pass `applies` of their batch"):
            bound.table(raw)
        with pytest.raises(ValueError, match="pass `applies` of each batch"):
            bound.fit([raw])


class TestPromptClasses:
    def test_records_and_predicates(self):
        records = [{"classes": ["night"]}, {}]
        assert members("night", ["a", "b"], records) == [True, False]
        assert members("night", ["a", "b"], None) == [False, False]

        @prompt_class("of a test: dark")
        def dark(prompt, record):
            return "dark" in prompt

        assert members("of a test: dark", ["dark sea", "sea"], None) == [True, False]
        with pytest.raises(ValueError, match="exists already"):
            prompt_class("of a test: dark")(lambda prompt, record: True)

    def test_the_embedded_worlds_class_is_where_its_unsafe_rate_applies(self):
        from rewards.shapes.captions import train_prompts
        from rewards.shapes.gold import not_asked

        prompts = train_prompts(60, 0)
        found = members("prompt does not ask", prompts, None)
        assert found == not_asked(prompts).tolist()
        assert 0 < sum(found) < 60

    def test_a_function_in_a_file(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("def short(prompt, record):\n    return len(prompt) < 3\n")
        assert members(f"{file}:short", ["ab", "abc"], None) == [True, False]
        with pytest.raises(ExpressionError, match=r"prompt class '.*:long': .* has no 'long'"):
            members(f"{file}:long", ["a"], None)

    @pytest.mark.parametrize("classes", ["night", [1]])
    def test_a_record_that_is_no_list_of_names(self, classes):
        with pytest.raises(ExpressionError, match=r"must be a list of names"):
            members("night", ["a"], [{"classes": classes}])

    def test_a_class_that_can_bound_nothing(self):
        records = [{"classes": ["night"]}]
        assert class_problem("night", ["a"], records) is None
        assert "no prompt class 'nigth'; nearest: 'night'" in class_problem("nigth", ["a"], records)
        asks = ["a red circle and a magenta mark"]
        assert class_problem("prompt does not ask", asks, None) == (
            "no prompt is in the class 'prompt does not ask'"
        )
        assert class_problem("prompt does not ask", [], None) is None


def test_calibrated_units_need_nothing_new():
    # (x - mean) / std <= 0.5 holds the mean to half a standard deviation above the base's
    constraint = parse_constraint("calibrated(brightness) <= 0.5")
    bound = maximize(a=bright).subject_to(constraint).bind()
    bound.fit([bound.panel(plain(*GREY))])
    table = bound(plain(*GREY))
    assert table.costs.mean().item() == pytest.approx(0.0, abs=1e-6)
