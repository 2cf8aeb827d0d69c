"""Takes over a pipeline's scheduler steps for one call, and remembers every denoiser call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from jaxtyping import Float
from torch import Tensor, nn

from morl.diffusion.families import Family
from morl.diffusion.gradient import GradientSteps
from morl.diffusion.schedule import Schedule, eta_at, schedule_of
from morl.diffusion.steps import gaussian_log_prob
from morl.diffusion.trajectory import Call, Trajectory, argument_names, call_of
from morl.errors import PipelineError


@dataclass(frozen=True)
class Part:
    """Rows `start`, `start` + 1, ... of a larger batch, for which all noise is drawn: what a sample
    gets does not depend on how the batch is split. `total`: rows of the larger batch.
    """

    start: int
    total: int


class Recorder:
    """The scheduler step of one pipeline call; use once, inside `attached`.

    At every step it checks that the denoiser ran exactly once, that the declared guidance formula
    reproduces the model output that reached the scheduler, and that the pipeline hands back the
    latents it was given. `gradient` says which denoiser calls are differentiated.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        *,
        batch: int,
        guidance: float,
        eta: float,
        generator: torch.Generator | None,
        record: bool,
        gradient: GradientSteps | None = None,
        noise_steps: int | None = None,
        part: Part | None = None,
    ) -> None:
        self._family = family
        self._denoiser = family.denoiser_of(pipe)
        self._scheduler = pipe.scheduler
        self._names = argument_names(family, self._denoiser)
        self._batch = batch
        self._guidance = guidance
        self._eta = eta
        self._generator = generator
        self._record = record
        self._gradient = gradient
        self._noise_steps = noise_steps
        self._part = part or Part(0, batch)
        self._schedule: Schedule | None = None
        self._pending: list[tuple[Call, Tensor]] = []
        self._calls: list[Call] = []
        self._latents: list[Tensor] = []
        self._log_probs: list[Float[Tensor, " batch"] | None] = []
        self._last: Tensor | None = None
        self.predictions: list[Tensor] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook the denoiser and replace the scheduler's step; both are undone on the way out."""
        overrides = vars(self._scheduler)
        if "step" in overrides:
            raise PipelineError("this pipeline is being recorded already; one call at a time")
        # An attribute of the instance, so that every signature a pipeline inspects, and
        # set_timesteps with sigmas= or mu=, stay the scheduler's own.
        overrides["step"] = self.step
        hooks = [self._denoiser.register_forward_hook(self._on_call, with_kwargs=True)]
        if self._gradient is not None and not self._gradient.through_latents:
            hooks.append(
                self._denoiser.register_forward_pre_hook(self._before_call, with_kwargs=True)
            )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            del overrides["step"]

    def _before_call(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Cut the gradient where the denoiser reads the latents, and in calls not chosen."""
        assert self._gradient is not None
        torch.set_grad_enabled(len(self._log_probs) in self._gradient.steps)
        place = self._names.index(self._family.sample_argument)
        if place < len(args):
            return (*args[:place], args[place].detach(), *args[place + 1 :]), kwargs
        name = self._family.sample_argument
        return args, {**kwargs, name: kwargs[name].detach()}

    def _on_call(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        call = call_of(self._family, self._names, self._batch, args, kwargs)
        if self._calls:
            call = _sharing(call, self._calls[-1].conditioning)
        self._pending.append((call, output[0]))
        if self._gradient is not None:
            # The scheduler's steps carry the gradient on, also past a call that was left out.
            torch.set_grad_enabled(len(self._log_probs) >= self._gradient.first)

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput:
        """Replace `scheduler.step`: our Gaussian step, rounded to the pipeline's dtype."""
        if self._schedule is None:
            self._schedule = schedule_of(self._scheduler)
        index = len(self._log_probs)
        self._check(model_output, sample)
        eta = eta_at(index, self._eta, self._noise_steps)
        moments = self._schedule.moments(index, model_output, sample, eta)
        latents = moments.mean
        if moments.std > 0:
            latents = moments.draw(self._noise(moments.mean))
        # Rounded before the log-prob is taken, so that a replay sees what was scored.
        latents = latents.to(sample.dtype)
        call = self._pending.pop()[0]
        log_prob = None
        if self._record:
            self._calls.append(call)
            self._latents.append(sample.detach())
            if moments.std > 0:
                with torch.no_grad():
                    log_prob = gaussian_log_prob(latents, moments.mean, moments.std)
        self._log_probs.append(log_prob)
        if self._gradient is not None:
            if index in self._gradient.steps:
                self.predictions.append(model_output)
            torch.set_grad_enabled(index + 1 >= self._gradient.first)
        self._last = latents
        return SchedulerOutput(prev_sample=latents)

    def finish(self, result: Tensor) -> tuple[Tensor, Trajectory]:
        """Return the final latents and what was recorded; `result` is what the pipeline returned.

        Raises PipelineError if steps are missing, or if the pipeline changed the latents.
        """
        schedule, final, taken = self._schedule, self._last, len(self._log_probs)
        if schedule is None or final is None or taken != len(schedule):
            planned = 0 if schedule is None else len(schedule)
            raise PipelineError(
                f"{self._family.pipeline}: {taken} of {planned} scheduler steps ran; "
                "partial denoising cannot be recorded"
            )
        self._check_same(result, "the latents it returns are not those of the last step")
        recorded = [row for row in self._log_probs if row is not None]
        log_probs = None
        if recorded:
            zero = torch.zeros_like(recorded[0])
            log_probs = torch.stack([zero if r is None else r for r in self._log_probs], dim=1)
        latents = (*self._latents, final.detach()) if self._record else ()
        has_log_prob = torch.tensor([row is not None for row in self._log_probs])
        trajectory = Trajectory(schedule, latents, tuple(self._calls), log_probs, has_log_prob)
        return final, trajectory

    def _noise(self, like: Tensor) -> Tensor:
        if self._generator is None:
            raise ValueError("`generator` is needed where `eta` > 0: the steps draw noise")
        part, device = self._part, self._generator.device
        shape = (part.total, *like.shape[1:])
        noise = torch.randn(shape, generator=self._generator, device=device, dtype=like.dtype)
        return noise[part.start : part.start + len(like)].to(like.device)

    @torch.no_grad()
    def _check(self, model_output: Tensor, sample: Tensor) -> None:
        if len(self._pending) != 1:
            raise self._misfit(
                f"the denoiser ran {len(self._pending)} times before the scheduler step; "
                "pipelines with several calls a step (true CFG, PAG) cannot be replayed"
            )
        call, output = self._pending[0]
        combined = self._family.combine(output, call.groups, self._guidance)
        if combined is not model_output and not _close(combined, model_output):
            raise self._misfit(
                f"the declared guidance formula at guidance {self._guidance} does not give the "
                "model output that reached the scheduler (rescaled guidance, skipped layers?)"
            )
        self._check_same(sample, "it changes the latents between scheduler steps")

    def _check_same(self, latents: Tensor, complaint: str) -> None:
        last = self._last
        if last is None or latents is last:
            return
        if latents.dtype != last.dtype or not torch.equal(latents, last):
            raise self._misfit(complaint)

    def _misfit(self, complaint: str) -> PipelineError:
        return PipelineError(f"{self._family.pipeline}, step {len(self._log_probs)}: {complaint}")


def _sharing(call: Call, before: Mapping[str, Any]) -> Call:
    now = call.conditioning
    if now.keys() == before.keys() and all(_same(now[name], before[name]) for name in now):
        return replace(call, conditioning=before)
    return call


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(a[name] is b[name] for name in a)
    return a is b


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    tolerance = 16 * torch.finfo(b.dtype).eps
    return torch.allclose(a.to(b.dtype), b, rtol=tolerance, atol=tolerance)
