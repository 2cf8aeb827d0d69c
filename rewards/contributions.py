"""Who made the difference: exact shares of rewards in any function of them (Shapley values)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.panel import RewardTable

EXACT = 5  # 120 orders of 5 rewards; above, a fixed sample of orders
SAMPLED = 32
Value = Callable[[RewardTable], Float[Tensor, " batch"]]


@torch.no_grad()
def contributions(
    value: Value, raw: RewardTable, leaves: Sequence[str]
) -> Float[Tensor, "batch leaf"]:
    """What each reward adds to a value, against the mean sample of the table.

    c_l = mean over orders of [ f(leaves up to l at the sample, the others at the mean) -
                                f(leaves before l at the sample, the others at the mean) ]

    f: `value`, from a table of scores to one number a row, which may use arithmetic, min, where or
    ranks; l: the columns `leaves`, with their disagreement. sum_l c_l = f(sample) - f(mean sample),
    always; where f is a weighted sum, c_l = weight_l (r_l - mean r_l). Where a reward does not
    apply it stands at the mean and contributes 0. All orders up to `EXACT` rewards, above it
    `SAMPLED` fixed ones in pairs of opposite orders: the sum stays exact, the shares are estimates.
    No scorer runs. Source: Shapley, A Value for n-Person Games, 1953.
    """
    masks, weights = _design(len(leaves))
    masks = masks.to(raw.values.device)
    columns = torch.tensor([raw.names.index(name) for name in leaves])
    copies = len(masks)
    kept = masks.new_ones(copies, len(raw.names))
    kept[:, columns] = masks
    rows = kept[:, None, :] & raw.valid
    known, group = raw.groups.unique(return_inverse=True)
    offset = len(known) * torch.arange(copies, device=group.device)
    values = value(
        replace(
            raw,
            values=torch.where(rows, raw.values, _means(raw.values, raw)).flatten(0, 1),
            valid=torch.ones_like(rows).flatten(0, 1),
            std=torch.where(rows, raw.std, _means(raw.std, raw)).flatten(0, 1),
            group=(group + offset[:, None]).flatten(),
        )
    )
    return values.view(copies, -1).T @ weights.to(values)


def _means(values: Float[Tensor, "batch objective"], raw: RewardTable) -> Tensor:
    """Mean over the samples that a reward applies to; 0 where it applies to none."""
    total = torch.where(raw.valid, values, torch.zeros_like(values)).sum(dim=0)
    return total / raw.valid.sum(dim=0).clamp(min=1)


@cache
def _design(count: int) -> tuple[Tensor, Tensor]:
    """The sets of leaves to evaluate [set, leaf], and each set's weight for each leaf."""
    orders = list(permutations(range(count))) if count <= EXACT else _some_orders(count)
    numbers: dict[frozenset[int], int] = {}
    weights: dict[tuple[int, int], float] = {}
    for order in orders:
        before: frozenset[int] = frozenset()
        for leaf in order:
            after = before | {leaf}
            for members, sign in ((before, -1.0), (after, 1.0)):
                key = numbers.setdefault(members, len(numbers)), leaf
                weights[key] = weights.get(key, 0.0) + sign / len(orders)
            before = after
    masks = torch.zeros(len(numbers), count, dtype=torch.bool)
    for members, number in numbers.items():
        masks[number, list(members)] = True
    design = torch.zeros(len(numbers), count, dtype=torch.float64)
    for (number, leaf), weight in weights.items():
        design[number, leaf] = weight
    return masks, design


def _some_orders(count: int) -> list[tuple[int, ...]]:
    draw = random.Random(0)
    orders = [tuple(draw.sample(range(count), count)) for _ in range(SAMPLED // 2)]
    return [*orders, *(order[::-1] for order in orders)]
