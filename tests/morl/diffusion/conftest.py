"""One batch of every supported family, on tiny pipelines with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import BUILDERS, build
from torch import Tensor

from morl.diffusion.families import Family, family_of
from morl.diffusion.gradient import last_steps
from morl.diffusion.prompts import Conditioning, PromptCache
from morl.diffusion.rollout import Rollout, initial_latents, sample, sample_with_gradient


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Case:
    """A tiny pipeline with one batch of three samples."""

    pipe: DiffusionPipeline
    family: Family
    conditioning: Conditioning
    weights: Tensor
    latents: Tensor

    @property
    def common(self) -> tuple[DiffusionPipeline, Family]:
        return self.pipe, self.family

    def sample(self, **options: object) -> Rollout:
        settings = {"steps": 4, "generator": seeded(1), "latents": self.latents, **options}
        return sample(*self.common, self.conditioning, self.weights, **settings)

    def sample_with_gradient(self, **options: object) -> Rollout:
        count = options.pop("last_steps", 1)
        settings = {
            "steps": 4,
            "gradient": last_steps(4, count) if "gradient" not in options else None,
            "latents": self.latents,
            **options,
        }
        return sample_with_gradient(*self.common, self.conditioning, self.weights, **settings)

    def unfreeze(self) -> Tensor:
        """Unfreeze one weight of the denoiser, the stand-in for an adapter, and return it."""
        named = self.family.denoiser_of(self.pipe).named_parameters()
        weight = next(parameter for name, parameter in named if name.endswith("to_v.weight"))
        return weight.requires_grad_(True)


def make_case(name: str, dtype: torch.dtype = torch.float32) -> Case:
    pipe = build(name)
    if dtype != torch.float32:
        pipe.to(dtype)
    family = family_of(pipe)
    return Case(
        pipe=pipe,
        family=family,
        conditioning=PromptCache(pipe, family)(["a red star", "a ring", "a red star"]),
        weights=torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]),
        latents=initial_latents(pipe, family, 3, seeded(0)),
    )


@pytest.fixture(params=sorted(BUILDERS))
def case(request: pytest.FixtureRequest) -> Case:
    """Each supported family in turn."""
    return make_case(request.param)


@pytest.fixture
def sd_case() -> Case:
    return make_case("sd")


@pytest.fixture
def case_of() -> Callable[..., Case]:
    return make_case


@pytest.fixture
def build_pipe() -> Callable[[str], DiffusionPipeline]:
    return build
