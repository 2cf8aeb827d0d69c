"""What a diffusers scheduler will do: the timesteps of a run and the noise level of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from morl.diffusion.steps import Prediction, StepMoments, ddim_moments, flow_sde_moments
from morl.errors import PipelineError


@dataclass(frozen=True)
class Schedule:
    """Timesteps [T] of one run, and the T + 1 noise levels that its steps connect.

    `levels` are cumulative alphas (epsilon, v_prediction) or sigmas (flow), Python floats: no
    device is asked during the loop. `timesteps` are in the scheduler's units, on its device.
    """

    prediction: Prediction
    timesteps: Shaped[Tensor, " step"]
    levels: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.levels) - 1

    def moments(
        self,
        step: int,
        noise_pred: Float[Tensor, "batch ..."],
        latents: Float[Tensor, "batch ..."],
        eta: float,
    ) -> StepMoments:
        """Return the Gaussian of step `step` in 0..T-1."""
        here, there = self.levels[step], self.levels[step + 1]
        if self.prediction == "flow":
            return flow_sde_moments(noise_pred, latents, here, there, eta)
        return ddim_moments(noise_pred, latents, here, there, eta, self.prediction)

    def add_noise(
        self,
        clean: Float[Tensor, "batch ..."],
        noise: Float[Tensor, "batch ..."],
        step: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch ..."]:
        """Return what the denoiser would see at each sample's step.

        x = s clean + n noise; (s, n) = (sqrt(a), sqrt(1 - a)) or (1 - sigma, sigma) for a flow.
        """
        signal, spread = self._signal_and_noise(step, clean)
        return signal * clean + spread * noise

    def clean(
        self,
        noise_pred: Float[Tensor, "batch ..."],
        latents: Float[Tensor, "batch ..."],
        step: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch ..."]:
        """Return the clean latents that a prediction implies at each sample's step.

        epsilon: (x - n p) / s;  v_prediction: s x - n p;  flow: x - n p, with (s, n) of
        `add_noise`. Misleads for epsilon at the first steps, where 1 / s is large.
        """
        signal, spread = self._signal_and_noise(step, latents)
        if self.prediction == "epsilon":
            return (latents - spread * noise_pred) / signal
        if self.prediction == "v_prediction":
            return signal * latents - spread * noise_pred
        return latents - spread * noise_pred

    def _signal_and_noise(self, step: Int[Tensor, " batch"], like: Tensor) -> tuple[Tensor, Tensor]:
        if self.prediction == "flow":
            pairs = [(1 - sigma, sigma) for sigma in self.levels]
        else:
            pairs = [(math.sqrt(alpha), math.sqrt(1 - alpha)) for alpha in self.levels]
        table = torch.tensor(pairs, dtype=like.dtype, device=like.device)
        chosen = table[step.to(like.device)].view(-1, 2, *([1] * (like.ndim - 1)))
        return chosen[:, 0], chosen[:, 1]


def eta_at(step: int, eta: float, noise_steps: int | None) -> float:
    """Return the noise level of one step: `eta` in the first `noise_steps`, 0 after them.

    Late steps of a flow SDE leave noise in the image that nothing removes, and their log-ratios are
    many times those of early ones. None: noise in every step. Source: MixGRPO, arXiv 2507.21802.
    """
    return eta if noise_steps is None or step < noise_steps else 0.0


def schedule_of(scheduler: Any) -> Schedule:
    """Read the schedule off a DDIM or flow-matching Euler scheduler after `set_timesteps`.

    DDIM levels run along the timesteps themselves and end at the scheduler's final alpha. That is
    what the scheduler does where the number of steps divides its training steps; elsewhere it
    aims up to one training step beside the next level. Raises PipelineError for another scheduler
    or for an option that our steps do not have.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, DDIMScheduler):
        _refuse(name, scheduler.config, ("clip_sample", "thresholding"))
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise PipelineError(
                f"{name}: `prediction_type` must be epsilon or v_prediction; got {prediction!r}"
            )
        alphas = scheduler.alphas_cumprod[scheduler.timesteps.cpu()].double().tolist()
        final = float(scheduler.final_alpha_cumprod)
        return Schedule(prediction, scheduler.timesteps, (*alphas, final))
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        _refuse(name, scheduler.config, ("invert_sigmas", "stochastic_sampling"))
        sigmas = scheduler.sigmas.double().tolist()
        return Schedule("flow", scheduler.timesteps, tuple(sigmas))
    raise PipelineError(
        f"scheduler {name} cannot be recorded; set `pipe.scheduler` to "
        "DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False), or "
        "FlowMatchEulerDiscreteScheduler for a flow model"
    )


def _refuse(name: str, config: Any, options: tuple[str, ...]) -> None:
    for option in options:
        if config[option]:
            raise PipelineError(
                f"{name}: `{option}` must be off, the recorded step does not have it; "
                f"rebuild it with from_config(pipe.scheduler.config, {option}=False)"
            )
