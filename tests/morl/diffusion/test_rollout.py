"""Sampling against the untouched pipeline, exact replay, and gradients through the last steps."""

from contextlib import contextmanager

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

from morl.diffusion.families import decode, family_of
from morl.diffusion.gradient import GradientSteps
from morl.diffusion.prompts import PromptCache
from morl.diffusion.replay import (
    denoise,
    renoise_last_step,
    replay_log_probs,
    replay_moments,
    replay_noise_pred,
)
from morl.diffusion.request import first_call
from morl.diffusion.rollout import initial_latents, sample
from morl.errors import PipelineError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stock(case, guidance: float) -> torch.Tensor:
    """The pipeline as a user calls it: text in, its own scheduler steps."""
    height, width = (side * case.pipe.vae_scale_factor for side in case.latents.shape[-2:])
    settings = dict(case.family.call_arguments)
    if type(case.pipe).__name__ == "SanaPipeline":  # a call with text encodes it itself
        settings |= {"negative_prompt": "", "complex_human_instruction": None}
    final = case.pipe(
        prompt=list(case.conditioning.prompts),
        latents=case.family.pack(case.latents),
        height=height,
        width=width,
        num_inference_steps=4,
        guidance_scale=guidance,
        output_type="latent",
        **settings,
    ).images
    return case.family.unpack(final, *case.latents.shape[-2:])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_without_noise_it_is_the_stock_pipeline(case, guidance: float) -> None:
    torch.testing.assert_close(
        case.sample(guidance=guidance).final, stock(case, guidance), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_ratio_is_exactly_one_before_the_first_update(case, guidance: float) -> None:
    rollout = case.sample(guidance=guidance, eta=0.7)
    case.unfreeze()
    replayed = replay_log_probs(*case.common, rollout, [0, 1, 2])
    assert torch.equal(replayed, rollout.trajectory.log_probs[:, :3])
    assert replayed.requires_grad


def test_log_probs_are_those_of_the_drawn_noise(sd_case) -> None:
    # x' = mean + std z, so the element-mean log-prob is -mean(z^2) / 2 - log std - log(2 pi) / 2,
    # with z drawn in turn from the generator.
    rollout = sd_case.sample(eta=1.0, generator=seeded(5))
    generator = seeded(5)
    for step in range(3):
        z = torch.randn(3, 4, 8, 8, generator=generator)
        std = replay_moments(*sd_case.common, rollout, step).std
        constant = torch.tensor(std).log() + 0.5 * torch.tensor(2 * torch.pi).log()
        expected = -z.square().mean((1, 2, 3)) / 2 - constant
        torch.testing.assert_close(
            rollout.trajectory.log_probs[:, step], expected, rtol=1e-4, atol=1e-4
        )


def test_log_prob_gradient_matches_finite_differences(case_of) -> None:
    case = case_of("sd", torch.float64)
    rollout = case.sample(eta=0.7, guidance=2.0)
    weight = case.unfreeze()

    def total() -> torch.Tensor:
        return replay_log_probs(*case.common, rollout, [1]).sum()

    total().backward()
    delta = 1e-5
    with torch.no_grad():
        weight[0, 0] += delta
        above = total()
        weight[0, 0] -= 2 * delta
        below = total()
    numeric = (above - below).item() / (2 * delta)
    assert weight.grad[0, 0].item() == pytest.approx(numeric, rel=1e-4)


def test_results_depend_on_the_arguments_only(sd_case) -> None:
    torch.manual_seed(1)
    first = sd_case.sample(eta=0.7, generator=seeded(3))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = sd_case.sample(eta=0.7, generator=seeded(3))
    assert torch.equal(first.final, second.final)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first.final, sd_case.sample(eta=0.7, generator=seeded(4)).final)


def test_a_sample_does_not_depend_on_its_neighbours(case) -> None:
    rollout = case.sample()
    conditioning = PromptCache(*case.common)(["a red star"])
    alone = sample(*case.common, conditioning, case.weights[:1], latents=case.latents[:1], steps=4)
    torch.testing.assert_close(alone.final, rollout.final[:1], rtol=1e-4, atol=1e-4)


