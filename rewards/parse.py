"""Text to expression and back: the grammar is what expressions print."""

from __future__ import annotations

import ast

from rewards.errors import ExpressionError, nearest
from rewards.expression import (
    Binary,
    Calibrated,
    Clip,
    Combine,
    Constraint,
    Ensemble,
    Expression,
    Leaf,
    Number,
    Operator,
)

_OPERATORS: dict[type[ast.operator], Operator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
CALLS = ("R", "min", "max", "clip", "calibrated", "ensemble")
MAX_CHARACTERS = 4000


def parse_expression(text: str) -> Expression:
    """Read an expression such as `0.5 * pickscore + min(a, b) - clip(c, 0, 1)`.

    A bare name or dotted path is a reward; other names go in R("path/to/file.py:f"). Nothing is
    evaluated: only names, numbers, + - * / and the calls in `CALLS` exist. Raises ExpressionError
    with the offending part.
    """
    return _node(_tree(text), text)


def parse_constraint(text: str) -> Constraint:
    """Read `expression <= number` or `expression >= number`."""
    node = _tree(text)
    if not (
        isinstance(node, ast.Compare)
        and len(node.ops) == 1
        and isinstance(node.ops[0], ast.LtE | ast.GtE)
    ):
        raise ExpressionError(
            f"{text!r} is no constraint; write it as `expression <= number` or `>= number`"
        )
    threshold = _node(node.comparators[0], text)
    negative = isinstance(threshold, Binary) and isinstance(threshold.right, Number)
    if negative and isinstance(threshold, Binary) and threshold.left == Number(-1.0):
        threshold = Number(-threshold.right.value)  # type: ignore[attr-defined]
    if not isinstance(threshold, Number):
        raise ExpressionError(f"{text!r}: the right side of a constraint must be a number")
    sense = "<=" if isinstance(node.ops[0], ast.LtE) else ">="
    return Constraint(_node(node.left, text), sense, threshold.value)  # type: ignore[arg-type]


def _tree(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"an expression has at most {MAX_CHARACTERS} characters; got {len(text)}"
        )
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is no expression: {error}") from error


def _node(node: ast.expr, text: str) -> Expression:
    if isinstance(node, ast.Constant):
        return _number(node, text)
    if isinstance(node, ast.Name | ast.Attribute):
        return Leaf(_dotted(node, text))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _node(node.operand, text)
        if isinstance(inner, Number):
            return Number(-inner.value)
        return Binary("*", Number(-1.0), inner)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return Binary(
            _OPERATORS[type(node.op)], _node(node.left, text), _node(node.right, text)
        )
    if isinstance(node, ast.Call):
        return _call(node, text)
    raise ExpressionError(
        f"{text!r}: {ast.unparse(node)!r} is not part of an expression; it takes rewards, numbers, "
        f"+ - * / and {', '.join(CALLS)}"
    )


def _call(node: ast.Call, text: str) -> Expression:
    name = _dotted(node.func, text)
    if name not in CALLS:
        raise ExpressionError(f"{text!r}: unknown call {name!r}; {nearest(name, CALLS)}")
    if name == "R":
        if len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
            return Leaf(str(node.args[0].value))
        raise ExpressionError(f'{text!r}: R() takes one quoted name, as in R("path/to/file.py:f")')
    parts = [_node(argument, text) for argument in node.args]
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if named and not (name == "ensemble" and set(named) == {"aggregate"}):
        raise ExpressionError(f"{text!r}: {name}() takes no {', '.join(map(str, named))}=")
    if name == "ensemble":
        aggregate = named.get("aggregate")
        how = str(aggregate.value) if isinstance(aggregate, ast.Constant) else "mean"
        return Ensemble(tuple(parts), how)
    if name == "clip":
        if len(parts) == 3 and isinstance(parts[1], Number) and isinstance(parts[2], Number):
            return Clip(parts[0], parts[1].value, parts[2].value)
        raise ExpressionError(f"{text!r}: clip() takes an expression and two numbers")
    if name == "calibrated":
        if len(parts) == 1:
            return Calibrated(parts[0])
        raise ExpressionError(f"{text!r}: calibrated() takes one expression")
    if not parts:
        raise ExpressionError(f"{text!r}: {name}() needs at least one expression")
    return Combine("min" if name == "min" else "max", tuple(parts))


def _number(node: ast.Constant, text: str) -> Number:
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return Number(float(node.value))
    raise ExpressionError(f"{text!r}: {node.value!r} is not a number; a reward's name has no quotes")


def _dotted(node: ast.expr, text: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, text)}.{node.attr}"
    raise ExpressionError(f"{text!r}: {ast.unparse(node)!r} is no name")
