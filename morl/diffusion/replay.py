"""Run recorded denoiser calls again, at the same or at other latents, with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from morl.diffusion.families import Family
from morl.diffusion.recorder import Part
from morl.diffusion.rollout import Bind, Rollout
from morl.diffusion.schedule import eta_at
from morl.diffusion.steps import StepMoments, gaussian_log_prob
from morl.diffusion.trajectory import Call, Trajectory
from morl.errors import PipelineError


def replay_noise_pred(
    pipe: DiffusionPipeline,
    family: Family,
    rollout: Rollout,
    step: int,
    *,
    bind: Bind = nullcontext,
) -> Float[Tensor, "batch ..."]:
    """Run the denoiser call of one step again and return the guided prediction.

    Gradients follow the caller's gradient mode, through both halves under guidance. For the base
    model's prediction pass a `bind` that switches the adapter off. In the batch composition of
    the rollout, and with unchanged parameters, the result equals the recorded one bit for bit.
    Raises ValueError if the rollout was not recorded or has no such step.
    """
    call = _recorded(rollout, step).calls[step]
    with bind(rollout.weights):
        return _predict(pipe, family, call, rollout.guidance)


def replay_moments(
    pipe: DiffusionPipeline,
    family: Family,
    rollout: Rollout,
    step: int,
    *,
    bind: Bind = nullcontext,
) -> StepMoments:
    """Return the Gaussian of one recorded step under the current parameters."""
    trajectory = _recorded(rollout, step)
    noise_pred = replay_noise_pred(pipe, family, rollout, step, bind=bind)
    eta = eta_at(step, rollout.eta, rollout.noise_steps)
    return trajectory.schedule.moments(step, noise_pred, trajectory.latents[step], eta)


def replay_log_probs(
    pipe: DiffusionPipeline,
    family: Family,
    rollout: Rollout,
    steps: Sequence[int],
    *,
    bind: Bind = nullcontext,
) -> Float[Tensor, "batch chosen"]:
    """Return the element-mean log-probs of the recorded latents under the current parameters.

    Before the first update they equal `rollout.trajectory.log_probs[:, steps]` bit for bit.
    Raises ValueError for a step without a log-prob (`has_log_prob` is False there).
    """
    columns = []
    for step in steps:
        moments = replay_moments(pipe, family, rollout, step, bind=bind)
        reached = rollout.trajectory.latents[step + 1]
        columns.append(gaussian_log_prob(reached, moments.mean, moments.std))
    return torch.stack(columns, dim=1)


def denoise(
    pipe: DiffusionPipeline,
    family: Family,
    latents: Float[Tensor, "rows ..."],
    timestep: Tensor,
    call: Call,
    *,
    guidance: float = 1.0,
) -> Float[Tensor, "rows ..."]:
    """Predict at any noisy latents with the conditioning of a recorded call.

    latents: n * B rows in the denoiser's layout, row i belonging to sample i % B of `call` (the
    adapter's own order of repetition); timestep: one, or one a row, in the scheduler's units;
    guidance: 1 uses the conditional half of a guided call. Gradients follow the caller's mode,
    weights the caller's binding. Raises ValueError if rows do not fit, or if guidance is asked of
    a call that recorded none.
    """
    copies, rest = divmod(latents.shape[0], call.batch)
    if rest or copies == 0:
        raise ValueError(
            f"`latents` must have a multiple of {call.batch} rows (the recorded batch); "
            f"got {latents.shape[0]}"
        )
    groups = family.groups(guidance)
    if groups > call.groups:
        raise ValueError(f"the recorded call has no guidance; got `guidance` {guidance}")
    rows = latents.to(call.sample.dtype)
    times = timestep.to(rows.device).expand(latents.shape[0])
    if family.timestep_divisor != 1:
        times = times.to(rows.dtype) / family.timestep_divisor
    conditioning = {
        name: _tiled(value, call, copies, groups) if name in family.per_sample else value
        for name, value in call.conditioning.items()
    }
    stacked = Call(torch.cat([rows] * groups), torch.cat([times] * groups), conditioning, groups)
    return _predict(pipe, family, stacked, guidance)


@dataclass(frozen=True)
class Renoised:
    """Fresh endings of finished images: n * B rows, row i belonging to sample i % B.

    `final` is in image layout and carries gradients; `prediction` is the denoiser output behind
    it, `latents` and `timestep` what the denoiser saw (for the base model's prediction there).
    """

    final: Float[Tensor, "rows channel height width"]
    prediction: Float[Tensor, "rows ..."]
    latents: Float[Tensor, "rows ..."]
    timestep: Tensor


def renoise_last_step(
    pipe: DiffusionPipeline,
    family: Family,
    rollout: Rollout,
    *,
    generator: torch.Generator,
    copies: int,
    part: Part | None = None,
    bind: Bind = nullcontext,
) -> Renoised:
    """Re-noise finished latents to the last level and take the last step again (DRaFT-LV).

    x = s stop(x0) + n e, e ~ N(0, I) from `generator`;  final = mean of the last step at x

    One denoiser call of `copies` * B rows; the step is the deterministic one (eta = 0), which
    lowers the variance of the DRaFT-1 gradient at the price of one forward and backward a copy.
    Raises ValueError if copies < 1 or the rollout was not recorded.
    Source: DRaFT, arXiv 2309.17400, section 4 (DRaFT-LV).
    """
    if copies < 1:
        raise ValueError(f"`copies` must be at least 1; got {copies}")
    last = len(rollout.trajectory.schedule) - 1
    trajectory = _recorded(rollout, last)
    schedule = trajectory.schedule
    clean = trajectory.latents[-1]
    clean = clean.repeat(copies, *([1] * (clean.ndim - 1)))
    within = part or Part(0, len(rollout))
    shape = (copies, within.total, *clean.shape[1:])
    noise = torch.randn(shape, generator=generator, device=generator.device)
    noise = noise[:, within.start : within.start + len(rollout)].flatten(0, 1)
    at = torch.full((len(clean),), last, device=clean.device)
    latents = schedule.add_noise(clean, noise.to(clean), at)
    timestep = schedule.timesteps[last]
    with bind(rollout.weights):
        prediction = denoise(
            pipe, family, latents, timestep, trajectory.calls[last], guidance=rollout.guidance
        )
    mean = schedule.moments(last, prediction, latents, 0.0).mean
    height, width = rollout.noise.shape[-2:]
    final = family.unpack(mean.to(clean.dtype), height, width)
    return Renoised(final, prediction, latents, timestep)


def _predict(
    pipe: DiffusionPipeline, family: Family, call: Call, guidance: float
) -> Float[Tensor, "batch ..."]:
    arguments = {family.sample_argument: call.sample, **call.conditioning}
    output = family.denoiser_of(pipe)(timestep=call.timestep, **arguments)[0]
    return family.combine(output, call.groups, guidance)


def _recorded(rollout: Rollout, step: int) -> Trajectory:
    trajectory = rollout.trajectory
    if not trajectory.calls:
        raise ValueError("the rollout was sampled with record=False; it cannot be replayed")
    if not 0 <= step < len(trajectory.calls):
        raise ValueError(f"`step` must lie in 0..{len(trajectory.calls) - 1}; got {step}")
    return trajectory


def _tiled(value: Any, call: Call, copies: int, groups: int) -> Any:
    """Keep the last `groups` of a per-sample argument's groups and repeat each `copies` times."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _tiled(entry, call, copies, groups) for name, entry in value.items()}
    if not isinstance(value, Tensor) or value.shape[0] != call.groups * call.batch:
        raise PipelineError(
            "a per-sample denoiser argument must be a tensor with one row for each of the "
            f"{call.groups * call.batch} recorded rows; got {type(value).__name__}"
        )
    by_group = value.unflatten(0, (call.groups, call.batch))[-groups:]
    tiled = by_group.repeat(1, copies, *([1] * (value.ndim - 1)))
    return tiled.flatten(0, 1)
