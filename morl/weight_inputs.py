"""What a person may write for weights and budgets: one, one an image, or a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from morl.budgets import Budgets, budget_list, budget_rows
from morl.errors import ConfigError
from morl.weights import parse_weights
from rewards.budgets import Budget

OneWeight = str | Mapping[str, float] | Sequence[float] | Tensor
"""By name ("a=0.7,b=0.3" or a mapping; omitted ones are 0), or all K values in order."""
Weights = OneWeight | Sequence[OneWeight]
"""One vector for all images, or one an image: a list of them, or a tensor [B,K]."""
Schedule = Callable[[int], Weights]
"""Weights of every sampler step, counted from 0."""


def is_single(weights: Weights) -> bool:
    """Tell one vector from a list of them."""
    if isinstance(weights, str | Mapping):
        return True
    if isinstance(weights, Tensor):
        return weights.ndim == 1
    return not weights or isinstance(weights[0], int | float)


def weight_rows(weights: Weights, names: Sequence[str]) -> Float[Tensor, "rows objective"]:
    """Read one vector (a single row) or one an image; raises WeightError as `parse_weights`."""
    vectors = [cast("OneWeight", weights)] if is_single(weights) else weights
    return torch.stack([parse_weights(cast("OneWeight", v), names) for v in vectors])


def weight_schedule(
    weights: Weights | Schedule, names: Sequence[str]
) -> Callable[[int], Float[Tensor, "rows objective"]]:
    """Return the rows of each step; they are read once where they do not depend on it."""
    if callable(weights):
        function = weights
        return lambda step: weight_rows(function(step), names)
    rows = weight_rows(weights, names)
    return lambda _step: rows


def condition_rows(
    weights: Weights, names: Sequence[str], given: Budgets | None, budgets: Sequence[Budget]
) -> Float[Tensor, "rows condition"]:
    """Weight vectors with the positions of the budgets behind; one of either serves all.

    Raises WeightError as `weight_rows`, ConfigError as `budget_list` and for counts that differ.
    """
    rows, bounds = weight_rows(weights, names), budget_list(given, budgets)
    count = common_length(weights=rows, budgets=bounds)
    slid = budget_rows(bounds, budgets)
    return torch.cat([rows.expand(count, -1), slid.expand(count, -1)], dim=1)


def common_length(**lists: Sequence[Any] | Tensor) -> int:
    """How many images lists of one, or of one an image, stand for; raises ConfigError."""
    count = max(len(entries) for entries in lists.values())
    if any(len(entries) not in (1, count) for entries in lists.values()) or count == 0:
        found = ", ".join(f"{len(entries)} {name}" for name, entries in lists.items())
        raise ConfigError(f"{', '.join(lists)} must be one, or one an image; got {found}")
    return count
