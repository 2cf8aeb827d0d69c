"""What each reward contributes to the utility of an image, and to its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.calibration import Calibration
from rewards.contributions import contributions
from rewards.panel import RewardTable
from rewards.reward import ImageBatch
from rewards.scalarization import utility, utility_gradient

if TYPE_CHECKING:
    from rewards.evaluate import BoundObjective

SHOWN_PROMPT = 32


@dataclass(frozen=True)
class Explanation:
    """Utilities of a batch, taken apart by reward; constraints are not in it.

    `utility` [B]: sum_k a_k u_k with u the calibrated objectives; under on="sample" the
    scalarisation itself, under on="mean" its gradient a at the batch's mean, which is what training
    follows. `contributions` [B,L]: what each reward adds against the batch's mean sample; they sum
    to utility - utility of the mean sample, also through min, max, where and rank (Shapley values).
    `pull` [B,L]: share of each reward in the image-space gradient G = sum_l G_l of the utility,
    <G_l, G> / <G, G>: they sum to 1, one that works against the others is negative, and the branch
    that min, max or where does not take has 0; NaN for rewards without gradient, 0 where G is 0.
    Group-wise rewards give an image what it does to its whole group.
    """

    leaves: tuple[str, ...]
    prompts: tuple[str, ...]
    utility: Float[Tensor, " batch"]
    contributions: Float[Tensor, "batch leaf"]
    pull: Float[Tensor, "batch leaf"]

    @property
    def shares(self) -> Float[Tensor, "batch leaf"]:
        """Contributions by size: absolute values sum to 1 for each image, or all are 0."""
        size = self.contributions.abs().sum(dim=1, keepdim=True)
        return self.contributions / torch.where(size > 0, size, torch.ones_like(size))

    def __str__(self) -> str:
        change = self.contributions.sum(dim=1)
        head = ["utility", "- mean", *self.leaves, *(f"pull {leaf}" for leaf in self.leaves), ""]
        rows = [
            [
                f"{self.utility[i]:.3f}",
                f"{change[i]:+.3f}",
                *(
                    f"{part:+.3f} ({share:+.0%})"
                    for part, share in zip(
                        self.contributions[i].tolist(), self.shares[i].tolist(), strict=True
                    )
                ),
                *("none" if isnan(pull) else f"{pull:+.0%}" for pull in self.pull[i].tolist()),
                prompt if len(prompt) <= SHOWN_PROMPT else prompt[: SHOWN_PROMPT - 3] + "...",
            ]
            for i, prompt in enumerate(self.prompts)
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False))
            + f"  {row[-1]}"
            for row in (head, *rows)
        ]
        return "\n".join(line.rstrip() for line in lines)


def explained(
    bound: BoundObjective,
    batch: ImageBatch,
    weights: Tensor | Sequence[float] | None,
    calibration: Calibration | None,
) -> Explanation:
    """Score the batch once and take its utilities apart; see `BoundObjective.explain`."""
    objective = bound.objective
    count = len(objective.names)
    rows = _weight_rows(weights, len(batch), count).to(batch.images)
    images = batch.images.detach().requires_grad_()
    with torch.enable_grad():
        raw = bound.panel(ImageBatch(images, batch.prompts, batch.metadata, batch.group))
    scored = raw.detached()
    value = _utility(bound, calibration, scored, rows)
    leaves = tuple(
        dict.fromkeys(leaf.name for _, tree in objective.maximized for leaf in tree.leaves())
    )
    parts = contributions(value, scored, leaves)
    with torch.no_grad():
        worth = value(scored)
    return Explanation(
        leaves, tuple(batch.prompts), worth, parts, _pulls(bound, raw, images, value, leaves)
    )


def _utility(
    bound: BoundObjective,
    calibration: Calibration | None,
    scored: RewardTable,
    weights: Float[Tensor, "batch objective"],
) -> Callable[[RewardTable], Float[Tensor, " batch"]]:
    """The utility of rows, which repeat the batch, as a function of the rewards' scores."""
    objective = bound.objective

    def calibrated(table: RewardTable) -> Float[Tensor, "batch objective"]:
        found = bound.table(table)
        rewards = found.rewards if calibration is None else calibration.apply(found.rewards)
        return torch.where(found.reward_valid, rewards, torch.zeros_like(rewards))

    if objective.on == "sample":
        scalarize = utility(objective.scalarization, objective.params)

        def own(table: RewardTable) -> Float[Tensor, " batch"]:
            return scalarize(calibrated(table), _repeated(weights, table))

        return own
    known = bound.table(scored).reward_valid.sum(dim=0).clamp(min=1)
    mean = calibrated(scored).sum(dim=0) / known
    slope = utility_gradient(
        objective.scalarization, mean.expand_as(weights), weights, **objective.params
    )
    return lambda table: (_repeated(slope, table) * calibrated(table)).sum(dim=1)


@torch.enable_grad()
def _pulls(
    bound: BoundObjective,
    raw: RewardTable,
    images: Tensor,
    value: Callable[[RewardTable], Float[Tensor, " batch"]],
    leaves: Sequence[str],
) -> Float[Tensor, "batch leaf"]:
    """Chain rule: d utility / d score through the expressions, d score / d image by the scorers."""
    pulls = torch.full((len(images), len(leaves)), torch.nan, device=images.device)
    at = replace(
        raw,
        values=raw.values.detach().requires_grad_(),
        std=raw.std.detach().requires_grad_(),
    )
    worth = value(at).sum()
    if not worth.requires_grad:  # every way to a score ends in a rank or in a condition
        return pulls
    slope, std_slope = torch.autograd.grad(
        worth, (at.values, at.std), allow_unused=True, materialize_grads=True
    )
    gradients: dict[str, Tensor] = {}
    for name, reward in zip(bound.panel.names, bound.panel.rewards, strict=True):
        if name not in leaves or not reward.facts.differentiable:
            continue
        i = raw.names.index(name)
        carried = (slope[:, i] * raw.values[:, i] + std_slope[:, i] * raw.std[:, i]).sum()
        (found,) = torch.autograd.grad(carried, images, retain_graph=True, materialize_grads=True)
        gradients[name] = found.flatten(1)
    if not gradients:
        return pulls
    whole = torch.stack(list(gradients.values())).sum(dim=0)
    size = whole.square().sum(dim=1)
    for name, found in gradients.items():
        share = (found * whole).sum(dim=1) / torch.where(size > 0, size, torch.ones_like(size))
        pulls[:, leaves.index(name)] = share
    return pulls


def _repeated(rows: Float[Tensor, "batch objective"], table: RewardTable) -> Tensor:
    return rows.repeat(len(table.values) // len(rows), 1)


def _weight_rows(
    weights: Tensor | Sequence[float] | None, batch: int, objectives: int
) -> Float[Tensor, "batch objective"]:
    if weights is None:
        return torch.full((batch, objectives), 1 / objectives)
    rows = torch.as_tensor(weights, dtype=torch.float32)
    if rows.shape not in ((objectives,), (batch, objectives)):
        raise ValueError(
            f"`weights` must have shape [{objectives}] or [{batch}, {objectives}], one entry an "
            f"objective; got {list(rows.shape)}"
        )
    return rows.expand(batch, objectives)
