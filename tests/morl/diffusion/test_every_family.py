"""What holds for every pipeline family: densities, derivatives of rewards, and learning."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.normalization import FP32LayerNorm
from tiny_pipelines import BUILDERS
from torch.distributions import Independent, Normal

from morl.diffusion.families import decode
from morl.diffusion.gradient import last_steps
from morl.diffusion.replay import replay_log_probs, replay_moments
from morl.diffusion.rollout import sample_with_gradient
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_log_probs_are_those_of_torch_distributions(case, guidance: float) -> None:
    rollout = case.sample(guidance=guidance, eta=0.7)
    trajectory = rollout.trajectory
    for step in trajectory.has_log_prob.nonzero().flatten().tolist():
        moments = replay_moments(*case.common, rollout, step)
        density = Independent(
            Normal(moments.mean, torch.full_like(moments.mean, moments.std)), moments.mean.ndim - 1
        )
        expected = density.log_prob(trajectory.latents[step + 1].float())
        torch.testing.assert_close(
            trajectory.log_probs[:, step] * moments.mean[0].numel(), expected, rtol=1e-4, atol=1e-2
        )


def test_late_steps_outside_the_window_are_deterministic(case) -> None:
    window = case.sample(eta=0.7, noise_steps=2)
    assert window.trajectory.has_log_prob.tolist() == [True, True, False, False]
    whole = case.sample(eta=0.7)
    for step in range(3):  # the latents before the window's end are those of the full noise
        assert torch.equal(window.trajectory.latents[step], whole.trajectory.latents[step])
    assert not torch.equal(window.final, whole.final)
    # The rest is the sampler without noise, from where the window left off.
    for step in (2, 3):
        moments = replay_moments(*case.common, window, step)
        assert moments.std == 0
        torch.testing.assert_close(moments.mean, window.trajectory.latents[step + 1])
    replayed = replay_log_probs(*case.common, window, [0, 1])
    assert torch.equal(replayed, window.trajectory.log_probs[:, :2])
    with pytest.raises(ValueError, match="a deterministic step has no density"):
        replay_log_probs(*case.common, window, [2])


def brightness(case, final: torch.Tensor) -> torch.Tensor:
    """A reward of the finished images, through the decoder."""
    return decode(case.pipe, final)[:, 0].mean(dim=(1, 2))


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_reward_gradient_matches_directional_finite_differences(
    case_of, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tiny random networks have slopes that fp32 drowns, also that of norms which insist on it.
    monkeypatch.setattr(FP32LayerNorm, "forward", torch.nn.LayerNorm.forward)
    case = case_of(name, torch.float64)
    with torch.no_grad():  # far from black and white, where the clamp has another derivative
        case.pipe.vae.decoder.conv_out.weight.mul_(0.1)
        case.pipe.vae.decoder.conv_out.bias.zero_()
    weight = case.unfreeze()
    brightness(case, case.sample_with_gradient(last_steps=4, guidance=2.0).final).sum().backward()
    slope = float(weight.grad.norm())
    direction = weight.grad / slope
    delta = 1e-4 * float(weight.detach().norm())
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            weight += sign * delta * direction
            final = case.sample(guidance=2.0).final
            images = decode(case.pipe, final)
            assert ((images > 0) & (images < 1)).all()
            values.append(float(images[:, 0].mean(dim=(1, 2)).sum()))
    assert (values[0] - values[1]) / (2 * delta) == pytest.approx(slope, rel=1e-3)


def test_a_differentiable_reward_rises_over_twenty_updates(case) -> None:
    adapter = ConditionedAdapter.inject(
        case.family.denoiser_of(case.pipe), ("bright", "other"), AdapterConfig(rank=4, alpha=4.0)
    )
    optimiser = torch.optim.Adam(adapter.parameters(), lr=5e-3)
    rewards = []
    for _ in range(21):
        rollout = sample_with_gradient(
            *case.common,
            case.conditioning,
            case.weights,
            latents=case.latents,
            steps=2,
            gradient=last_steps(2, 1),
            bind=adapter.bind,
        )
        reward = brightness(case, rollout.final).mean()
        rewards.append(reward.item())
        optimiser.zero_grad()
        (-reward).backward()
        optimiser.step()
    assert rewards[20] > rewards[0] + 1e-3
    assert sorted(rewards[::5]) == rewards[::5]
