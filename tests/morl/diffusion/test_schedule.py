"""The recorded step against the schedulers of diffusers, and noise levels for one batch."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from morl.diffusion.schedule import Schedule, schedule_of
from morl.errors import PipelineError


def ddim(**options: object) -> DDIMScheduler:
    settings = {"clip_sample": False, "timestep_spacing": "trailing", "steps_offset": 1}
    return DDIMScheduler(**{**settings, **options})


def randn(seed: int) -> Tensor:
    return torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def stock_run(scheduler, outputs: list[Tensor]) -> list[Tensor]:
    latents = [randn(99)]
    for output, timestep in zip(outputs, scheduler.timesteps, strict=True):
        latents.append(scheduler.step(output, timestep, latents[-1]).prev_sample)
    return latents


def our_run(schedule: Schedule, outputs: list[Tensor]) -> list[Tensor]:
    latents = [randn(99)]
    for step, output in enumerate(outputs):
        latents.append(schedule.moments(step, output, latents[-1], 0.0).mean)
    return latents


@pytest.mark.parametrize(
    "scheduler",
    [
        ddim(),
        ddim(prediction_type="v_prediction"),
        ddim(timestep_spacing="leading", set_alpha_to_one=False),
        ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=["trailing", "v", "leading", "zero-snr", "flow"],
)
def test_without_noise_it_is_the_stock_scheduler(scheduler) -> None:
    scheduler.set_timesteps(5)
    schedule = schedule_of(scheduler)
    outputs = [randn(seed) for seed in range(5)]
    assert len(schedule) == 5
    for ours, stock in zip(our_run(schedule, outputs), stock_run(scheduler, outputs), strict=True):
        torch.testing.assert_close(ours, stock, rtol=2e-5, atol=2e-5)


def test_levels_run_along_the_timesteps_where_the_stock_scheduler_misses_them() -> None:
    # 1000 / 7 is no integer: the stock step from 856 aims at 856 - 142 = 714, but the network is
    # next asked at 713; and its last step ends at level 0 instead of the clean image.
    scheduler = ddim()
    scheduler.set_timesteps(7)
    schedule = schedule_of(scheduler)
    assert scheduler.timesteps[1:3].tolist() == [856, 713]
    assert schedule.levels[2] == pytest.approx(scheduler.alphas_cumprod[713].item())
    assert schedule.levels[-1] == 1


def test_dynamic_shift_reaches_the_levels() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.8)
    assert schedule_of(scheduler).levels == tuple(scheduler.sigmas.tolist())


def test_add_noise_is_that_of_the_scheduler() -> None:
    step = torch.tensor([0, 2, 4, 4])
    scheduler = ddim()
    scheduler.set_timesteps(5)
    stock = scheduler.add_noise(randn(0), randn(1), scheduler.timesteps[step])
    torch.testing.assert_close(schedule_of(scheduler).add_noise(randn(0), randn(1), step), stock)
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.set_timesteps(5)
    stock = flow.scale_noise(randn(0), flow.timesteps[step], randn(1))
    torch.testing.assert_close(schedule_of(flow).add_noise(randn(0), randn(1), step), stock)


@pytest.mark.parametrize(
    ("prediction", "levels"),
    [
        ("epsilon", (0.01, 0.3, 0.8, 1.0)),
        ("v_prediction", (0.0, 0.3, 0.8, 1.0)),
        ("flow", (1.0, 0.6, 0.2, 0.0)),
    ],
)
def test_clean_inverts_add_noise_for_the_true_prediction(prediction, levels) -> None:
    schedule = Schedule(prediction, torch.tensor([3, 2, 1]), levels)
    clean, noise, step = randn(0), randn(1), torch.tensor([0, 1, 2, 2])
    latents = schedule.add_noise(clean, noise, step)
    alpha = torch.tensor(levels)[step].view(-1, 1, 1, 1)
    truth = {
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        "flow": noise - clean,
    }[prediction]
    recovered = schedule.clean(truth, latents, step)
    torch.testing.assert_close(recovered, clean, rtol=1e-4, atol=1e-4)


def test_unknown_scheduler() -> None:
    with pytest.raises(PipelineError, match="EulerDiscreteScheduler cannot be recorded"):
        schedule_of(EulerDiscreteScheduler())


@pytest.mark.parametrize(
    ("scheduler", "option"),
    [
        (DDIMScheduler(clip_sample=True), "clip_sample"),
        (ddim(thresholding=True), "thresholding"),
        (ddim(prediction_type="sample"), "prediction_type"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling"),
    ],
)
def test_options_that_the_recorded_step_lacks(scheduler, option: str) -> None:
    scheduler.set_timesteps(4)
    with pytest.raises(PipelineError, match=option):
        schedule_of(scheduler)
