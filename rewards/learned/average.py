"""Weight-averaged rewards: several members' weights in one head, for one member's price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rewards.learned.head import EnsembleHead
from rewards.learned.model import RewardModel
from rewards.learned.settings import RewardTrainingError
from rewards.members import NoProtectionError


@torch.no_grad()
def averaged_head(head: EnsembleHead) -> EnsembleHead:
    """One head whose parameters are the mean of the members'; the inputs' statistics stay."""
    features = len(head.mean)
    hidden = 0 if head.inner is None else head.inner.shape[2]
    one = EnsembleHead(1, features, hidden, torch.Generator())
    for mean, members in zip(one.parameters(), head.parameters(), strict=True):
        mean.copy_(members.mean(0, keepdim=True))
    one.mean.copy_(head.mean)
    one.std.copy_(head.std)
    return one


def average_rewards(models: Sequence[RewardModel]) -> RewardModel:
    """Average all members of learned rewards that were trained from one initialisation (WARM).

    theta = 1/M sum_m theta_m: for affine heads the mean of their outputs; for others it keeps what
    members have in common, and forgets what each learned of its own wrong labels. The averaged
    head states no uncertainty: the labels that would fit one are not here (train with `average`
    and `uncertainty` for that). Raises NoProtectionError for fewer than two different members,
    RewardTrainingError naming the field in which members differ that must be equal.
    Source: arXiv 2401.12187.
    """
    if not models:
        raise NoProtectionError("average: got no learned reward")
    first = models[0]
    for number, model in enumerate(models):
        for field in ("task", "encoder", "reads_prompt", "hidden", "features", "higher_is_better"):
            found, wanted = vars(model.card)[field], vars(first.card)[field]
            if found != wanted:
                raise RewardTrainingError(
                    f"average: `{field}` must be the same everywhere; reward {number} has "
                    f"{found!r}, reward 0 {wanted!r}"
                )
        own, other = (torch.stack([m.head.mean, m.head.std]) for m in (model, first))
        if not torch.equal(own, other):
            raise RewardTrainingError(
                f"average: reward {number} standardises its inputs otherwise than reward 0: their "
                "weights mean different things; train on the same images"
            )
    starts = [start for model in models for start in model.card.initialisations]
    if len(set(starts)) != 1:
        raise RewardTrainingError(
            f"average: the members must start from one initialisation; these {len(starts)} started "
            f"from {len(set(starts))}, and the mean of their weights would be no reward; train "
            "them with `average` or `shared_start`"
        )
    joined = _joined([model.head for model in models])
    _require_different(joined)
    card = replace(
        first.card,
        members=1,
        uncertainty="none",
        initialisations=tuple(sorted(set(starts))),
        averaged=joined.members,
        measures={},
    )
    base_mean, base_std = (
        torch.cat([vars(model)[key] for model in models]).mean(0, keepdim=True)
        for key in ("base_mean", "base_std")
    )
    one = averaged_head(joined).eval().requires_grad_(False)
    return RewardModel(card, one, first.probe, base_mean, base_std)


@torch.no_grad()
def _joined(heads: Sequence[EnsembleHead]) -> EnsembleHead:
    first = heads[0]
    hidden = 0 if first.inner is None else first.inner.shape[2]
    count = sum(head.members for head in heads)
    joined = EnsembleHead(count, len(first.mean), hidden, torch.Generator())
    parts = zip(*(head.parameters() for head in heads), strict=True)
    for whole, members in zip(joined.parameters(), parts, strict=True):
        whole.copy_(torch.cat(members))
    joined.mean.copy_(first.mean)
    joined.std.copy_(first.std)
    return joined


def _require_different(head: EnsembleHead) -> None:
    """Members that are all equal have nothing to average away."""
    equal = all(bool((p == p[:1]).all()) for p in head.parameters())
    if head.members < 2 or equal:
        raise NoProtectionError(
            f"average: needs at least 2 different members; got {head.members}"
            f"{' equal ones' if equal and head.members > 1 else ''}: the average of one is itself"
        )
