"""What is kept of one pipeline call: every denoiser call and every latent."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from morl.diffusion.families import Family
from morl.diffusion.schedule import Schedule
from morl.errors import PipelineError


@dataclass(frozen=True)
class Call:
    """Everything one denoiser call was given; tensors are references, not copies.

    `sample` holds `groups` * batch rows, [unconditional..., conditional...] where groups = 2.
    `conditioning` are all other arguments but the timestep; steps that share them share the dict.
    """

    sample: Tensor
    timestep: Tensor
    conditioning: Mapping[str, Any]
    groups: int

    @property
    def batch(self) -> int:
        """Samples, not rows."""
        return self.sample.shape[0] // self.groups


@dataclass(frozen=True)
class Trajectory:
    """One recorded run of T steps, in the denoiser's own layout and the pipeline's own dtype.

    `latents`: T + 1 tensors [B,...], what the network saw and, last, the finished latents;
    `calls`: T denoiser calls; `log_probs` [B,T]: element means, 0 where `has_log_prob` [T] is
    False (a deterministic step). Empty, and None, if nothing was recorded.
    """

    schedule: Schedule
    latents: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    log_probs: Float[Tensor, "batch step"] | None
    has_log_prob: Bool[Tensor, " step"]


def argument_names(family: Family, denoiser: nn.Module) -> list[str]:
    """Return the names of the denoiser's arguments in order; raises PipelineError if one lacks."""
    names = list(inspect.signature(denoiser.forward).parameters)
    for needed in (family.sample_argument, "timestep"):
        if needed not in names:
            raise PipelineError(
                f"{family.pipeline}: the {family.denoiser} has no argument `{needed}`; "
                f"it has {', '.join(names)}"
            )
    return names


def call_of(
    family: Family, names: list[str], batch: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call:
    """Name the arguments of one denoiser call and count its rows a sample."""
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    sample = named.pop(family.sample_argument)
    timestep = named.pop("timestep")
    groups, rest = divmod(sample.shape[0], batch)
    if rest or groups not in (1, 2):
        raise PipelineError(
            f"{family.pipeline}: the denoiser batch has {sample.shape[0]} rows for {batch} "
            "samples; one or two rows a sample are supported"
        )
    # Nested dicts are copied: pipelines rebuild or reuse them from step to step.
    conditioning = {
        name: dict(value) if isinstance(value, dict) else value for name, value in named.items()
    }
    return Call(sample.detach(), timestep, conditioning, groups)
