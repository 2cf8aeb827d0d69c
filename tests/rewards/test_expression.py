"""Composite rewards as trees: arithmetic, printing, refusals."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rewards import R, ensemble, max_, min_, register
from rewards.errors import ExpressionError
from rewards.expression import Binary, Constraint, Leaf, Number
from rewards.scorers.quality import Brightness

a, b, c = R("a"), R("b"), R("c")


class TestPrinting:
    @pytest.mark.parametrize(
        ("expression", "text"),
        [
            (a, "a"),
            (R("my_rewards.warmth"), "my_rewards.warmth"),
            (R("path/to/file.py:f"), "R('path/to/file.py:f')"),
            (R("my.class"), "R('my.class')"),
            (a + b - c, "a + b - c"),
            (a - (b - c), "a - (b - c)"),
            (a + (b + c), "a + (b + c)"),
            (a / b / c, "a / b / c"),
            (a / (b / c), "a / (b / c)"),
            (a * (b / c), "a * (b / c)"),
            ((a + b) * c, "(a + b) * c"),
            (a + b * c, "a + b * c"),
            (0.5 * a + 0.25 * b, "0.5 * a + 0.25 * b"),
            (1 - a, "1 - a"),
            (2 / a, "2 / a"),
            (a + 2, "a + 2"),
            (-a, "-a"),
            (-(a + b), "-(a + b)"),
            (-a + b, "-a + b"),
            (a - -b, "a - (-b)"),
            (-1 * (-a), "-(-a)"),
            (-(-2 * a), "-(-2 * a)"),
            (a * -3, "a * (-3)"),
            (-a * b, "-a * b"),
            (-(a * b), "-(a * b)"),
            (min_(a, 0.5), "min(a, 0.5)"),
            (max_(a, b, c), "max(a, b, c)"),
            (a.clip(0, 1), "clip(a, 0, 1)"),
            (a.clip(-1, 0.5).calibrated(), "calibrated(clip(a, -1, 0.5))"),
            (ensemble(a, b), "ensemble(a, b)"),
            (ensemble(a, b, aggregate="mean-std"), "ensemble(a, b, aggregate='mean-std')"),
            (sum([a, b]), "0 + a + b"),
        ],
    )
    def test_reads_as_mathematics(self, expression, text):
        assert str(expression) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1.0, "1"), (0.1, "0.1"), (0.1 + 0.2, "0.30000000000000004"), (1e-7, "1e-07"), (-2, "-2")],
    )
    def test_numbers_keep_their_digits(self, value, text):
        assert str(Number(float(value))) == text
        assert float(text) == value

    @pytest.mark.parametrize(
        ("constraint", "text"),
        [
            (a <= 0.03, "a <= 0.03"),
            (a >= 1, "a >= 1"),
            (0.5 >= a, "a <= 0.5"),  # noqa: SIM300 (the reflected operator)
            (0.5 <= a, "a >= 0.5"),  # noqa: SIM300
            (a + b <= -2, "a + b <= -2"),
            (a <= b, "a - b <= 0"),
            (a + 1 >= b, "a + 1 - b >= 0"),
        ],
    )
    def test_constraints(self, constraint, text):
        assert isinstance(constraint, Constraint)
        assert str(constraint) == text


class TestTree:
    def test_leaves_are_listed_once_in_order_of_appearance(self):
        expression = b + min_(a, b) * ensemble(c, a)
        assert [leaf.name for leaf in expression.leaves()] == ["b", "a", "c"]

    def test_walk_goes_parents_first(self):
        expression = (a + 1).calibrated()
        assert list(expression.walk()) == [expression, a + 1, a, Number(1.0)]

    def test_nodes_are_values(self):
        assert a + 0.5 * b == R("a") + 0.5 * R("b")
        assert hash(a + b) == hash(R("a") + R("b"))
        assert a + b != b + a

    def test_nodes_are_immutable(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            a.name = "b"

    def test_minus_is_a_product(self):
        assert -a == Binary("*", Number(-1.0), a)


class TestR:
    def test_a_declared_function_goes_in_itself(self):
        @register(name="expression_test_warmth")
        def warmth(images, prompts):
            return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))

        leaf = R(warmth)
        assert str(leaf) == "expression_test_warmth"
        assert leaf.target is warmth
        assert leaf.facts.category == "quality"

    def test_a_reward_object_goes_in_itself(self):
        leaf = R(Brightness())
        assert leaf == Leaf("brightness")
        assert isinstance(leaf.target, Brightness)

    @pytest.mark.parametrize("wrong", [None, 3, "", "  ", len, ["a"]])
    def test_what_it_refuses(self, wrong):
        with pytest.raises(ExpressionError, match=r"R\(\) takes a reward's name, .*; got "):
            R(wrong)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, True, "b", None])
    def test_arithmetic_takes_finite_numbers(self, wrong):
        message = "an expression takes finite numbers and rewards; got "
        for build in (lambda: a + wrong, lambda: a * wrong, lambda: min_(a, wrong)):
            with pytest.raises(ExpressionError, match=message):
                build()

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, True, "0.3"])
    def test_a_threshold_is_a_finite_number(self, wrong):
        with pytest.raises(ExpressionError, match="takes finite numbers and rewards; got "):
            _ = a <= wrong

    def test_strict_inequalities_and_pythons_own_min(self):
        message = r"a constraint is written with <= or >=.*min_\(\) or max_\(\)"
        for build in (lambda: a < 0.3, lambda: a > 0.3, lambda: min(a, b), lambda: max(a, b)):
            with pytest.raises(ExpressionError, match=message):
                build()

    def test_a_chain_of_bounds_does_not_drop_one(self):
        # Python reads it as (0.2 <= a) and (a <= 0.8)
        with pytest.raises(ExpressionError, match=r"a >= 0.2 is a constraint, not true or false"):
            _ = 0.2 <= a <= 0.8

    @pytest.mark.parametrize(
        ("low", "high", "message"),
        [
            (1, 0, r"clip needs low < high; got 1 and 0 in clip\(a, 1, 0\)"),
            (1, 1, "clip needs low < high"),
            (0, math.inf, "finite numbers"),
            (math.nan, 1, "finite numbers"),
            (0, b, "clip takes an expression and two numbers"),
        ],
    )
    def test_clip(self, low, high, message):
        with pytest.raises(ExpressionError, match=message):
            a.clip(low, high)

    @pytest.mark.parametrize("members", [(), (a,), (a, a), (a, b, a), (a + 1, a + 1)])
    def test_an_ensemble_needs_different_members(self, members):
        message = "needs at least two members, all different; got ensemble"
        with pytest.raises(ExpressionError, match=message):
            ensemble(*members)

    def test_an_unknown_aggregate(self):
        with pytest.raises(ExpressionError, match=r"unknown `aggregate` 'means'.*nearest: 'mean'"):
            ensemble(a, b, aggregate="means")

    @pytest.mark.parametrize(("build", "name"), [(min_, "min"), (max_, "max")])
    def test_an_extreme_of_nothing(self, build, name):
        with pytest.raises(ExpressionError, match=rf"{name}\(\) needs at least one expression"):
            build()

    def test_powers_do_not_exist(self):
        with pytest.raises(TypeError):
            _ = a**2
