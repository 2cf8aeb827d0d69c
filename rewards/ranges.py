"""What declared ranges say about an expression: its bounds, and which way each part moves it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from rewards.errors import UnknownRewardError
from rewards.expression import (
    Binary,
    Calibrated,
    Clip,
    Combine,
    Ensemble,
    Expression,
    Leaf,
    Number,
)
from rewards.selection import Rank, Where
from rewards.user_functions import Apply

Interval = tuple[float, float]
Direction = Literal[-1, 0, 1]
EVERYTHING: Interval = (-math.inf, math.inf)


def bounds(node: Expression) -> Interval:
    """Interval arithmetic over the declared ranges of the rewards.

    The value lies in the interval whatever the images; an unknown reward may take any value, and
    so may a quotient whose denominator may be 0.
    """
    match node:
        case Number(value):
            return value, value
        case Leaf():
            try:
                return node.facts.low, node.facts.high
            except UnknownRewardError:
                return EVERYTHING
        case Binary(operator, left, right):
            return _arithmetic(operator, bounds(left), bounds(right))
        case Clip(part):
            (low, high), (least, most) = bounds(part), node.bounds
            return min(max(low, least), most), min(max(high, least), most)
        case Combine(how, parts):
            extreme = min if how == "min" else max
            lows, highs = zip(*map(bounds, parts), strict=True)
            return extreme(lows), extreme(highs)
        case Ensemble(members):
            # The value is in the members' mean units.
            lows, highs = zip(*map(bounds, members), strict=True)
            return sum(lows) / len(lows), sum(highs) / len(highs)
        case Calibrated():
            return EVERYTHING
        case Where(yes=yes, no=no):
            (low, high), (least, most) = bounds(yes), bounds(no)
            return min(low, least), max(high, most)
        case Rank():
            return 0.0, 1.0
        case Apply():
            try:
                return node.function.low, node.function.high
            except UnknownRewardError:
                return EVERYTHING
    raise TypeError(f"no rule bounds a {type(node).__name__}")


def child_directions(node: Expression) -> tuple[Direction, ...]:
    """Whether the node grows (1) or shrinks (-1) with each child; 0 where that may change."""
    match node:
        case Binary("-"):
            return 1, -1
        case Binary("*", left, right):
            return _sign(bounds(right)), _sign(bounds(left))
        case Binary("/", left, right):
            # d(a/b)/db = -a/b^2
            return _sign(bounds(right)), chained(-1, _sign(bounds(left)))
        case Where():
            return 0, 1, 1
        case Apply(parts=parts):
            try:
                return (node.function.monotone,) * len(parts)
            except UnknownRewardError:
                return tuple(0 for _ in parts)
    return tuple(1 for _ in node.children)


def directions(
    node: Expression, direction: Direction = 1, *, conditions: bool = True
) -> Iterator[tuple[Expression, Direction]]:
    """Every node below with the way in which it moves the whole, parents first.

    `conditions`: also what the conditions of `where` read, which may move it either way.
    """
    yield node, direction
    pairs = list(zip(node.children, child_directions(node), strict=True))
    if isinstance(node, Where) and not conditions:
        pairs = pairs[1:]
    for child, own in pairs:
        yield from directions(child, chained(direction, own), conditions=conditions)


def chained(outer: Direction, inner: Direction) -> Direction:
    """The direction of a function of a function: the product of signs, as in the chain rule."""
    return 0 if not outer or not inner else 1 if outer == inner else -1


def _sign(interval: Interval) -> Direction:
    low, high = interval
    return 1 if low >= 0 else -1 if high <= 0 else 0


def _arithmetic(operator: str, a: Interval, b: Interval) -> Interval:
    if operator == "+":
        return a[0] + b[0], a[1] + b[1]
    if operator == "-":
        return a[0] - b[1], a[1] - b[0]
    if operator == "/":
        if b[0] <= 0 <= b[1]:
            return EVERYTHING
        b = (1 / b[1], 1 / b[0])
    # Interval arithmetic takes 0 x infinity as 0: the factor is 0, not close to it.
    corners = [x * y if x and y else 0.0 for x in a for y in b]
    return min(corners), max(corners)
