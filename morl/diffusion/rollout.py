"""Sample with a diffusers pipeline's own call, recorded, with or without gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from morl.diffusion.families import Family, latent_channels
from morl.diffusion.gradient import GradientSteps
from morl.diffusion.prompts import Conditioning
from morl.diffusion.recorder import Part, Recorder
from morl.diffusion.request import Request, check_rows
from morl.diffusion.trajectory import Trajectory
from morl.errors import PipelineError

Bind = Callable[[Tensor], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Rollout:
    """Finished latents of a batch, with everything needed to score and replay them.

    `noise` and `final` are in image layout [B,C,h,w] (`final` is what `decode` takes); the
    `trajectory` is in the denoiser's layout. `predictions` are the guided denoiser outputs of the
    differentiated steps, with gradients; empty after `sample`. `noise_steps`: see `sample`.
    """

    prompts: tuple[str, ...]
    weights: Float[Tensor, "batch objective"]
    noise: Float[Tensor, "batch channel height width"]
    final: Float[Tensor, "batch channel height width"]
    guidance: float
    eta: float
    trajectory: Trajectory
    predictions: tuple[Tensor, ...] = ()
    noise_steps: int | None = None

    def __len__(self) -> int:
        return self.final.shape[0]


def initial_latents(
    pipe: DiffusionPipeline,
    family: Family,
    batch: int,
    generator: torch.Generator,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch channel height width"]:
    """Draw standard normal latents in image layout; a function of the generator only.

    `size` is (height, width) in pixels, the pipeline's own default if None. Raises ValueError for
    a size that the pipeline cannot make.
    """
    height, width = family.default_size(pipe)
    if size is not None:
        multiple = pipe.vae_scale_factor * family.patch
        if min(size) < multiple or any(side % multiple for side in size):
            raise ValueError(f"`size` must be positive multiples of {multiple}; got {size}")
        height, width = (side // pipe.vae_scale_factor for side in size)
    shape = (batch, latent_channels(pipe, family), height, width)
    noise = torch.randn(shape, generator=generator, device=generator.device)
    return noise.to(pipe.device)


def sample(
    pipe: DiffusionPipeline,
    family: Family,
    conditioning: Conditioning,
    weights: Float[Tensor, "batch objective"],
    *,
    latents: Float[Tensor, "batch channel height width"],
    steps: int,
    guidance: float = 1.0,
    eta: float = 0.0,
    noise_steps: int | None = None,
    generator: torch.Generator | None = None,
    bind: Bind = nullcontext,
    record: bool = True,
    part: Part | None = None,
) -> Rollout:
    """Run the pipeline's own call without gradients, our scheduler steps inside.

    latents: initial noise in image layout; steps >= 1; guidance >= 1 (1 is none, at half the
    cost); eta: noise level, in [0, 1] for DDIM, >= 0 for a flow, drawn from `generator`, in the
    first `noise_steps` steps alone if given; bind: makes the context in which the denoiser reads
    `weights`; record=False keeps only the result; part: which rows of a larger batch these are.
    Raises ValueError for bad arguments, PipelineError if the pipeline is not what its family says.
    """
    check_rows("weights", weights, conditioning)
    request = Request(pipe, family, conditioning, latents, steps, guidance)
    return _run(
        request,
        pipe,
        weights,
        bind,
        eta=eta,
        noise_steps=noise_steps,
        generator=generator,
        record=record,
        part=part,
    )


def sample_with_gradient(
    pipe: DiffusionPipeline,
    family: Family,
    conditioning: Conditioning,
    weights: Float[Tensor, "batch objective"],
    *,
    latents: Float[Tensor, "batch channel height width"],
    steps: int,
    gradient: GradientSteps,
    guidance: float = 1.0,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    bind: Bind = nullcontext,
) -> Rollout:
    """Sample so that `final` carries gradients of the denoiser calls that `gradient` names.

    The steps before run without gradients inside the same call, and gradient mode is what it was
    afterwards, also on an exception. With eta > 0 the noise is a constant.
    Raises as `sample` does, ValueError for steps that do not exist, and PipelineError if the
    pipeline's call cannot be entered without its no_grad decorator, or if no gradient reaches the
    final latents.
    Source: DRaFT, arXiv 2309.17400, section 4; DRTune, arXiv 2405.00760, algorithm 1.
    """
    gradient.check(steps)
    check_rows("weights", weights, conditioning)
    request = Request(pipe, family, conditioning, latents, steps, guidance)
    rollout = _run(
        request,
        partial(_undecorated_call(pipe), pipe),
        weights,
        bind,
        eta=eta,
        generator=generator,
        record=True,
        gradient=gradient,
    )
    if not rollout.final.requires_grad:
        raise PipelineError(
            f"{family.pipeline}: no gradient reaches the final latents; no parameter of the "
            f"{family.denoiser} requires one, or the pipeline switches gradients off inside"
        )
    return rollout


def _undecorated_call(pipe: DiffusionPipeline) -> Callable[..., Any]:
    wrapped = vars(type(pipe).__call__).get("__wrapped__")
    if wrapped is None:
        raise PipelineError(
            f"{type(pipe).__name__}.__call__ has no `__wrapped__`, so its no_grad decorator cannot "
            "be left out; use an algorithm without reward gradients (policy_gradient, nft)"
        )
    call: Callable[..., Any] = wrapped
    return call


def _run(
    request: Request,
    call: Callable[..., Any],
    weights: Tensor,
    bind: Bind,
    *,
    eta: float,
    generator: torch.Generator | None,
    record: bool,
    gradient: GradientSteps | None = None,
    noise_steps: int | None = None,
    part: Part | None = None,
) -> Rollout:
    recorder = Recorder(
        request.pipe,
        request.family,
        batch=len(request.conditioning),
        guidance=request.guidance,
        eta=eta,
        generator=generator,
        record=record,
        gradient=gradient,
        noise_steps=noise_steps,
        part=part,
    )
    # The recorder may switch gradients on in mid-call; this context restores the mode, also
    # when the call raises.
    with (
        torch.set_grad_enabled(gradient is not None and gradient.first == 0),
        bind(weights),
        recorder.attached(),
    ):
        final, trajectory = recorder.finish(call(**request.arguments())[0])
        final = request.family.unpack(final, *request.latents.shape[-2:])
    return Rollout(
        prompts=request.conditioning.prompts,
        weights=weights,
        noise=request.latents,
        final=final,
        guidance=request.guidance,
        eta=eta,
        trajectory=trajectory,
        predictions=tuple(recorder.predictions),
        noise_steps=noise_steps,
    )