def test_weights_are_bound_around_the_call_and_every_replay(sd_case) -> None:
    seen = []

    @contextmanager
    def bind(weights):
        seen.append(weights)
        yield
        seen.append("released")

    rollout = sd_case.sample(bind=bind, eta=0.5)
    replay_log_probs(*sd_case.common, rollout, [0, 2], bind=bind)
    renoise_last_step(*sd_case.common, rollout, generator=seeded(0), copies=2, bind=bind)
    assert len(seen) == 8
    assert all(entry is sd_case.weights for entry in seen[::2])
    assert seen[1::2] == ["released"] * 4


def test_initial_latents(case) -> None:
    latents = initial_latents(*case.common, 2, seeded(0))
    assert latents.shape == (2, 4, 8, 8)
    assert torch.equal(latents, initial_latents(*case.common, 2, seeded(0)))
    height, width = 4 * case.pipe.vae_scale_factor, 8 * case.pipe.vae_scale_factor
    wide = initial_latents(*case.common, 1, seeded(0), size=(height, width))
    assert wide.shape == (1, 4, 4, 8)
    with pytest.raises(ValueError, match="`size` must be positive multiples"):
        initial_latents(*case.common, 1, seeded(0), size=(height, width - 1))


def test_another_size_than_the_default(case_of) -> None:
    case = case_of("flux")
    latents = initial_latents(*case.common, 3, seeded(0), size=(8, 16))
    rollout = case.sample(latents=latents, eta=0.5)
    assert rollout.final.shape == latents.shape
    assert decode(case.pipe, rollout.final).shape == (3, 3, 8, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps`"),
        ({"guidance": 0.5}, "`guidance` must be >= 1"),
        ({"guidance": float("nan")}, "`guidance` must be >= 1"),
        ({"eta": 1.5}, "`eta`"),
        ({"eta": 0.5, "generator": None}, "`generator` is needed"),
    ],
)
def test_bad_arguments(sd_case, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sd_case.sample(**options)


def test_rows_of_another_batch(sd_case) -> None:
    common, conditioning = sd_case.common, sd_case.conditioning
    two = sd_case.latents[:2]
    with pytest.raises(ValueError, match="`weights` must have one row a prompt, 3; got 2"):
        sample(*common, conditioning, sd_case.weights[:2], latents=two, steps=2)
    with pytest.raises(ValueError, match="`latents` must have one row a prompt, 3; got 2"):
        first_call(*common, conditioning, two)


def test_a_scheduler_that_cannot_be_recorded(sd_case) -> None:
    sd_case.pipe.scheduler = EulerDiscreteScheduler()
    with pytest.raises(PipelineError, match="must be DDIMScheduler, got EulerDiscreteScheduler"):
        sd_case.sample()


# Gradients through the sampler


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_differentiable_sampling_has_the_same_values(case, guidance: float) -> None:
    case.unfreeze()
    rollout = case.sample_with_gradient(last_steps=2, guidance=guidance)
    assert torch.equal(rollout.final.detach(), case.sample(guidance=guidance).final)
    assert rollout.final.requires_grad
    assert len(rollout.predictions) == 2
    assert all(prediction.requires_grad for prediction in rollout.predictions)
    assert not any(latents.requires_grad for latents in rollout.trajectory.latents)


def test_all_steps_give_the_whole_derivative(case_of) -> None:
    case = case_of("sd", torch.float64)
    weight = case.unfreeze()
    case.sample_with_gradient(last_steps=4).final.square().sum().backward()
    delta = 1e-5
    with torch.no_grad():
        weight[0, 0] += delta
        above = case.sample().final.square().sum()
        weight[0, 0] -= 2 * delta
        below = case.sample().final.square().sum()
    numeric = (above - below).item() / (2 * delta)
    assert weight.grad[0, 0].item() == pytest.approx(numeric, rel=1e-4)


def test_one_step_stops_the_gradient_before_it(case) -> None:
    # DRaFT-1: the last step on frozen latents, worked out from the recorded call.
    weight = case.unfreeze()
    case.sample_with_gradient(last_steps=1).final.square().sum().backward()
    gradient, weight.grad = weight.grad, None
    rollout = case.sample()
    replay_moments(*case.common, rollout, 3).mean.square().sum().backward()
    torch.testing.assert_close(gradient, weight.grad)
    assert gradient.abs().sum() > 0


def test_noise_is_a_constant_of_the_gradient(sd_case) -> None:
    weight = sd_case.unfreeze()
    rollout = sd_case.sample_with_gradient(last_steps=2, eta=0.5, generator=seeded(7))
    assert torch.equal(rollout.final.detach(), sd_case.sample(eta=0.5, generator=seeded(7)).final)
    assert not rollout.trajectory.log_probs.requires_grad
    rollout.final.sum().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("last_steps", [1, 4])
@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_gradient_mode_is_restored(case_of, name: str, last_steps: int, outer: bool) -> None:
    case = case_of(name)
    case.unfreeze()
    calls = []

    def fail_at_the_last_step(*_: object) -> None:
        calls.append(torch.is_grad_enabled())
        if len(calls) == 4:
            raise RuntimeError("interrupted")

    hook = case.family.denoiser_of(case.pipe).register_forward_hook(fail_at_the_last_step)
    with torch.set_grad_enabled(outer):
        with pytest.raises(RuntimeError, match="interrupted"):
            case.sample_with_gradient(last_steps=last_steps)
        assert torch.is_grad_enabled() is outer
        hook.remove()
        assert case.sample_with_gradient(last_steps=last_steps).final.requires_grad
        assert torch.is_grad_enabled() is outer
    assert calls == [step >= 4 - last_steps for step in range(4)]


class Undecorated(StableDiffusionPipeline):
    """A pipeline that wraps its call without functools."""

    def __call__(self, *args, **kwargs):
        with torch.no_grad():
            return super().__call__(*args, **kwargs)


def test_a_call_that_cannot_be_entered(case_of) -> None:
    case = case_of("sd")
    pipe = Undecorated(**case.pipe.components, requires_safety_checker=False)
    conditioning = PromptCache(pipe, family_of(pipe))(case.conditioning.prompts)
    case = type(case)(pipe, case.family, conditioning, case.weights, case.latents)
    case.sample()
    with pytest.raises(PipelineError, match=r"Undecorated\.__call__ has no `__wrapped__`"):
        case.sample_with_gradient()


def test_nothing_to_train(sd_case) -> None:
    with pytest.raises(PipelineError, match="no gradient reaches the final latents"):
        sd_case.sample_with_gradient()


# Gradients that stop at the latents (DRTune)


def test_chosen_steps_have_the_same_values(case) -> None:
    case.unfreeze()
    chosen = GradientSteps(frozenset({0, 2}), through_latents=False)
    rollout = case.sample_with_gradient(gradient=chosen)
    assert torch.equal(rollout.final.detach(), case.sample().final)
    assert len(rollout.predictions) == 2
    assert all(prediction.requires_grad for prediction in rollout.predictions)


def test_every_chosen_step_is_credited_through_the_linear_steps_alone(case) -> None:
    weight = case.unfreeze()
    chosen = GradientSteps(frozenset({1, 3}), through_latents=False)
    case.sample_with_gradient(gradient=chosen).final.sum().backward()
    gradient, weight.grad = weight.grad, None

    # The same by hand: both predictions from frozen latents, the steps between as they are.
    rollout = case.sample()
    trajectory = rollout.trajectory
    latents = trajectory.latents[1]
    for step in range(1, 4):
        with torch.set_grad_enabled(step in chosen.steps):
            prediction = replay_noise_pred(*case.common, rollout, step)
        latents = trajectory.schedule.moments(step, prediction, latents, 0.0).mean
    latents.sum().backward()
    torch.testing.assert_close(gradient, weight.grad)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("outer", [True, False])
def test_gradient_mode_is_restored_after_chosen_steps(sd_case, outer: bool) -> None:
    sd_case.unfreeze()
    modes = []
    chosen = GradientSteps(frozenset({0, 2}), through_latents=False)
    hook = sd_case.pipe.unet.register_forward_hook(
        lambda *_: modes.append(torch.is_grad_enabled()), prepend=True
    )
    with torch.set_grad_enabled(outer):
        sd_case.sample_with_gradient(gradient=chosen)
        assert torch.is_grad_enabled() is outer
    hook.remove()
    assert modes == [True, False, True, False]


# Replays


def test_replays_are_refused_where_nothing_was_recorded(sd_case) -> None:
    with pytest.raises(ValueError, match="record=False"):
        replay_noise_pred(*sd_case.common, sd_case.sample(record=False), 0)
    rollout = sd_case.sample(eta=0.5)
    with pytest.raises(ValueError, match=r"`step` must lie in 0..3; got 4"):
        replay_noise_pred(*sd_case.common, rollout, 4)
    with pytest.raises(ValueError, match="deterministic step"):
        replay_log_probs(*sd_case.common, rollout, [3])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_denoising_at_recorded_latents_is_the_replay(case, guidance: float) -> None:
    rollout = case.sample(guidance=guidance)
    trajectory = rollout.trajectory
    again = denoise(
        *case.common,
        trajectory.latents[2],
        trajectory.schedule.timesteps[2],
        trajectory.calls[0],
        guidance=guidance,
    )
    assert torch.equal(again, replay_noise_pred(*case.common, rollout, 2))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_copies_and_a_timestep_a_row(case, guidance: float) -> None:
    trajectory = case.sample(guidance=guidance).trajectory
    call, timesteps = trajectory.calls[0], trajectory.schedule.timesteps

    def denoised(latents, at):
        return denoise(*case.common, latents, at, call, guidance=guidance)

    step = torch.tensor([0, 1, 2, 3, 2, 1])
    both = denoised(torch.cat([trajectory.latents[1], trajectory.latents[2]]), timesteps[step])
    for row, at in enumerate(step.tolist()):
        # Row i belongs to sample i % 3.
        source = trajectory.latents[1 + row // 3]
        expected = denoised(source, timesteps[at])[row % 3]
        torch.testing.assert_close(both[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl", "sd3", "sana", "auraflow"])
def test_a_guided_call_denoises_without_guidance_too(case_of, name: str) -> None:
    case = case_of(name)
    guided, plain = case.sample(guidance=3.0).trajectory, case.sample().trajectory
    at = plain.schedule.timesteps[1]
    expected = denoise(*case.common, plain.latents[1], at, plain.calls[0])
    assert torch.equal(denoise(*case.common, plain.latents[1], at, guided.calls[0]), expected)
    with pytest.raises(ValueError, match="the recorded call has no guidance"):
        denoise(*case.common, plain.latents[1], at, plain.calls[0], guidance=3.0)


def test_rows_that_do_not_fit(sd_case) -> None:
    trajectory = sd_case.sample().trajectory
    with pytest.raises(ValueError, match="a multiple of 3 rows"):
        denoise(
            *sd_case.common,
            trajectory.latents[0][:2],
            trajectory.schedule.timesteps[0],
            trajectory.calls[0],
        )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_first_call_needs_no_denoiser(case, guidance: float) -> None:
    ran = []
    hook = case.family.denoiser_of(case.pipe).register_forward_hook(lambda *_: ran.append(1))
    call = first_call(*case.common, case.conditioning, case.latents, guidance=guidance)
    hook.remove()
    assert not ran
    rollout = case.sample(guidance=guidance)
    again = denoise(
        *case.common,
        rollout.trajectory.latents[1],
        rollout.trajectory.schedule.timesteps[1],
        call,
        guidance=guidance,
    )
    assert torch.equal(again, replay_noise_pred(*case.common, rollout, 1))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_renoised_endings(case, guidance: float) -> None:
    weight = case.unfreeze()
    rollout = case.sample(guidance=guidance)
    renoised = renoise_last_step(*case.common, rollout, generator=seeded(9), copies=2)
    assert renoised.final.shape == (6, 4, 8, 8)
    # Worked out again: noise from the same generator, last level, one step to the end.
    schedule, clean = rollout.trajectory.schedule, rollout.trajectory.latents[-1]
    noise = torch.randn(6, *clean.shape[1:], generator=seeded(9))
    last = torch.full((6,), 3)
    latents = schedule.add_noise(torch.cat([clean, clean]), noise, last)
    torch.testing.assert_close(renoised.latents, latents)
    # Both schedules here end at the clean image, where the last step is the x0 prediction.
    expected = schedule.clean(renoised.prediction, latents, last)
    torch.testing.assert_close(case.family.pack(renoised.final), expected, rtol=1e-4, atol=1e-4)
    renoised.final.sum().backward()
    assert weight.grad.abs().sum() > 0


def test_renoising_needs_a_copy(sd_case) -> None:
    with pytest.raises(ValueError, match="`copies`"):
        renoise_last_step(*sd_case.common, sd_case.sample(), generator=seeded(0), copies=0)
