"""The measures that a front is judged by: proxies, held-out measures, and what images score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from morl.config.scorers import checkpoints_of
from morl.config.tree import Config
from morl.prompts import records
from morl.training.assemble import Assembly
from morl.training.device import choose_device
from rewards.checkpoints import find
from rewards.encoder_settings import EncoderSettings
from rewards.evaluate import BoundObjective
from rewards.objective import Objective
from rewards.parse import parse_expression
from rewards.reward import ImageBatch


@dataclass(frozen=True)
class Judge:
    """The measures of one evaluation: spaces share encoders, and images are scored once."""

    proxy: BoundObjective
    gold: BoundObjective | None

    def spaces(self) -> dict[str, BoundObjective]:
        """Each space by name; `gold` is any measure that never trained."""
        return {"proxy": self.proxy} | ({} if self.gold is None else {"gold": self.gold})


@dataclass(frozen=True)
class Scores:
    """What a set of images scored in one space: rewards [P,K], costs [P,J] and where they apply.

    A reward that does not apply to an image is NaN.
    """

    rewards: Float[Tensor, "image objective"]
    costs: Float[Tensor, "image constraint"]
    cost_valid: Tensor


def judge_of(config: Config, parts: Assembly, also: Sequence[str]) -> Judge:
    """Proxies without pessimism, and the held-out measures under the names they judge."""
    proxy = replace(parts.objective, pessimism=0.0)
    extra = tuple((text, parse_expression(text)) for text in also)
    proxy = replace(proxy, maximized=(*proxy.maximized, *extra))
    device = choose_device(config.training.accelerator)
    bound = parts.bound if not extra and not parts.objective.pessimism else proxy.bind(device)
    bound.statistics.update(parts.bound.statistics)
    held_out = config.evaluation.held_out
    if not all(name in held_out for name in config.names):
        return Judge(bound, None)
    # Names as they are configured: a constraint put at one of its budgets may read otherwise.
    named = zip(parts.bound.objective.constraint_names, parts.objective.constraints, strict=True)
    constraints = tuple(
        replace(constraint, expression=parse_expression(held_out[name]))
        for name, constraint in named
        if name in held_out
    )
    gold = Objective(
        tuple((name, parse_expression(held_out[name])) for name in config.names),
        constraints,
        applies=parts.objective.applies,
    )
    return Judge(bound, gold.bind(device))


def require_judges(config: Config) -> None:
    """Have the weights of every held-out measure at hand before hours of training, not after.

    Downloads what the hub has. Raises CheckpointError naming what is missing and how to get it.
    """
    for text in (*config.evaluation.held_out.values(), *config.guard.held_out.values()):
        measure = Objective.from_dict({"maximize": {}, "subject_to": [f"{text} <= 0"]})
        for name in checkpoints_of(measure.leaves):
            settings = config.objective.encoders.get(name, EncoderSettings())
            find(name, settings.folder)


def drawn_images(
    parts: Assembly,
    prompts: Sequence[str],
    weights: Float[Tensor, " objective"] | None,
    noise: Tensor,
) -> Iterator[tuple[list[str], Tensor]]:
    """Prompts and their images at one weight vector (None: the base model), batch by batch.

    prompts and noise have one row an image; they are worked off in training batches.
    """
    size = parts.config.training.batch_size
    rows = torch.zeros(len(parts.config.names)) if weights is None else weights
    for start in range(0, len(prompts), size):
        part = list(prompts[start : start + size])
        final = parts.sampler.sample(
            part,
            rows.expand(len(part), -1),
            noise[start : start + size],
            reference=weights is None,
        )
        yield part, parts.sampler.decode(final)


def score_images(
    parts: Assembly,
    judge: Judge,
    prompts: Sequence[str],
    weights: Float[Tensor, " objective"] | None,
    noise: Tensor,
) -> dict[str, Scores]:
    """Draw images as `drawn_images` does, and score them in every space."""
    columns: dict[str, list[Scores]] = {space: [] for space in judge.spaces()}
    for part, images in drawn_images(parts, prompts, weights, noise):
        batch = ImageBatch(images, part, records(part))
        with parts.ledger.phase("score"):
            for space, bound in judge.spaces().items():
                table = bound(batch)
                rewards = table.rewards.where(table.reward_valid, torch.nan)
                columns[space].append(Scores(rewards, table.costs, table.cost_valid))
    return {
        space: Scores(
            torch.cat([s.rewards for s in scores]).cpu(),
            torch.cat([s.costs for s in scores]).cpu(),
            torch.cat([s.cost_valid for s in scores]).cpu(),
        )
        for space, scores in columns.items()
    }
