"""The words that a composite reward is written with. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewards.errors import ExpressionError
from rewards.expression import Aggregate, Combine, Constraint, Ensemble, Expression, Leaf, number
from rewards.registry import UserReward
from rewards.selection import Rank, Where

if TYPE_CHECKING:
    from rewards.reward import Reward


def R(reward: str | UserReward | Reward) -> Leaf:
    """Refer to a raw reward: its name, a path, a function under @rewards.register, or a Reward."""
    if isinstance(reward, str):
        if reward.strip():
            return Leaf(reward.strip())
    elif isinstance(reward, UserReward):
        return Leaf(reward.facts.name, reward)
    else:
        from rewards.reward import Reward

        if isinstance(reward, Reward):
            return Leaf(reward.name, reward)
    raise ExpressionError(
        "R() takes a reward's name, a Reward, or a function under @rewards.register; got "
        f"{reward!r}"
    )


def min_(*parts: Expression | float) -> Expression:
    """The smallest of several expressions, sample by sample."""
    return Combine("min", tuple(map(number, parts)))


def max_(*parts: Expression | float) -> Expression:
    """The largest of several expressions, sample by sample."""
    return Combine("max", tuple(map(number, parts)))


def ensemble(*members: Expression, aggregate: Aggregate = "mean") -> Expression:
    """Several measures of one thing, as z-scores on base images; see rewards/members.py."""
    return Ensemble(tuple(map(number, members)), aggregate)


def where(condition: Constraint, yes: Expression | float, no: Expression | float) -> Expression:
    """`yes` where a comparison such as R("a") <= 0.5 holds, `no` elsewhere, sample by sample."""
    if not isinstance(condition, Constraint):
        raise ExpressionError(
            f'where() takes a comparison such as R("a") <= 0.5 first; got {condition!r}'
        )
    return Where.of(condition, number(yes), number(no))


def rank(part: Expression) -> Expression:
    """Share of the other samples of its prompt group that a sample beats; it has no gradient."""
    return Rank(number(part))
