"""Budgets of an adapter: read what a user asks for, and sample positions for training."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from morl.errors import ConfigError
from morl.weights import sample_weights
from rewards.budgets import Budget
from rewards.errors import nearest

OneBudgets = str | Mapping[str, float]
"""A bound for each budget by name: "shapes_unsafe=0.05" or a mapping; omitted: the strictest."""
Budgets = OneBudgets | Sequence[OneBudgets]
"""The same for all images, or one an image."""
# A name may itself hold commas and "=", as in quantile(x, 0.95) or mean(x, where='dark').
_ASSIGNED = re.compile(r"\s*(?P<name>.+?)\s*=\s*(?P<bound>[^=,()'\"]+?)\s*(?:,|$)")


class BudgetNote(UserWarning):
    """A budget was left out and taken at its strictest; Python shows the same note once."""


def parse_budgets(given: OneBudgets | None, budgets: Sequence[Budget]) -> dict[str, float]:
    """Read one bound for every budget, in raw units; None gives all at their strictest.

    A string may be a bare number where there is one budget. What is left out is said once by a
    `BudgetNote`. Raises ConfigError with every problem found: unknown or repeated names, what is no
    number, bounds outside of the range that was trained.
    """
    problems: list[str] = []
    asked = _split(given, budgets, problems) if isinstance(given, str) else dict(given or {})
    named = {budget.name: budget for budget in budgets}
    for name, bound in asked.items():
        if name not in named:
            problems.append(f"budgets: {_unknown(name, list(named))}")
        elif problem := named[name].problem(bound):
            problems.append(problem)
    if problems:
        raise ConfigError(problems)
    omitted = [budget for budget in budgets if budget.name not in asked]
    if omitted:
        said = ", ".join(f"{b.name} = {b.strictest:g} of {b.span}" for b in omitted)
        warnings.warn(f"no budget given, taken at its strictest: {said}", BudgetNote, stacklevel=2)
    return {budget.name: asked.get(budget.name, budget.strictest) for budget in budgets}


def are_single(given: Budgets | None) -> bool:
    """Tell budgets for all images from a list of them, one an image."""
    return given is None or isinstance(given, str | Mapping)


def budget_list(given: Budgets | None, budgets: Sequence[Budget]) -> list[dict[str, float]]:
    """Read what one entry, or one an image, asks for; raises ConfigError as `parse_budgets`."""
    each = [given] if are_single(given) else cast("Sequence[OneBudgets]", given)
    return [parse_budgets(cast("OneBudgets | None", entry), budgets) for entry in each]


def budget_rows(
    bounds: Sequence[Mapping[str, float]], budgets: Sequence[Budget]
) -> Float[Tensor, "rows budget"]:
    """Where each entry's bounds lie in their ranges: 0 is the strictest end, 1 the loosest."""
    rows = [[budget.position(entry[budget.name]) for budget in budgets] for entry in bounds]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(bounds), len(budgets))


def sample_positions(
    generator: torch.Generator, n: int, budgets: int, *, ends: float
) -> Float[Tensor, "batch budget"]:
    """Draw n positions in [0, 1] for each budget, independent of each other.

    `ends` in [0, 1]: the share that lies at the two ends, half of it at each; the rest is uniform
    and stratified between. A position divides a range as a weight divides an edge, so this is
    `sample_weights` on an edge. Ends drawn too rarely would be extrapolated to, and the strictest
    one is what every default uses.
    """
    if not budgets:
        return torch.empty(n, 0)
    drawn = [
        sample_weights(generator, n, 2, vertex=ends, edge=1 - ends)[:, 1] for _ in range(budgets)
    ]
    return torch.stack(drawn, dim=1)


def _split(text: str, budgets: Sequence[Budget], problems: list[str]) -> dict[str, float]:
    """Read "a=0.05,b=0.2", or "0.05" where there is one budget."""
    if "=" not in text and len(budgets) == 1:
        text = f"{budgets[0].name}={text}"
    found: dict[str, float] = {}
    at = 0
    while at < len(text):
        entry = _ASSIGNED.match(text, at)
        try:
            name, bound = ("", 0.0) if entry is None else (entry["name"], float(entry["bound"]))
        except ValueError:
            entry = None
        if entry is None:
            problems.append(f"budgets: are written name=number,name=number; got {text[at:]!r}")
            break
        if name in found:
            problems.append(f"budgets.{name}: is given twice")
        found[name] = bound
        at = entry.end()
    return found


def _unknown(name: str, known: Sequence[str]) -> str:
    if not known:
        return f"{name} does not slide: this adapter was trained without budgets"
    return f"no bound of {name!r} slides; {nearest(name, known)}"
