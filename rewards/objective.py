"""What to do with rewards: maximise some, hold others to a bound, trade off by a weight vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rewards.errors import ExpressionError, RewardError, nearest
from rewards.expression import Binary, Constraint, Expression, Leaf, Number
from rewards.facts import RewardFacts
from rewards.parse import parse_constraint, parse_expression
from rewards.registry import facts_of

if TYPE_CHECKING:
    from rewards.evaluate import BoundObjective

On = Literal["mean", "sample"]
SCALARIZATIONS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "chebyshev": ("ideal", "rho"),
    "smooth_chebyshev": ("ideal", "mu"),
}


@dataclass(frozen=True)
class Objective:
    """Named expressions to maximise, constraints, and the scalarisation that a weight vector picks.

    `on`: scalarise the expected reward vector ("mean", what a front is) or every sample's
    ("sample"); they differ for anything but linear. `pessimism` >= 0: how many standard deviations
    of an ensemble are taken from what is maximised and added to what is bounded from above.
    Immutable: every method returns a new objective.
    """

    maximized: tuple[tuple[str, Expression], ...]
    constraints: tuple[Constraint, ...] = ()
    scalarization: str = "linear"
    params: Mapping[str, float] | None = None
    on: On = "mean"
    pessimism: float = 0.0

    def subject_to(self, *constraints: Constraint) -> Objective:
        """Add constraints on raw means, such as `R("unsafe") <= 0.03`."""
        for constraint in constraints:
            if not isinstance(constraint, Constraint):
                raise ExpressionError(
                    f'a constraint reads R("name") <= number; got {constraint!r}'
                )
        return replace(self, constraints=(*self.constraints, *constraints))

    def scalarize(self, name: str, *, on: On = "mean", **params: float) -> Objective:
        """Choose the scalarisation; its parameters are checked by `problems`."""
        return replace(self, scalarization=name, on=on, params=params)

    def pessimistic(self, pessimism: float) -> Objective:
        """Optimise the mean minus `pessimism` times the members' disagreement."""
        return replace(self, pessimism=pessimism)

    @property
    def names(self) -> tuple[str, ...]:
        """Objectives in the order of the weight vector."""
        return tuple(name for name, _ in self.maximized)

    @property
    def constraint_names(self) -> tuple[str, ...]:
        return tuple(constraint.name for constraint in self.constraints)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All expressions: the maximised ones, then those of the constraints."""
        return (*(e for _, e in self.maximized), *(c.expression for c in self.constraints))

    @property
    def leaf_nodes(self) -> tuple[Leaf, ...]:
        found = {leaf.name: leaf for tree in self.expressions for leaf in tree.leaves()}
        return tuple(found.values())

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of all rewards that are read, each once."""
        return tuple(leaf.name for leaf in self.leaf_nodes)

    def undifferentiable(self) -> list[str]:
        """Rewards without gradients."""
        return [
            leaf.name
            for leaf in self.leaf_nodes
            if (facts := _facts(leaf)) is not None and not facts.differentiable
        ]

    def problems(self) -> list[str]:
        """Everything that makes the objective meaningless, in one go; empty if it is sound."""
        return list(_problems(self))

    def bind(self, device: str = "cpu", chunk: int | None = None) -> BoundObjective:
        """Build every reward once; raises ExpressionError with all `problems`."""
        problems = self.problems()
        if problems:
            raise ExpressionError("\n".join(problems))
        from rewards.evaluate import BoundObjective

        return BoundObjective(self, device=device, chunk=chunk)

    def to_dict(self) -> dict[str, Any]:
        """Plain form, as in YAML; `from_dict` reads it back."""
        return {
            "maximize": {name: str(expression) for name, expression in self.maximized},
            "subject_to": [str(constraint) for constraint in self.constraints],
            "scalarization": self.scalarization,
            "params": dict(self.params or {}),
            "on": self.on,
            "pessimism": self.pessimism,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Objective:
        """Read the plain form; raises ExpressionError for text that is no expression."""
        maximized = tuple(
            (name, parse_expression(str(text))) for name, text in values["maximize"].items()
        )
        return cls(
            maximized,
            tuple(parse_constraint(str(text)) for text in values.get("subject_to", ())),
            values.get("scalarization", "linear"),
            dict(values.get("params", {})),
            values.get("on", "mean"),
            float(values.get("pessimism", 0.0)),
        )

    def __str__(self) -> str:
        lines = ["maximize"]
        lines += [f"  {name}: {expression}" for name, expression in self.maximized]
        if self.constraints:
            lines += ["subject to", *(f"  mean {constraint}" for constraint in self.constraints)]
        params = "".join(f", {key}={value:g}" for key, value in (self.params or {}).items())
        lines.append(f"by {self.scalarization}(on={self.on!r}{params})")
        if self.pessimism:
            lines.append(f"pessimism {self.pessimism:g} standard deviations")
        return "\n".join(lines)


def maximize(**objectives: Expression) -> Objective:
    """Name what is maximised, in the order of the weight vector.

    Raises ExpressionError, all problems in one go, for something that is no expression and for a
    lower-is-better reward, showing its negated form.
    """
    problems = [
        f"{name}: an objective is an expression such as R(\"{name}\"); got {expression!r}"
        for name, expression in objectives.items()
        if not isinstance(expression, Expression)
    ]
    if not problems:
        built = Objective(tuple(objectives.items()))
        problems = list(_direction_problems(built)) if objectives else ["maximize() names nothing"]
    if problems:
        raise ExpressionError("\n".join(problems))
    return built


def _facts(leaf: Leaf) -> RewardFacts | None:
    if leaf.target is not None:
        return leaf.target.facts
    try:
        return facts_of(leaf.name)
    except RewardError:
        return None


def _problems(objective: Objective) -> Iterator[str]:
    if not objective.maximized:
        yield "maximize: names no objective"
    for leaf in objective.leaf_nodes:
        if leaf.target is None:
            try:
                facts_of(leaf.name)
            except RewardError as error:
                yield str(error)
    yield from _direction_problems(objective)
    yield from _constraint_problems(objective.constraints)
    yield from _scalarization_problems(objective)
    for name, expression in objective.maximized:
        if not expression.leaves():
            yield f"maximize.{name}: {expression} reads no reward"
    for expression in objective.expressions:
        for node in expression.walk():
            if isinstance(node, Binary) and node.operator == "/" and node.right == Number(0.0):
                yield f"{expression}: divides by zero"


def _direction_problems(objective: Objective) -> Iterator[str]:
    """A bare lower-is-better reward must not be maximised; inside arithmetic the sign is yours."""
    for name, expression in objective.maximized:
        if isinstance(expression, Leaf):
            facts = _facts(expression)
            if facts is not None and not facts.higher_is_better:
                yield (
                    f"maximize.{name}: {expression} is lower-is-better; "
                    f"write {name}: -{expression}"
                )


def _constraint_problems(constraints: Sequence[Constraint]) -> Iterator[str]:
    for constraint in constraints:
        if not constraint.expression.leaves():
            yield f"subject_to: {constraint} reads no reward"
        if isinstance(constraint.expression, Leaf):
            facts = _facts(constraint.expression)
            if facts is not None and not facts.low <= constraint.threshold <= facts.high:
                yield (
                    f"subject_to: {constraint}: the threshold must lie in the reward's range "
                    f"{facts.low:g} .. {facts.high:g}"
                )
    bounds: dict[str, tuple[float, float]] = {}
    for constraint in constraints:
        low, high = bounds.get(constraint.name, (-math.inf, math.inf))
        if constraint.sense == "<=":
            high = min(high, constraint.threshold)
        else:
            low = max(low, constraint.threshold)
        bounds[constraint.name] = (low, high)
        if low > high:
            yield f"subject_to: {constraint.name} can not be both >= {low:g} and <= {high:g}"
    texts = [str(constraint) for constraint in constraints]
    for text in sorted({text for text in texts if texts.count(text) > 1}):
        yield f"subject_to: {text} is written twice"


def _scalarization_problems(objective: Objective) -> Iterator[str]:
    name = objective.scalarization
    if name not in SCALARIZATIONS:
        yield f"scalarization: unknown {name!r}; {nearest(name, SCALARIZATIONS)}"
        return
    for key, value in (objective.params or {}).items():
        if key not in SCALARIZATIONS[name]:
            yield f"scalarization: {name} has no parameter {key!r}; " + nearest(
                key, SCALARIZATIONS[name]
            )
        elif not math.isfinite(value) or (key == "mu" and value <= 0) or (
            key == "rho" and value < 0
        ):
            rule = {"mu": "positive", "rho": "at least 0"}.get(key, "finite")
            yield f"scalarization: {name}.{key} must be {rule}; got {value}"
    if objective.on not in ("mean", "sample"):
        yield f"on: must be 'mean' or 'sample'; got {objective.on!r}"
    if not math.isfinite(objective.pessimism) or objective.pessimism < 0:
        yield f"pessimism: must be at least 0; got {objective.pessimism}"
