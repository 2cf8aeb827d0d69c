"""What to do with rewards: maximise some, hold others to a bound, trade off by a weight vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from rewards.budgets import Budget
from rewards.differentiability import undifferentiable
from rewards.errors import ExpressionError, nearest
from rewards.expression import Constraint, Expression, Leaf
from rewards.parse import parse_constraint, parse_expression
from rewards.problems import constraint_problems, maximized_problems, objective_problems
from rewards.scalarization_facts import SCALARIZATIONS

if TYPE_CHECKING:
    from torch import Tensor

    from rewards.calibration import Calibration
    from rewards.evaluate import BoundObjective
    from rewards.explanation import Explanation
    from rewards.panel import FaultPolicy

On = Literal["mean", "sample"]
_KINDS = (
    ("maximize", Mapping, "mapping"),
    ("subject_to", Sequence, "list"),
    ("params", Mapping, "mapping"),
    ("applies", Mapping, "mapping"),
)
KEYS = ("maximize", "subject_to", "scalarization", "params", "on", "pessimism", "applies")


@dataclass(frozen=True)
class Objective:
    """Named expressions to maximise, constraints, and the scalarisation that a weight vector picks.

    `on`: scalarise the expected reward vector ("mean", what a front is) or every sample's
    ("sample"); they differ for anything but linear. `pessimism` >= 0: how many standard deviations
    of an ensemble are taken from what is maximised or bounded from below, and added to what is
    bounded from above. `applies`: objectives that count only on prompts whose record matches a rule
    ("field" or "field=value", `rewards.routing`); the others share their weight there. Immutable:
    every method returns a new objective.
    """

    maximized: tuple[tuple[str, Expression], ...]
    constraints: tuple[Constraint, ...] = ()
    scalarization: str = "linear"
    params: Mapping[str, float] = field(default_factory=dict, hash=False)
    on: On = "mean"
    pessimism: float = 0.0
    applies: Mapping[str, str] = field(default_factory=dict, hash=False)

    def subject_to(self, *constraints: Constraint) -> Objective:
        """Add bounds on mean raw rewards, such as `R("unsafe") <= 0.03`.

        Raises ExpressionError, all problems in one go, for what is no bound or cannot be met.
        """
        for constraint in constraints:
            if not isinstance(constraint, Constraint):
                raise ExpressionError(f'a constraint reads R("name") <= number; got {constraint!r}')
        every = (*self.constraints, *constraints)
        _refuse(list(constraint_problems(every)))
        return replace(self, constraints=every)

    def scalarize(self, name: str, *, on: On = "mean", **params: float) -> Objective:
        """Choose the scalarisation and what it is about; raises ExpressionError."""
        return _sound(replace(self, scalarization=name, on=on, params=params))

    def pessimistic(self, pessimism: float) -> Objective:
        """Count `pessimism` standard deviations of the members' disagreement against the policy."""
        return _sound(replace(self, pessimism=pessimism))

    @property
    def names(self) -> tuple[str, ...]:
        """Objectives in the order of the weight vector."""
        return tuple(name for name, _ in self.maximized)

    @property
    def constraint_names(self) -> tuple[str, ...]:
        """What each constraint bounds, or all of it where two bound the same."""
        names = [constraint.measured for constraint in self.constraints]
        return tuple(
            name if names.count(name) == 1 else str(constraint)
            for name, constraint in zip(names, self.constraints, strict=True)
        )

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The bounds that slide, in the order of the constraints."""
        found = (constraint.budget for constraint in self.constraints)
        return tuple(budget for budget in found if budget is not None)

    def at_budgets(self, bounds: Mapping[str, float]) -> Objective:
        """The same with one bound for each budget, by its name; omitted ones: the strictest."""
        fixed = (
            constraint
            if constraint.budget is None
            else replace(
                constraint,
                threshold=bounds.get(constraint.measured, constraint.threshold),
                loosest=None,
            )
            for constraint in self.constraints
        )
        return replace(self, constraints=tuple(fixed))

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All expressions: the maximised ones, then those of the constraints."""
        return (*(e for _, e in self.maximized), *(c.expression for c in self.constraints))

    @property
    def leaf_nodes(self) -> tuple[Leaf, ...]:
        """All rewards that are read, each once, in order of appearance."""
        found: dict[str, Leaf] = {}
        for tree in self.expressions:
            for leaf in tree.leaves():
                found.setdefault(leaf.name, leaf)
        return tuple(found.values())

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of all rewards that are read, each once."""
        return tuple(leaf.name for leaf in self.leaf_nodes)

    @property
    def shared(self) -> tuple[tuple[str, str], ...]:
        """Objective and reward, for every reward of an objective that reads more than one."""
        return tuple(
            (name, leaf.name)
            for name, expression in self.maximized
            if len(expression.leaves()) > 1
            for leaf in expression.leaves()
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what the objective says, in hex: equal text, numbers and order of objectives.

        Spaces, the order of constraints, and parameters that are left at their default do not
        count. A user's own reward or function counts by its name, not by its code.
        """
        plain = self.to_dict()
        known = SCALARIZATIONS[self.scalarization].parameters
        defaults = {name: parameter.default for name, parameter in known.items()}
        plain["maximize"] = list(plain["maximize"].items())
        plain["subject_to"] = sorted(map(str, plain["subject_to"]))
        plain["params"] = {k: float(v) for k, v in (defaults | plain["params"]).items()}
        plain["pessimism"] = float(self.pessimism)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def undifferentiable(self) -> list[str]:
        """Rewards and nodes that end a gradient, which algorithms that need one cannot take."""
        found = (node for tree in self.expressions for node in undifferentiable(tree))
        names = (node.name if isinstance(node, Leaf) else str(node) for node in found)
        return list(dict.fromkeys(names))

    def problems(self) -> list[str]:
        """Everything that makes the objective meaningless, in one go, each with its key."""
        return [
            *maximized_problems(self.maximized),
            *constraint_problems(self.constraints),
            *objective_problems(self),
        ]

    def bind(
        self,
        device: str = "cpu",
        chunk: int | None = None,
        on_fault: FaultPolicy = "raise",
    ) -> BoundObjective:
        """Build every reward once; raises ExpressionError with all `problems`."""
        _refuse(self.problems())
        from rewards.evaluate import BoundObjective

        return BoundObjective(self, device=device, chunk=chunk, on_fault=on_fault)

    def explain(
        self,
        images: Tensor,
        prompts: Sequence[str],
        weights: Tensor | Sequence[float] | None = None,
        *,
        calibration: Calibration | None = None,
        device: str = "cpu",
    ) -> Explanation:
        """Say what each reward contributes to the utility of every image, and to its gradient.

        Builds every scorer; whoever asks more than once, or uses `calibrated` or `ensemble`, binds
        the objective and calls `BoundObjective.explain`, which says what the arguments are.
        """
        from rewards.reward import ImageBatch

        batch = ImageBatch(images.to(device), prompts)
        return self.bind(device=device).explain(batch, weights, calibration)

    def to_dict(self) -> dict[str, Any]:
        """Plain form, as in YAML; `from_dict` reads it back."""
        return {
            "maximize": {name: str(expression) for name, expression in self.maximized},
            "subject_to": [str(constraint) for constraint in self.constraints],
            "scalarization": self.scalarization,
            "params": dict(self.params),
            "on": self.on,
            "pessimism": self.pessimism,
            **({"applies": dict(self.applies)} if self.applies else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Objective:
        """Read the plain form; raises ExpressionError for all text that is no expression.

        What reads well but means nothing (an unknown reward, a wrong direction) is left to
        `problems`.
        """
        problems = [f"unknown key {key!r}; {nearest(key, KEYS)}" for key in values.keys() - KEYS]
        for key, kind, wanted in _KINDS:
            part = values.get(key)
            if part is not None and (isinstance(part, str) or not isinstance(part, kind)):
                _refuse([*problems, f"{key}: must be a {wanted}; got {part!r}"])
        maximized: list[tuple[str, Expression]] = []
        for name, text in (values.get("maximize") or {}).items():
            try:
                maximized.append((str(name), parse_expression(str(text))))
            except ExpressionError as error:
                problems.append(f"maximize.{name}: {error}")
        constraints: list[Constraint] = []
        for position, text in enumerate(values.get("subject_to") or ()):
            try:
                constraints.append(parse_constraint(str(text)))
            except ExpressionError as error:
                problems.append(f"subject_to[{position}]: {error}")
        _refuse(problems)
        return cls(
            tuple(maximized),
            tuple(constraints),
            values.get("scalarization", "linear"),
            dict(values.get("params") or {}),
            values.get("on", "mean"),
            values.get("pessimism", 0.0),
            dict(values.get("applies") or {}),
        )

    def __str__(self) -> str:
        width = max((len(name) for name in self.names), default=0)
        lines = ["maximize"]
        for name, expression in self.maximized:
            rule = f"  where {self.applies[name]}" if name in self.applies else ""
            lines.append(f"  {name:{width}} = {expression}{rule}")
        if self.constraints:
            lines += ["subject to", *(f"  {constraint.stated}" for constraint in self.constraints)]
        params = "".join(f", {key}={value:g}" for key, value in self.params.items())
        lines.append(f"by {self.scalarization}(on={self.on!r}{params})")
        if self.pessimism:
            lines.append(f"pessimism {self.pessimism:g} standard deviations")
        return "\n".join(lines)


def maximize(**objectives: Expression) -> Objective:
    """Name what is maximised, in the order of the weight vector.

    Raises ExpressionError, all problems in one go, for what is no expression, an unknown reward,
    and a lower-is-better reward, showing its negated form.
    """
    for name, expression in objectives.items():
        if not isinstance(expression, Expression):
            raise ExpressionError(
                f'maximize.{name}: an objective is an expression such as R("{name}"); got '
                f"{expression!r}"
            )
    return _sound(Objective(tuple(objectives.items())))


def _sound(objective: Objective) -> Objective:
    _refuse(objective.problems())
    return objective


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ExpressionError("\n".join(problems))
