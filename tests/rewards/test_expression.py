"""Composite rewards as trees: arithmetic, printing, refusals."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rewards import R, ensemble, max_, min_, register
from rewards.errors import ExpressionError
from rewards.expression import Binary, Constraint, Leaf, Number
from rewards.scorers.quality import Brightness

A, B, C = R("a"), R("b"), R("c")


class TestPrinting:
    @pytest.mark.parametrize(
        ("expression", "text"),
        [
            (A, "a"),
            (R("my_rewards.warmth"), "my_rewards.warmth"),
            (R("path/to/file.py:f"), "R('path/to/file.py:f')"),
            (R("my.class"), "R('my.class')"),
            (A + B - C, "a + b - c"),
            (A - (B - C), "a - (b - c)"),
            (A + (B + C), "a + (b + c)"),
            (A / B / C, "a / b / c"),
            (A / (B / C), "a / (b / c)"),
            (A * (B / C), "a * (b / c)"),
            ((A + B) * C, "(a + b) * c"),
            (A + B * C, "a + b * c"),
            (0.5 * A + 0.25 * B, "0.5 * a + 0.25 * b"),
            (1 - A, "1 - a"),
            (2 / A, "2 / a"),
            (A + 2, "a + 2"),
            (-A, "-a"),
            (-(A + B), "-(a + b)"),
            (-A + B, "-a + b"),
            (A - -B, "a - (-b)"),
            (--A, "-(-a)"),
            (-(-2 * A), "-(-2 * a)"),
            (A * -3, "a * (-3)"),
            (-A * B, "-a * b"),
            (-(A * B), "-(a * b)"),
            (min_(A, 0.5), "min(a, 0.5)"),
            (max_(A, B, C), "max(a, b, c)"),
            (A.clip(0, 1), "clip(a, 0, 1)"),
            (A.clip(-1, 0.5).calibrated(), "calibrated(clip(a, -1, 0.5))"),
            (ensemble(A, B), "ensemble(a, b)"),
            (ensemble(A, B, aggregate="mean-std"), "ensemble(a, b, aggregate='mean-std')"),
            (sum([A, B]), "0 + a + b"),
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
            (A <= 0.03, "a <= 0.03"),
            (A >= 1, "a >= 1"),
            (0.5 >= A, "a <= 0.5"),
            (0.5 <= A, "a >= 0.5"),
            (A + B <= -2, "a + b <= -2"),
            (A <= B, "a - b <= 0"),
            (A + 1 >= B, "a + 1 - b >= 0"),
        ],
    )
    def test_constraints(self, constraint, text):
        assert isinstance(constraint, Constraint)
        assert str(constraint) == text


class TestTree:
    def test_leaves_are_listed_once_in_order_of_appearance(self):
        expression = B + min_(A, B) * ensemble(C, A)
        assert [leaf.name for leaf in expression.leaves()] == ["b", "a", "c"]

    def test_walk_goes_parents_first(self):
        expression = (A + 1).calibrated()
        assert list(expression.walk()) == [expression, A + 1, A, Number(1.0)]

    def test_nodes_are_values(self):
        assert A + 0.5 * B == R("a") + 0.5 * R("b")
        assert hash(A + B) == hash(R("a") + R("b"))
        assert A + B != B + A

    def test_nodes_are_immutable(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            A.name = "b"

    def test_minus_is_a_product(self):
        assert -A == Binary("*", Number(-1.0), A)


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
        for build in (lambda: A + wrong, lambda: A * wrong, lambda: min_(A, wrong)):
            with pytest.raises(ExpressionError, match=message):
                build()

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, True, "0.3"])
    def test_a_threshold_is_a_finite_number(self, wrong):
        with pytest.raises(ExpressionError, match="takes finite numbers and rewards; got "):
            _ = A <= wrong

    def test_strict_inequalities_and_pythons_own_min(self):
        message = r"a constraint is written with <= or >=.*min_\(\) or max_\(\)"
        for build in (lambda: A < 0.3, lambda: A > 0.3, lambda: min(A, B), lambda: max(A, B)):
            with pytest.raises(ExpressionError, match=message):
                build()

    def test_a_chain_of_bounds_does_not_drop_one(self):
        # Python reads it as (0.2 <= a) and (a <= 0.8)
        with pytest.raises(ExpressionError, match="a >= 0.2 is a constraint, not true or false"):
            _ = 0.2 <= A <= 0.8

    @pytest.mark.parametrize(
        ("low", "high", "message"),
        [
            (1, 0, r"clip needs low < high; got 1 and 0 in clip\(a, 1, 0\)"),
            (1, 1, "clip needs low < high"),
            (0, math.inf, "finite numbers"),
            (math.nan, 1, "finite numbers"),
            (0, B, "clip takes an expression and two numbers"),
        ],
    )
    def test_clip(self, low, high, message):
        with pytest.raises(ExpressionError, match=message):
            A.clip(low, high)

    @pytest.mark.parametrize("members", [(), (A,), (A, A), (A, B, A), (A + 1, A + 1)])
    def test_an_ensemble_needs_different_members(self, members):
        message = "needs at least two members, all different; got ensemble"
        with pytest.raises(ExpressionError, match=message):
            ensemble(*members)

    def test_an_unknown_aggregate(self):
        with pytest.raises(ExpressionError, match="unknown `aggregate` 'means'.*nearest: 'mean'"):
            ensemble(A, B, aggregate="means")

    @pytest.mark.parametrize(("build", "name"), [(min_, "min"), (max_, "max")])
    def test_an_extreme_of_nothing(self, build, name):
        with pytest.raises(ExpressionError, match=rf"{name}\(\) needs at least one expression"):
            build()

    def test_powers_do_not_exist(self):
        with pytest.raises(TypeError):
            _ = A**2
