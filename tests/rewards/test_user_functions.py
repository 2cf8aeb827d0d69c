"""Functions of a user's own inside expressions."""

from __future__ import annotations

import math

import pytest
import torch

from rewards import R, maximize, pointwise
from rewards.errors import ExpressionError, RewardFault
from rewards.panel import RewardTable
from rewards.parse import parse_expression
from rewards.ranges import bounds
from rewards.reward import ImageBatch
from rewards.semantics import value_of
from rewards.user_functions import function_of

A, B = R("a"), R("b")
TABLE = RewardTable(
    torch.tensor([[0.25, 1.0], [0.5, 2.0]]),
    torch.ones(2, 2, dtype=torch.bool),
    torch.tensor([[0.0, 0.0], [0.1, 0.2]]),
    ("a", "b"),
)


@pointwise(name="tested_root", differentiable=True, low=0.0, high=10.0, monotone=1)
def root(x):
    """Square root."""
    return x.sqrt()


@pointwise(differentiable=True, low=0.0, high=1.0)
def soft_or(x, y):
    return 1 - (1 - x) * (1 - y)


@pointwise(name="tested_step", low=0.0, high=1.0, monotone=1)
def step(x):
    return (x > 0.4).float()


def declared(function, **facts):
    return pointwise(**facts)(function)


class TestText:
    def test_a_name(self):
        expression = 2 * root(A + B) - 1
        assert str(expression) == "2 * tested_root(a + b) - 1"
        assert parse_expression(str(expression)) == expression

    def test_a_path(self):
        expression = soft_or(A, 0.5)
        assert str(expression).endswith(".soft_or(a, 0.5)")
        assert parse_expression(str(expression)) == expression

    @pytest.mark.parametrize(
        "text", ["path/to/file.py:f(a, b)", "R('path/to/file.py:f')(a, b)", "R('my.clip')(a, 0, 1)"]
    )
    def test_other_names_are_quoted(self, text):
        expression = parse_expression(text)
        assert expression.leaves()[0] == A
        assert str(expression).startswith("R('")
        assert parse_expression(str(expression)) == expression

    def test_a_file(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text(
            "from rewards import pointwise\n"
            "@pointwise(differentiable=True, low=0.0)\n"
            "def square(x):\n"
            "    return x * x\n"
        )
        expression = parse_expression(f"R('{file}:square')(b)")
        assert value_of(expression, TABLE, {}).values.tolist() == [1.0, 4.0]
        assert bounds(expression) == (0.0, math.inf)

    def test_tensors_are_computed(self):
        assert root(torch.tensor([4.0])).tolist() == [2.0]
        assert root.__doc__ == "Square root."


class TestValues:
    def test_value_gradient_and_disagreement(self):
        values = TABLE.values.clone().requires_grad_()
        raw = RewardTable(values, TABLE.valid, TABLE.std, TABLE.names)
        found = value_of(root(A), raw, {})
        assert found.values.tolist() == pytest.approx([0.5, math.sqrt(0.5)])
        # (sqrt 0.6 - sqrt 0.4) / 2 where the std is 0.1, 0 where it is 0
        expected = (math.sqrt(0.6) - math.sqrt(0.4)) / 2
        assert found.disagreement.tolist() == pytest.approx([0.0, expected])
        found.values.sum().backward()
        # d sqrt x / dx = 1 / (2 sqrt x)
        assert values.grad[:, 0].tolist() == pytest.approx([1.0, 1 / math.sqrt(2)])

    def test_a_function_without_gradient_passes_none(self):
        values = TABLE.values.clone().requires_grad_()
        raw = RewardTable(values, TABLE.valid, TABLE.std, TABLE.names)
        found = value_of(step(A), raw, {})
        assert found.values.tolist() == [0.0, 1.0]
        assert not found.values.requires_grad

    def test_what_does_not_apply_is_not_asked(self):
        values = torch.tensor([[0.25], [0.0]], requires_grad=True)
        raw = RewardTable(values, torch.tensor([[True], [False]]), torch.zeros(2, 1), ("a",))
        found = value_of(root(A), raw, {})
        assert found.values.tolist() == [0.5, 0.0]
        found.values.sum().backward()
        assert values.grad.tolist() == [[1.0], [0.0]]  # at 0 a root has no finite slope

    def test_every_reward_still_runs_once(self):
        objective = maximize(look=soft_or(R("saturation"), R("contrast")) + R("contrast"))
        table = objective.bind()(ImageBatch(torch.rand(2, 3, 8, 8), ["x", "y"]))
        x, y = table.raw.column("saturation").values, table.raw.column("contrast").values
        torch.testing.assert_close(table.rewards[:, 0], 1 - (1 - x) * (1 - y) + y)


@pytest.mark.usefixtures("unchecked")
class TestFaults:
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda x: x.log() * math.inf, r"\(a\) is -inf at \(0.25\)"),
            (lambda x: x.mean(), r"must return a tensor of shape \[2\]; got \[\]"),
            (lambda x: x.tolist(), r"must return a tensor of shape \[2\]; got list"),
            (lambda x: x @ torch.zeros(9), r"\(a\) raised RuntimeError"),
        ],
    )
    def test_what_it_returns(self, function, message):
        with pytest.raises(RewardFault, match=message):
            value_of(declared(function)(A), TABLE, {})

    def test_a_gradient_that_is_not_there(self):
        values = TABLE.values.clone().requires_grad_()
        raw = RewardTable(values, TABLE.valid, TABLE.std, TABLE.names)
        cut = declared(lambda x: x.detach(), differentiable=True)
        with pytest.raises(RewardFault, match="declares differentiable=True, but its values carry"):
            value_of(cut(A), raw, {})


