"""What each method of the study trains, given the compute C of one conditioned adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning import Callback
from torch import Tensor

from experiments.judging import Grid
from morl.config.tree import Config, WeightsConfig
from morl.lora.conditioned import ConditionedAdapter
from morl.prompts import load_prompts
from morl.training.assemble import Assembly, assemble, fit_calibration
from morl.training.evaluate import weight_grid
from morl.training.module import AlignmentModule
from morl.training.observation import Scored
from morl.training.session import build_module, fit
from morl.training.utility import TrainingUtility
from rewards.calibration import Calibration
from rewards.evaluate import ObjectiveTable

WeightVector = Float[Tensor, " objective"]
Train = Callable[[Config, Path, Grid], list[Assembly]]
"""(config, logs, weight vectors) -> the adapter that answers at each of them."""
Watch = Callable[[Assembly, AlignmentModule], Sequence[Callback]]


def nothing(parts: Assembly, module: AlignmentModule) -> Sequence[Callback]:
    """Watch nothing."""
    del parts, module
    return ()


@dataclass(frozen=True)
class Common:
    """What the trainings of one cell share: the base model's statistics are taken once."""

    calibration: Calibration
    statistics: dict[str, Any]


def train_adapter(
    config: Config,
    logs: Path,
    *,
    common: Common | None = None,
    utility: Callable[[TrainingUtility], TrainingUtility] = lambda utility: utility,
    watch: Watch = nothing,
) -> tuple[Assembly, Common]:
    """Train in memory as `morl train` does; the adapter ends as its average, which a run saves.

    utility: may replace what is optimised; watch: callbacks that look on.
    """
    parts = assemble(config)
    prompts = load_prompts(config.prompts.train, "train", config.training.seed)
    if common is None:
        calibration = fit_calibration(parts, prompts, config.training.seed)
        common = Common(calibration, dict(parts.bound.statistics))
    parts.bound.statistics.update(common.statistics)
    module = build_module(parts, prompts, common.calibration)
    module.utility = module.collector.utility = utility(module.utility)
    fit(config, module, watch(parts, module), logs)
    parts.adapter.load_state_dict(module.ema.state_dict())
    return parts, common


def conditioned(config: Config, logs: Path, at: Grid, watch: Watch = nothing) -> list[Assembly]:
    """The product: one adapter that is conditioned on the weight vector."""
    parts, _ = train_adapter(config, logs, watch=watch)
    return [parts] * len(at)


def dedicated(config: Config, logs: Path, at: Grid) -> list[Assembly]:
    """An ordinary LoRA for each weight vector asked for, with the share of one grid point each."""
    return _each(config, logs, at, max(1, round(config.training.steps / len(weight_grid(config)))))


def whole(config: Config, logs: Path, at: Grid) -> list[Assembly]:
    """An ordinary LoRA for each weight vector asked for, with the whole compute each."""
    return _each(config, logs, at, config.training.steps)


def soup_of_experts(config: Config, logs: Path, at: Grid) -> list[Assembly]:
    """One LoRA for each objective with its share of the compute; their updates are averaged."""
    count = len(config.names)
    experts = _each(config, logs, torch.eye(count), max(1, round(config.training.steps / count)))
    return [soup(config, [parts.adapter for parts in experts])] * len(at)


def random_weights(config: Config, logs: Path, at: Grid) -> list[Assembly]:
    """A control: an ordinary LoRA that is trained for random weight vectors it does not see."""
    parts, _ = train_adapter(plain(config), logs)
    return [parts] * len(at)


def shuffled(config: Config, logs: Path, at: Grid) -> list[Assembly]:
    """A control: the conditioned adapter, optimised for another weight vector than it is given."""
    parts, _ = train_adapter(config, logs, utility=Shuffled.like)
    return [parts] * len(at)


METHODS: dict[str, Train] = {
    "conditioned": conditioned,
    "dedicated": dedicated,
    "soup": soup_of_experts,
    "random": random_weights,
    "shuffled": shuffled,
    "regret": whole,
}


def _each(config: Config, logs: Path, at: Grid, steps: int) -> list[Assembly]:
    common, parts_at = None, []
    for weights in at:
        parts, common = train_adapter(fixed(config, weights, steps), logs, common=common)
        parts_at.append(parts)
    return parts_at


class Shuffled(TrainingUtility):
    """Optimises, for each image, another image's weight vector than its adapter was given."""

    @classmethod
    def like(cls, utility: TrainingUtility) -> Shuffled:
        return cls(
            utility.objective,
            utility.calibration,
            utility.duals,
            utility.handling,
            normalize=utility.normalize,
            tail=utility.tail,
            aggregation=utility.aggregation,
        )

    def score(
        self,
        table: ObjectiveTable,
        weights: Float[Tensor, "batch objective"],
        group: Int[Tensor, " batch"] | None = None,
    ) -> Scored:
        # Rows are drawn in random order, so the neighbour's weights are unrelated to one's own.
        return super().score(table, weights.roll(1, 0), group)


def plain(config: Config) -> Config:
    """The same with a LoRA that does not see the weight vector."""
    return replace(config, adapter=replace(config.adapter, core="constant"))


def fixed(config: Config, weights: WeightVector, steps: int) -> Config:
    """One ordinary LoRA for one weight vector, in `steps` updates."""
    exact = weights.double() / weights.double().sum()
    shares = dict(zip(config.names, exact.tolist(), strict=True))
    return with_steps(
        replace(plain(config), weights=WeightsConfig(vertex=0, edge=0, low=shares, high=shares)),
        steps,
    )


def with_steps(config: Config, steps: int) -> Config:
    """Shorter training, with the warm-up and the average shortened in proportion."""
    share = steps / config.training.steps
    training = replace(
        config.training,
        steps=steps,
        warmup=round(config.training.warmup * share),
        ema=config.training.ema ** (1 / share) if share < 1 else config.training.ema,
    )
    return replace(config, training=training)


def soup(config: Config, experts: list[ConditionedAdapter]) -> Assembly:
    """One adapter whose update at w is sum_k w_k Delta W_k of the experts.

    Source: Rewarded Soups, arXiv 2306.04488, with updates instead of factors averaged.
    """
    rank, alpha = config.adapter.rank * len(experts), config.adapter.alpha * len(experts)
    blocks = replace(config.adapter, core="experts", rank=rank, alpha=alpha)
    parts = assemble(replace(config, adapter=blocks))
    with torch.no_grad():
        for i, layer in enumerate(parts.adapter.layers):
            layer.down.copy_(torch.cat([expert.layers[i].down for expert in experts]))
            layer.up.copy_(torch.cat([expert.layers[i].up for expert in experts], dim=1))
    return parts
