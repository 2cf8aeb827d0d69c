"""Text to expression: the grammar is what expressions print."""

from __future__ import annotations

import ast
import math
import re

from rewards.bound import Baseline, Sense
from rewards.budgets import BudgetRange
from rewards.errors import ExpressionError, nearest
from rewards.expression import (
    CALLS,
    METHODS,
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
    compare,
)
from rewards.parse_sides import side
from rewards.selection import Rank, Where
from rewards.statistic import Statistic
from rewards.user_code import is_path
from rewards.user_functions import Apply, declared_functions

_OPERATORS: dict[type[ast.operator], Operator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
MAX_CHARACTERS = 4000
# Every walk over a tree is recursive; this keeps the deepest far from Python's limit of 1000.
MAX_DEPTH = 100
# Quoted text stays as it is; a bare path/to/file.py:function elsewhere is one name.
_FILE_PATH = re.compile(
    r""""[^"]*"|'[^']*'|(?<![^\s(,*+-])[^\s(),'"*+-][^\s(),'"*+]*\.py:[A-Za-z_]\w*"""
)


def parse_expression(text: str) -> Expression:
    """Read an expression such as `0.5 * pickscore + min(a, b) - clip(c, 0, 1)`.

    A bare name, dotted path or path/to/file.py:function is a reward; any other name goes in
    R("..."). `clip` and `calibrated` may also be written as methods, as in Python. Nothing is
    evaluated: only names, numbers, + - * /, the calls in `CALLS` and functions that a user declared
    exist. Raises ExpressionError with the offending part.
    """
    node = _tree(text)
    if isinstance(node, ast.Compare):
        raise ExpressionError(f"{text!r} is a constraint; here an expression is expected")
    return _node(node, text)


def parse_constraint(text: str) -> Constraint:
    """Read `expression <= bound` or `expression >= bound`, or the same with the sides exchanged.

    Instead of an expression stands `mean(e, where="class")` or `quantile(e, 0.95)`, and instead of
    a number `baseline() + 0.5` or `budget(0.01, 0.2)`.
    """
    return _comparison(_tree(text), text)


def _comparison(node: ast.expr, text: str) -> Constraint:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise _no_constraint(text)
    at_most = isinstance(node.ops[0], ast.LtE)
    if not at_most and not isinstance(node.ops[0], ast.GtE):
        raise _no_constraint(text)
    left, right = (side(part, text, _node) for part in (node.left, node.comparators[0]))
    if isinstance(left, Number | Baseline | BudgetRange):
        left, right, at_most = right, left, not at_most
    sense: Sense = "<=" if at_most else ">="
    if isinstance(left, Baseline | BudgetRange) or isinstance(right, Statistic):
        raise _no_constraint(text)
    if isinstance(left, Statistic):
        return left.bounded(sense, right)
    return compare(left, sense, right)


def _no_constraint(text: str) -> ExpressionError:
    return ExpressionError(
        f"{text!r} is no constraint; write it as `expression <= number` or `expression >= number`"
    )


def _tree(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"an expression has at most {MAX_CHARACTERS} characters; got {len(text)}"
        )
    python = _FILE_PATH.sub(_as_call, text.strip())
    try:
        tree = ast.parse(python, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ExpressionError(f"{text!r} is no expression: {reason}") from error
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise ExpressionError(
            f"an expression nests at most {MAX_DEPTH} levels deep; {text[:40]!r}... goes deeper"
        )
    return tree


def _as_call(found: re.Match[str]) -> str:
    quoted = found[0].startswith(("'", '"'))
    return found[0] if quoted else f"R({found[0]!r})"


def _node(node: ast.expr, text: str) -> Expression:
    match node:
        case ast.Constant():
            return _number(node, text)
        case ast.Name() | ast.Attribute():
            return Leaf(_dotted(node, text))
        case ast.UnaryOp(op=ast.USub()):
            inner = _node(node.operand, text)
            return Number(-inner.value) if isinstance(inner, Number) else -inner
        case ast.BinOp() if type(node.op) in _OPERATORS:
            operator = _OPERATORS[type(node.op)]
            return Binary(operator, _node(node.left, text), _node(node.right, text))
        case ast.Call():
            return _call(node, text)
    raise ExpressionError(
        f"{text!r}: {ast.unparse(node)!r} is not part of an expression; it takes rewards, numbers, "
        f"+ - * / and {', '.join(CALLS)}"
    )


def _call(node: ast.Call, text: str) -> Expression:
    function, arguments = node.func, node.args
    if _is_quoted_name(function):
        return _applied(_node(function, text).leaves()[0].name, node, text)
    if isinstance(function, ast.Attribute) and function.attr in METHODS:
        name, arguments = function.attr, [function.value, *arguments]
    else:
        name = _dotted(function, text)
        name = {"min_": "min", "max_": "max"}.get(name, name)
    if name not in CALLS:
        return _applied(name, node, text)
    named = [keyword.arg or "**" for keyword in node.keywords]
    if named and not (name == "ensemble" and named == ["aggregate"]):
        raise ExpressionError(f"{text!r}: {name}() takes no {', '.join(named)}")
    if name == "R":
        return Leaf(_quoted(arguments, 'R() takes one quoted name, as in R("file.py:f")', text))
    if name == "where":
        return _where(arguments, text)
    parts = tuple(_node(argument, text) for argument in arguments)
    counts = {"clip": 3, "calibrated": 1, "rank": 1}
    if name in counts and len(parts) != counts[name]:
        raise ExpressionError(
            f"{text!r}: {name}() takes {counts[name]} arguments; got {len(parts)}"
        )
    match name:
        case "clip":
            return Clip(*parts)
        case "calibrated":
            return Calibrated(*parts)
        case "rank":
            return Rank(*parts)
        case "ensemble" if named:
            rule = '`aggregate` is quoted, as in aggregate="min"'
            how = _quoted([node.keywords[0].value], rule, text)
            return Ensemble(parts, how)  # type: ignore[arg-type] # checked by Ensemble
        case "ensemble":
            return Ensemble(parts)
    return Combine("min" if name == "min" else "max", parts)


def _applied(name: str, node: ast.Call, text: str) -> Apply:
    """Read a call of a user's function; a path is looked up later, with all other problems."""
    known = declared_functions()
    if not node.args or not (name in known or is_path(name)):
        hint = nearest(name, (*CALLS, *known))
        raise ExpressionError(f"{text!r}: unknown call {name!r}; {hint}")
    if node.keywords:
        raise ExpressionError(f"{text!r}: {name}() takes expressions by position")
    return Apply(name, tuple(_node(argument, text) for argument in node.args))


def _is_quoted_name(node: ast.expr) -> bool:
    """Whether this is R("..."), which may also name a function that is called."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "R"


def _where(arguments: list[ast.expr], text: str) -> Where:
    match arguments:
        case [ast.Compare() as condition, yes, no]:
            found = _comparison(condition, text)
            branches = _node(yes, text), _node(no, text)
            return Where.of(found, *branches)
    raise ExpressionError(
        f"{text!r}: where() takes a comparison and two expressions, as in where(a <= 0.5, b, c)"
    )


def _quoted(nodes: list[ast.expr], rule: str, text: str) -> str:
    match nodes:
        case [ast.Constant(value=str() as value)] if value:
            return value
    raise ExpressionError(f"{text!r}: {rule}")


def _number(node: ast.Constant, text: str) -> Number:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise ExpressionError(
            f"{text!r}: {node.value!r} is not a number; a quoted name goes in R(...)"
        )
    try:
        value = float(node.value)
    except OverflowError:  # an integer of hundreds of digits
        value = math.inf
    if not math.isfinite(value):
        raise ExpressionError(f"{text!r}: {ast.unparse(node)[:40]} is too large for a number")
    return Number(value)


def _dotted(node: ast.expr, text: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, text)}.{node.attr}"
    raise ExpressionError(f"{text!r}: {ast.unparse(node)!r} is no name")