class TestRefusals:
    def test_differentiability_is_by_declaration(self):
        assert maximize(look=root(R("contrast"))).undifferentiable() == []
        blind = maximize(look=step(R("contrast"))).undifferentiable()
        assert blind == ["tested_step(contrast)"]

    def test_a_lower_is_better_reward_needs_a_declared_direction(self):
        maximize(safe=-root(R("shapes_unsafe")))
        with pytest.raises(ExpressionError, match="would be maximised; write -R"):
            maximize(safe=root(R("shapes_unsafe")))
        with pytest.raises(ExpressionError, match=r"may count either way.*declare `monotone`"):
            maximize(safe=-soft_or(R("shapes_unsafe"), R("contrast")))

    def test_a_quotient_of_a_bounded_function(self):
        maximize(look=R("contrast") / (1 + root(R("contrast"))))
        with pytest.raises(ExpressionError, match="may divide by zero: tested_root"):
            maximize(look=R("contrast") / root(R("contrast")))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("tested_rot(a)", "unknown call 'tested_rot'; nearest: 'tested_root'"),
            ("tested_root()", "unknown call 'tested_root'"),
            ("tested_root(x=a)", "unknown call"),
            ("tested_root(a, x=b)", r"tested_root\(\) takes expressions by position"),
        ],
    )
    def test_text(self, text, message):
        with pytest.raises(ExpressionError, match=message):
            parse_expression(text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("no_module_here.f(contrast)", "there is no module 'no_module_here'"),
            ("math.sqrt(contrast)", "'math.sqrt' is a builtin.*put @rewards.pointwise"),
            ("tested_root(contrast, 2)", "takes other arguments: too many positional arguments"),
        ],
    )
    def test_found_before_anything_loads(self, text, message):
        with pytest.raises(ExpressionError, match=f"maximize.look: .*{message}"):
            maximize(look=parse_expression(text))

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"low": 1.0, "high": 0.0}, "`low` must be below `high`; got 1 and 0"),
            ({"monotone": 2}, "`monotone` must be -1, 0 or 1; got 2"),
            ({"name": "a b"}, "`name` must be one word"),
            ({"name": "rank"}, "a function named 'rank' exists already"),
            ({"name": "tested_root"}, "a function named 'tested_root' exists already"),
        ],
    )
    @pytest.mark.usefixtures("unchecked")
    def test_declarations(self, facts, message):
        with pytest.raises(ValueError, match=message):
            declared(lambda x: x, **facts)

    def test_the_same_function_again_is_a_notebook_cell(self):
        again = pointwise(name="tested_root")(root.function)
        assert function_of("tested_root") is again
        pointwise(name="tested_root", differentiable=True, low=0.0, high=10.0, monotone=1)(
            root.function
        )

    def test_two_functions_of_one_name(self):
        first, second = declared(lambda x: x), declared(lambda x: 2 * x)
        both = first(R("contrast")) + second(R("contrast"))
        with pytest.raises(ExpressionError, match="two different functions are named"):
            maximize(look=both)
