"""From a configuration to the parts of a run: pipeline, adapter, objective, sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from morl.config.scorers import configure_scorers
from morl.config.tree import Config
from morl.diffusion.compiled import compile_blocks
from morl.diffusion.families import Family, family_of
from morl.diffusion.loading import base_identity, checkpoint_decoder, load_pipeline
from morl.diffusion.prompts import PromptCache
from morl.lora.conditioned import ConditionedAdapter
from morl.prompts import records
from morl.randomness import generator
from morl.training.device import choose_device
from morl.training.ledger import Ledger
from morl.training.micro_batch import MicroBatch
from morl.training.sampler import Sampler
from rewards.calibration import Calibration
from rewards.evaluate import BoundObjective
from rewards.objective import Objective
from rewards.reward import ImageBatch

CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Assembly:
    """The loaded parts of a run; the base model is frozen, the adapter is what trains."""

    config: Config
    pipe: DiffusionPipeline
    identity: dict[str, str]
    """Which base model this is, taken before anything was injected."""
    family: Family
    adapter: ConditionedAdapter
    objective: Objective
    bound: BoundObjective
    sampler: Sampler
    ledger: Ledger


def assemble(config: Config) -> Assembly:
    """Load everything that a run needs; the configuration has been checked before."""
    device = choose_device(config.training.accelerator)
    configure_scorers(config.objective)
    pipe = load_pipeline(
        config.base.model,
        revision=config.base.revision,
        dtype=getattr(torch, config.base.dtype),
        device=device,
        decode=config.base.decode,
        config=config.base.config,
        quantize=config.base.quantize,
    )
    family = family_of(pipe)
    identity = base_identity(pipe)
    objective = Objective.from_dict(config.objective.to_objective())
    adapter = ConditionedAdapter.inject(
        family.denoiser_of(pipe),
        config.names,
        config.adapter,
        budgets=objective.budgets,
        seed=config.training.seed,
        pipe=pipe,
    )
    if config.base.gradient_checkpointing:
        adapter.enable_gradient_checkpointing()
        checkpoint_decoder(pipe)
    if config.base.compile:
        compile_blocks(family.denoiser_of(pipe))
    ledger = Ledger()
    sampler = Sampler(
        pipe,
        family,
        adapter,
        PromptCache(pipe, family, offload=config.base.offload_text_encoders),
        ledger,
        steps=config.base.steps,
        guidance=config.base.guidance,
        size=None if config.base.size is None else (config.base.size, config.base.size),
        micro=MicroBatch(config.training.micro_batch),
    )
    bound = objective.bind(device=device)
    return Assembly(config, pipe, identity, family, adapter, objective, bound, sampler, ledger)


@torch.no_grad()
def fit_calibration(parts: Assembly, prompts: Sequence[str], seed: int) -> Calibration:
    """Mean and std of each maximised expression on the base model's images, frozen for the run.

    Also fits what `calibrated()` and `ensemble()` inside the expressions need.
    """
    chosen = [prompts[i % len(prompts)] for i in range(CALIBRATION_IMAGES)]
    size = parts.config.training.batch_size
    raw, told, applies = [], [], []
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        told.append(records(part))
        noise = parts.sampler.noise(len(part), generator(seed, start, 0, "calibration"))
        weights = torch.zeros(len(part), len(parts.objective.names))
        images = parts.sampler.decode(parts.sampler.sample(part, weights, noise, reference=True))
        batch = ImageBatch(images, part, told[-1])
        raw.append(parts.bound.panel(batch))
        applies.append(parts.bound.applies(batch))
    parts.bound.fit(raw, applies)
    rows = zip(raw, applies, told, strict=True)
    tables = [
        parts.bound.routed(parts.bound.table(table, held), records) for table, held, records in rows
    ]
    rewards = torch.cat([table.rewards for table in tables])
    valid = torch.cat([table.reward_valid for table in tables])
    return Calibration.fit(parts.objective.names, rewards, valid)
