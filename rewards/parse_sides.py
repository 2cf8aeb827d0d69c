"""One side of a constraint as text: a statistic, a bound relative to the base, or an expression."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from rewards.bound import Baseline, baseline
from rewards.budgets import BudgetRange
from rewards.errors import ExpressionError
from rewards.expression import Expression
from rewards.statistic import Statistic, mean, quantile

Side = Expression | Statistic | Baseline | BudgetRange
STATISTICS = ("mean", "quantile")


def side(node: ast.expr, text: str, expression: Callable[[ast.expr, str], Expression]) -> Side:
    """Read `mean(e, where="c")`, `quantile(e, 0.95, where="c")`, `0.5 * baseline() + 1`,
    `budget(0.01, 0.2)`, or e.

    expression: how an expression is read. Raises ExpressionError with the offending part.
    """
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in STATISTICS:
            return _statistic(name, node, text, expression)
        case ast.Call(func=ast.Name(id="budget")):
            return _budget(node, text)
    if any(_is_baseline(part) for part in ast.walk(node)):
        found = _relative(node, text)
        if isinstance(found, Baseline):
            return found
    return expression(node, text)


def _statistic(
    name: str, node: ast.Call, text: str, expression: Callable[[ast.expr, str], Expression]
) -> Statistic:
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    wrong = [str(key) for key in named if key != "where"]
    wanted = 1 if name == "mean" else 2
    if wrong or len(node.args) != wanted:
        form = 'mean(expression, where="class")'
        if name == "quantile":
            form = 'quantile(expression, 0.95, where="class")'
        raise ExpressionError(f"{text!r}: write {form}; `where` may be left out")
    where = named.get("where")
    match where:
        case None | ast.Constant(value=str()):
            chosen = None if where is None else str(where.value)
        case _:
            raise ExpressionError(f'{text!r}: `where` is quoted, as in where="portrait"')
    inner = expression(node.args[0], text)
    if name == "mean":
        return mean(inner, where=chosen)
    match node.args[1]:
        case ast.Constant(value=int() | float() as level):
            return quantile(inner, level, where=chosen)
    raise ExpressionError(
        f"{text!r}: a quantile's level is a number between 0 and 1; got {ast.unparse(node.args[1])}"
    )


def _budget(node: ast.Call, text: str) -> BudgetRange:
    ends = [_literal(end) for end in node.args]
    match ends:
        case [int() | float() as low, int() | float() as high] if not node.keywords:
            return BudgetRange(low, high)
    raise ExpressionError(f"{text!r}: write budget(low, high) with two numbers")


def _literal(node: ast.expr) -> Any:
    """A number, also a negative one; None for what is no literal."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _is_baseline(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and (node.func.id == "baseline")
    )


def _relative(node: ast.expr, text: str) -> Any:
    """Arithmetic of baseline() and numbers: a Baseline or a float."""
    match node:
        case ast.Call(args=[], keywords=[]) if _is_baseline(node):
            return baseline()
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.UnaryOp(op=ast.USub()):
            return _relative(node.operand, text) * -1
        case ast.BinOp(op=ast.Add()):
            return _relative(node.left, text) + _relative(node.right, text)
        case ast.BinOp(op=ast.Sub()):
            return _relative(node.left, text) + _relative(node.right, text) * -1
        case ast.BinOp(op=ast.Mult()):
            left, right = _relative(node.left, text), _relative(node.right, text)
            if not (isinstance(left, Baseline) and isinstance(right, Baseline)):
                return left * right
        case ast.BinOp(op=ast.Div()):
            divisor = _relative(node.right, text)
            if isinstance(divisor, Baseline) or not divisor:
                raise ExpressionError(f"{text!r}: cannot divide by {ast.unparse(node.right)}")
            return _relative(node.left, text) * (1 / divisor)
    raise ExpressionError(
        f"{text!r}: baseline() is combined with numbers alone, as in baseline() + 0.5; got "
        f"{ast.unparse(node)!r}"
    )
