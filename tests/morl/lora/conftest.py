"""Tiny pipelines of every family, and adapters on them that do something at every weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import tiny_pipelines
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig
from rewards.budgets import Budget

OBJECTIVES = ("aesthetic", "alignment", "safety")
UNETS = ("sd", "sd2", "sdxl")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex(rows: int, seed: int = 0) -> Tensor:
    """Weight vectors that are all different, uniform on the simplex."""
    draws = -torch.rand(rows, len(OBJECTIVES), generator=seeded(seed)).log()
    return draws / draws.sum(dim=1, keepdim=True)


def randomise(adapter: ConditionedAdapter, seed: int = 1) -> None:
    """Give every parameter a value that training could have found."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def denoiser_inputs(pipe: DiffusionPipeline, rows: int, seed: int = 2) -> dict[str, Tensor]:
    """Arguments of one denoiser call with `rows` different rows."""
    generator = seeded(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    match type(pipe).__name__:
        case "StableDiffusionPipeline":
            inputs = {"sample": noise(4, 8, 8), "encoder_hidden_states": noise(5, 16)}
        case "StableDiffusionXLPipeline":
            extra = {"text_embeds": noise(16), "time_ids": noise(6)}
            inputs = {"sample": noise(4, 8, 8), "encoder_hidden_states": noise(5, 32)}
            inputs["added_cond_kwargs"] = extra
        case "StableDiffusion3Pipeline":
            inputs = {"hidden_states": noise(4, 8, 8), "encoder_hidden_states": noise(5, 32)}
            inputs["pooled_projections"] = noise(32)
        case "SanaPipeline":
            inputs = {"hidden_states": noise(4, 8, 8), "encoder_hidden_states": noise(5, 16)}
            inputs["encoder_attention_mask"] = torch.ones(rows, 5)
        case "AuraFlowPipeline":
            inputs = {"hidden_states": noise(4, 8, 8), "encoder_hidden_states": noise(5, 16)}
        case _:
            inputs = {"hidden_states": noise(16, 16), "encoder_hidden_states": noise(5, 16)}
            inputs |= {"pooled_projections": noise(16), "guidance": torch.ones(rows)}
            inputs |= {"img_ids": torch.rand(16, 3), "txt_ids": torch.zeros(5, 3)}
    return {**inputs, "timestep": torch.linspace(0.2, 0.9, rows)}


@dataclass(frozen=True)
class Adapted:
    """A tiny pipeline whose denoiser carries an adapter, and its untouched twin."""

    pipe: DiffusionPipeline
    base: nn.Module
    denoiser: nn.Module
    adapter: ConditionedAdapter

    def inputs(self, rows: int, seed: int = 2) -> dict[str, Tensor]:
        return denoiser_inputs(self.pipe, rows, seed)

    def __call__(self, inputs: dict[str, Tensor], weights: Tensor) -> Tensor:
        with self.adapter.bind(weights):
            return self.denoiser(**inputs, return_dict=False)[0]

    def reference(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.base(**inputs, return_dict=False)[0]


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    return pipe.components["unet"] if "unet" in pipe.components else pipe.components["transformer"]


def make(
    name: str = "sd", *, trained: bool = True, budgets: Sequence[Budget] = (), **settings: object
) -> Adapted:
    pipe, twin = tiny_pipelines.build(name), tiny_pipelines.build(name)
    targets = "attention+conv" if name in UNETS else "attention"
    config = AdapterConfig(**{"rank": 6, "alpha": 12.0, "targets": targets, **settings})
    adapter = ConditionedAdapter.inject(denoiser_of(pipe), OBJECTIVES, config, budgets=budgets)
    if trained:
        randomise(adapter)
    return Adapted(pipe, denoiser_of(twin), denoiser_of(pipe), adapter)


@pytest.fixture
def adapted() -> Callable[..., Adapted]:
    """Build a tiny pipeline with an adapter: (family, *, trained, budgets, **its config)."""
    return make


@pytest.fixture
def build_pipe() -> Callable[[str], DiffusionPipeline]:
    return tiny_pipelines.build
