"""Sample with a diffusers pipeline's own call, recorded, with or without gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from morl.diffusion.families import Family, latent_channels
from morl.diffusion.prompts import Conditioning
from morl.diffusion.recorder import Call, Recorder, Trajectory, argument_names, call_of
from morl.errors import PipelineError

Bind = Callable[[Tensor], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Rollout:
    """Finished latents of a batch, with everything needed to score and replay them.

    `noise` and `final` are in image layout [B,C,h,w] (`final` is what `decode` takes); the
    `trajectory` is in the denoiser's layout. `predictions` are the guided denoiser outputs of the
    differentiated steps, with gradients; empty after `sample`.
    """

    prompts: tuple[str, ...]
    weights: Float[Tensor, "batch objective"]
    noise: Float[Tensor, "batch channel height width"]
    final: Float[Tensor, "batch channel height width"]
    guidance: float
    eta: float
    trajectory: Trajectory
    predictions: tuple[Tensor, ...] = ()

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
    generator: torch.Generator | None = None,
    bind: Bind = nullcontext,
    record: bool = True,
) -> Rollout:
    """Run the pipeline's own call without gradients, our scheduler steps inside.

    latents: initial noise in image layout; steps >= 1; guidance >= 1 (1 is none, at half the
    cost); eta: noise level, in [0, 1] for DDIM, >= 0 for a flow, drawn from `generator`; bind:
    makes the context in which the denoiser reads `weights`; record=False keeps only the result.
    Raises ValueError for bad arguments, PipelineError if the pipeline is not what its family says.
    """
    _check_rows("weights", weights, conditioning)
    request = _Request(pipe, family, conditioning, latents, steps, guidance)
    recorder = request.recorder(eta=eta, generator=generator, record=record)
    with torch.no_grad(), bind(weights), recorder.attached():
        result = pipe(**request.arguments())
    return request.rollout(recorder, result[0], weights, eta)


def sample_with_gradient(
    pipe: DiffusionPipeline,
    family: Family,
    conditioning: Conditioning,
    weights: Float[Tensor, "batch objective"],
    *,
    latents: Float[Tensor, "batch channel height width"],
    steps: int,
    last_steps: int,
    guidance: float = 1.0,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    bind: Bind = nullcontext,
) -> Rollout:
    """Sample so that `final` carries gradients through the last K steps (DRaFT-K).

    K: `last_steps` in 1..steps. The steps before run without gradients inside the same call, and
    gradient mode is what it was afterwards, also on an exception. The gradient reaches the adapter
    through the denoiser outputs of the last K steps only. With eta > 0 the noise is a constant.
    Raises as `sample` does, and PipelineError if the pipeline's call cannot be entered without its
    no_grad decorator, or if no gradient reaches the final latents.
    Source: DRaFT, arXiv 2309.17400, section 4 (DRaFT-K).
    """
    if not 1 <= last_steps <= steps:
        raise ValueError(f"`last_steps` must lie in 1..{steps} (`steps`); got {last_steps}")
    _check_rows("weights", weights, conditioning)
    request = _Request(pipe, family, conditioning, latents, steps, guidance)
    recorder = request.recorder(
        eta=eta, generator=generator, record=True, gradient_from=steps - last_steps
    )
    call = _undecorated_call(pipe)
    with torch.set_grad_enabled(last_steps == steps), bind(weights), recorder.attached():
        result = call(pipe, **request.arguments())
    if not result[0].requires_grad:
        raise PipelineError(
            f"{family.pipeline}: no gradient reaches the final latents; no parameter of the "
            f"{family.denoiser} requires one, or the pipeline switches gradients off inside"
        )
    return request.rollout(recorder, result[0], weights, eta)


def first_call(
    pipe: DiffusionPipeline,
    family: Family,
    conditioning: Conditioning,
    latents: Float[Tensor, "batch channel height width"],
    *,
    guidance: float = 1.0,
) -> Call:
    """Return what the pipeline would give the denoiser first, without running the denoiser.

    It is the conditioning that `morl.diffusion.replay.denoise` needs for images that no rollout
    made. `latents` only set the size. Raises as `sample` does.
    """
    request = _Request(pipe, family, conditioning, latents, 1, guidance)
    denoiser = family.denoiser_of(pipe)
    names = argument_names(family, denoiser)

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(call_of(family, names, len(conditioning), args, kwargs))

    hook = denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        pipe(**request.arguments())
    except _Reached as reached:
        return reached.call
    finally:
        hook.remove()
    raise PipelineError(f"{family.pipeline}: the pipeline never called its {family.denoiser}")


class _Reached(Exception):
    """Carries the first denoiser call out of the pipeline."""

    def __init__(self, call: Call) -> None:
        self.call = call


def _undecorated_call(pipe: DiffusionPipeline) -> Callable[..., Any]:
    wrapped = vars(type(pipe).__call__).get("__wrapped__")
    if wrapped is None:
        raise PipelineError(
            f"{type(pipe).__name__}.__call__ has no `__wrapped__`, so its no_grad decorator cannot "
            "be left out; use an algorithm without reward gradients (policy_gradient, nft)"
        )
    call: Callable[..., Any] = wrapped
    return call


def _check_rows(name: str, rows: Tensor, conditioning: Conditioning) -> None:
    batch = len(conditioning)
    if len(rows) != batch:
        raise ValueError(f"`{name}` must have one row a prompt, {batch}; got {len(rows)}")


@dataclass(frozen=True)
class _Request:
    """The arguments that both ways of sampling share, checked."""

    pipe: DiffusionPipeline
    family: Family
    conditioning: Conditioning
    latents: Tensor
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}")
        if self.family.classifier_free and not self.guidance >= 1:
            raise ValueError(f"`guidance` must be >= 1, 1 being none; got {self.guidance}")
        _check_rows("latents", self.latents, self.conditioning)
        found = type(self.pipe.scheduler).__name__
        if found != self.family.scheduler:
            raise PipelineError(
                f"{self.family.pipeline}: the scheduler must be {self.family.scheduler}, "
                f"got {found}; `morl.diffusion.loading.load_pipeline` sets it"
            )

    def recorder(
        self,
        *,
        eta: float,
        generator: torch.Generator | None,
        record: bool,
        gradient_from: int | None = None,
    ) -> Recorder:
        return Recorder(
            self.pipe,
            self.family,
            batch=len(self.conditioning),
            guidance=self.guidance,
            eta=eta,
            generator=generator,
            record=record,
            gradient_from=gradient_from,
        )

    def arguments(self) -> dict[str, Any]:
        height, width = self.latents.shape[-2:]
        scale = self.pipe.vae_scale_factor
        embeddings = self.conditioning.arguments(self.family.groups(self.guidance) == 2)
        # Some pipelines cast given latents to this dtype and some do not.
        latents = self.latents.to(embeddings["prompt_embeds"].dtype)
        return {
            **embeddings,
            "latents": self.family.pack(latents),
            "height": height * scale,
            "width": width * scale,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "output_type": "latent",
            "return_dict": False,
        }

    def rollout(self, recorder: Recorder, result: Tensor, weights: Tensor, eta: float) -> Rollout:
        final, trajectory = recorder.finish(result)
        height, width = self.latents.shape[-2:]
        return Rollout(
            prompts=self.conditioning.prompts,
            weights=weights,
            noise=self.latents,
            final=self.family.unpack(final, height, width),
            guidance=self.guidance,
            eta=eta,
            trajectory=trajectory,
            predictions=tuple(recorder.predictions),
        )
