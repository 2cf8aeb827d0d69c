"""Where the gradient of an expression ends. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from rewards.errors import UnknownRewardError
from rewards.expression import Expression, Leaf
from rewards.selection import Rank, Where
from rewards.user_functions import Apply


def undifferentiable(expression: Expression) -> list[Expression]:
    """Rewards and nodes that end a gradient on its way to the images.

    A condition of `where` passes none by definition and breaks nothing; an expression of which all
    rewards stand in conditions has no gradient at all, and is named itself. What is unknown is left
    to `problems`.
    """
    reached = list(_reached(expression))
    if expression.leaves() and not any(isinstance(node, Leaf) or _ends(node) for node in reached):
        return [expression]
    return [node for node in reached if _ends(node)]


def _reached(node: Expression) -> Iterator[Expression]:
    """Nodes that the gradient comes to, on each way up to the first that ends it."""
    yield node
    if _ends(node):
        return
    for child in (node.yes, node.no) if isinstance(node, Where) else node.children:
        yield from _reached(child)


def _ends(node: Expression) -> bool:
    try:
        match node:
            case Rank():
                return True
            case Leaf():
                return not node.facts.differentiable
            case Apply():
                return not node.function.differentiable
    except UnknownRewardError:
        pass
    return False
