"""What makes an objective meaningless, said before anything loads. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rewards.errors import UnknownRewardError, nearest
from rewards.expression import Binary, Constraint, Ensemble, Expression, Leaf
from rewards.ranges import Direction, bounds, directions
from rewards.routing import rule_problem
from rewards.scalarization_facts import scalarization_problems
from rewards.selection import Where
from rewards.user_functions import Apply

if TYPE_CHECKING:
    from rewards.objective import Objective

# Names stand in `aesthetic=0.7,alignment=0.3` and in `aesthetic:alignment:7`.
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def maximized_problems(maximized: Sequence[tuple[str, Expression]]) -> Iterator[str]:
    """Unknown rewards, wrong directions, bad names."""
    if not maximized:
        yield "maximize: names no objective; write at least one, name: reward expression"
    names = [name for name, _ in maximized]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"maximize: {name} is defined twice"
    for name, expression in maximized:
        if not _NAME.fullmatch(name):
            yield f"maximize: a name is letters, digits, '_', '.' and '-'; got {name!r}"
        for problem in (*_expression_problems(expression, 1), *_wrong_directions(expression)):
            yield f"maximize.{name}: {problem}"


def constraint_problems(constraints: Sequence[Constraint]) -> Iterator[str]:
    """Unknown rewards, thresholds that are out of range, bounds that contradict each other."""
    limits: dict[tuple[str, float], tuple[float, float]] = {}
    for position, constraint in enumerate(constraints):
        where = f"subject_to[{position}]"
        expression, sense, threshold = (
            constraint.expression,
            constraint.sense,
            constraint.threshold,
        )
        for problem in _expression_problems(expression, -1 if sense == "<=" else 1):
            yield f"{where}: {problem}"
        yield from (f"{where}: {problem}" for problem in _statistic_problems(constraint))
        # A bound relative to the base model is known once that is measured.
        low, high = bounds(expression) if not constraint.baseline else (-math.inf, math.inf)
        ends = (threshold,) if constraint.loosest is None else (threshold, constraint.loosest)
        if not all(map(math.isfinite, ends)):
            yield f"{where}: the threshold of {constraint.measured} must be finite; got {threshold}"
        elif not all(low <= end <= high for end in ends):
            yield (
                f"{where}: {constraint}: the threshold must lie in the range of {expression}, "
                f"{low:g} .. {high:g}"
            )
        earlier = constraints[:position]
        if constraint in earlier:
            yield f"{where}: {constraint} is written twice"
        elif len(ends) > 1 and any(c.budget and c.measured == constraint.measured for c in earlier):
            yield f"{where}: {constraint.measured} has a budget already, and one slides at a time"
        key = (constraint.measured, constraint.baseline)
        least, most = limits.get(key, (-math.inf, math.inf))
        least, most = (
            (least, min(most, threshold)) if sense == "<=" else (max(least, threshold), most)
        )
        limits[key] = least, most
        if least > most:
            floor, ceiling = (
                replace(constraint, threshold=end, loosest=None).bound for end in (least, most)
            )
            yield f"{where}: {constraint.measured} cannot be both >= {floor} and <= {ceiling}"


def _statistic_problems(constraint: Constraint) -> Iterator[str]:
    level = constraint.quantile
    if level is not None and not 0 < level < 1:
        yield f"{constraint}: a quantile's level lies strictly between 0 and 1"
    if constraint.where is not None and not constraint.where.strip():
        yield f"{constraint}: `where` names a class of prompts; got {constraint.where!r}"


def objective_problems(objective: Objective) -> Iterator[str]:
    """What concerns the objective as a whole."""
    for problem in scalarization_problems(objective.scalarization, objective.params):
        yield f"scalarization: {problem}"
    if objective.on not in ("mean", "sample"):
        yield f"on: must be 'mean' or 'sample'; got {objective.on!r}"
    yield from _pessimism_problems(objective)
    for name, rule in objective.applies.items():
        if name not in objective.names:
            yield f"applies.{name}: no such objective; {nearest(name, objective.names)}"
        if broken := rule_problem(rule):
            yield f"applies.{name}: {broken}"
    targets: dict[str, object] = {}
    for node in _named(objective.expressions):
        known = targets.setdefault(node.name, node.target)
        if known is not node.target:
            kind = "rewards" if isinstance(node, Leaf) else "functions"
            yield f"two different {kind} are named {node.name!r}"


def _pessimism_problems(objective: Objective) -> Iterator[str]:
    pessimism = objective.pessimism
    is_number = isinstance(pessimism, int | float) and not isinstance(pessimism, bool)
    if not is_number or not math.isfinite(pessimism) or pessimism < 0:
        yield f"pessimism: must be a finite number of at least 0; got {pessimism!r}"
        return
    if not pessimism:
        return
    for node in (node for tree in objective.expressions for node in tree.walk()):
        if isinstance(node, Ensemble) and node.aggregate != "mean":
            yield (
                f"pessimism: {node} is pessimistic itself, and would count its disagreement "
                'twice; write aggregate="mean" there, or pessimism 0'
            )
    for leaf in dict.fromkeys(leaf for tree in objective.expressions for leaf in _alone(tree)):
        yield (
            f"pessimism: {leaf} states no uncertainty, and would be protected from nothing; train "
            "it with `uncertainty`, put it into an ensemble(...), or write pessimism 0"
        )


def _alone(node: Expression) -> Iterator[Leaf]:
    """Rewards that declare to state no uncertainty, and that no ensemble holds to another."""
    if isinstance(node, Leaf):
        try:
            silent = node.facts.uncertainty is False
        except UnknownRewardError:
            return
        if silent:
            yield node
    elif not isinstance(node, Ensemble):
        for child in node.children:
            yield from _alone(child)


def _named(expressions: Iterable[Expression]) -> Iterator[Leaf | Apply]:
    for tree in expressions:
        for node in tree.walk():
            if isinstance(node, Leaf | Apply):
                yield node


def _expression_problems(expression: Expression, role: Direction) -> Iterator[str]:
    """Problems of one expression that should be large (role 1) or small (-1)."""
    leaves = expression.leaves()
    if not leaves:
        yield f"{expression} reads no reward"
    for leaf in leaves:
        try:
            _ = leaf.facts
        except UnknownRewardError as error:
            yield str(error)
    low, high = bounds(expression)
    if leaves and low == high:
        yield f"{expression} is {low:g} whatever the images: it would teach nothing"
    for node, direction in directions(expression, role):
        if isinstance(node, Apply):
            yield from _call_problems(node)
        if isinstance(node, Where):
            yield from _condition_problems(node)
        if isinstance(node, Binary) and node.operator == "/":
            low, high = bounds(node.right)
            if low <= 0 <= high:
                yield (
                    f"{node} may divide by zero: {node.right} ranges over {low:g} .. {high:g}; "
                    "bound it away from 0 with clip(..., low, high)"
                )
        if isinstance(node, Ensemble) and node.aggregate != "mean" and not direction:
            yield (
                f"{node} is pessimistic, but in {expression} it is unclear which way that is; "
                'write aggregate="mean" there'
            )


def _call_problems(node: Apply) -> Iterator[str]:
    try:
        mismatch = node.function.mismatch(len(node.parts))
    except UnknownRewardError as error:
        yield str(error)
        return
    if mismatch:
        yield f"{node}: the function takes other arguments: {mismatch}"


def _condition_problems(node: Where) -> Iterator[str]:
    low, high = bounds(node.tested)
    at_most = node.sense == "<="
    always = high <= node.threshold if at_most else low >= node.threshold
    never = low > node.threshold if at_most else high < node.threshold
    if always or never:
        yield (
            f"{node}: its condition {'always' if always else 'never'} holds, since {node.tested} "
            f"ranges over {low:g} .. {high:g}"
        )


def _wrong_directions(expression: Expression) -> Iterator[str]:
    """A lower-is-better reward must count negatively in what is maximised.

    In a condition it is compared, not maximised.
    """
    for leaf, direction in directions(expression, conditions=False):
        if not isinstance(leaf, Leaf):
            continue
        try:
            facts = leaf.facts
        except UnknownRewardError:
            continue
        if facts.higher_is_better or direction == -1:
            continue
        if direction == 0:
            yield (
                f"{leaf} is lower-is-better, and in {expression} it may count either way; bound "
                "its factor with clip(..., low, high), or declare `monotone` of the function that "
                "it stands in"
            )
        else:
            negated = f"-R({leaf.name!r}), in YAML -{leaf}"
            yield f"{leaf} is lower-is-better and would be maximised; write {negated}"
