"""The step Gaussians against hand-worked values, exact marginals and torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from morl.diffusion.steps import (
    clip_range_in_nats,
    ddim_moments,
    flow_sde_moments,
    gaussian_kl,
    gaussian_log_prob,
)


def scalar(value: float) -> torch.Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ddim_by_hand() -> None:
    # a = 0.25, a' = 0.64, x = 1, e = 0.5: x0 = (1 - sqrt(0.75) 0.5) / 0.5 = 2 - sqrt(0.75);
    # mean = 0.8 x0 + sqrt(0.36) 0.5
    moments = ddim_moments(scalar(0.5), scalar(1.0), 0.25, 0.64, 0.0, "epsilon")
    assert moments.std == 0
    assert moments.mean.item() == pytest.approx(0.8 * (2 - math.sqrt(0.75)) + 0.3, rel=1e-12)


def test_ddim_std_by_hand() -> None:
    # eta = 1: var = (0.36 / 0.75) (1 - 0.25 / 0.64) = 0.48 * 0.609375 = 0.2925, and the direction
    # of the mean shrinks to sqrt(0.36 - 0.2925).
    moments = ddim_moments(scalar(0.5), scalar(1.0), 0.25, 0.64, 1.0, "epsilon")
    expected = 0.8 * (2 - math.sqrt(0.75)) + math.sqrt(0.36 - 0.2925) * 0.5
    assert moments.std == pytest.approx(math.sqrt(0.2925), rel=1e-12)
    assert moments.mean.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_v_and_epsilon_describe_the_same_step(eta: float) -> None:
    clean, noise = randn(3, 5), randn(3, 5, seed=1)
    signal, spread = math.sqrt(0.3), math.sqrt(0.7)
    latents = signal * clean + spread * noise
    of_epsilon = ddim_moments(noise, latents, 0.3, 0.6, eta, "epsilon")
    velocity = signal * noise - spread * clean
    of_v = ddim_moments(velocity, latents, 0.3, 0.6, eta, "v_prediction")
    torch.testing.assert_close(of_epsilon.mean, of_v.mean)
    assert of_epsilon.std == of_v.std


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_marginal_of_a_point(eta: float) -> None:
    # All data at 0: x_t ~ N(0, 1 - a), the exact epsilon is x / sqrt(1 - a), and each step must
    # land on N(0, 1 - a') whatever eta is.
    one = scalar(1.0)
    moments = ddim_moments(one / math.sqrt(0.8), one, 0.2, 0.55, eta, "epsilon")
    variance = moments.mean.item() ** 2 * 0.8 + moments.std**2
    assert variance == pytest.approx(0.45, rel=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_ends_at_the_clean_latents(prediction: str) -> None:
    clean, noise = randn(2, 4), randn(2, 4, seed=1)
    latents = math.sqrt(0.9) * clean + math.sqrt(0.1) * noise
    velocity = math.sqrt(0.9) * noise - math.sqrt(0.1) * clean
    output = noise if prediction == "epsilon" else velocity
    moments = ddim_moments(output, latents, 0.9, 1.0, 1.0, prediction)
    assert moments.std == 0
    torch.testing.assert_close(moments.mean, clean)


def test_v_prediction_starts_from_pure_noise() -> None:
    # a = 0 (zero terminal SNR): x is noise, v = -x0, so x0 = -v.
    moments = ddim_moments(scalar(-2.0), scalar(1.0), 0.0, 0.25, 0.0, "v_prediction")
    assert moments.mean.item() == pytest.approx(0.5 * 2.0 + math.sqrt(0.75) * 1.0)


def test_flow_by_hand() -> None:
    # sigma 0.5 -> 0.25, eta = 1, x = 1, v = 2: g^2 = 0.5 / 0.5 = 1, g^2 / (2 sigma) = 1,
    # mean = 1 + [2 + (1 + 0.5 * 2)] (-0.25) = 0, std = sqrt(0.25)
    moments = flow_sde_moments(scalar(2.0), scalar(1.0), 0.5, 0.25, 1.0)
    assert moments.mean.item() == pytest.approx(0.0, abs=1e-12)
    assert moments.std == pytest.approx(0.5)


def test_flow_without_noise_is_euler() -> None:
    velocity, latents = randn(3, 4), randn(3, 4, seed=1)
    moments = flow_sde_moments(velocity, latents, 0.8, 0.5, 0.0)
    assert moments.std == 0
    torch.testing.assert_close(moments.mean, latents - 0.3 * velocity)


def test_flow_starts_finite_and_ends_without_noise() -> None:
    # At sigma = 1 the factor 1 / (1 - sigma) is replaced by that of the next level: here
    # g^2 = 0.49 / (1 - 0.9) and std = sqrt(4.9 * 0.1).
    first = flow_sde_moments(scalar(1.0), scalar(1.0), 1.0, 0.9, 0.7)
    assert first.std == pytest.approx(0.7)
    assert flow_sde_moments(scalar(1.0), scalar(1.0), 1 - 6e-8, 0.9, 0.7).std < 1
    last = flow_sde_moments(scalar(1.0), scalar(3.0), 0.2, 0.0, 0.7)
    assert last.std == 0
    assert last.mean.item() == pytest.approx(3.0 - 0.2 * 1.0)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.5])
def test_flow_sde_keeps_gaussian_marginals(eta: float) -> None:
    # Data N(0, s^2), s = 0.5: x_sigma ~ N(0, q), q = (1 - sigma)^2 s^2 + sigma^2, and the exact
    # velocity is v = (sigma - (1 - sigma) s^2) / q * x. The variance then follows
    # V' = m^2 V + std^2, and must end at s^2 up to the error of 800 Euler steps.
    variance, steps = 1.0, 800
    for i in range(steps):
        sigma, following = 1 - i / steps, 1 - (i + 1) / steps
        marginal = (1 - sigma) ** 2 * 0.25 + sigma**2
        velocity = scalar((sigma - (1 - sigma) * 0.25) / marginal)
        moments = flow_sde_moments(velocity, scalar(1.0), sigma, following, eta)
        variance = moments.mean.item() ** 2 * variance + moments.std**2
    assert variance == pytest.approx(0.25, abs=0.002)


def test_moments_are_at_least_fp32() -> None:
    latents = torch.ones(1, 2, dtype=torch.bfloat16)
    assert ddim_moments(latents, latents, 0.2, 0.5, 0.0, "epsilon").mean.dtype == torch.float32
    assert flow_sde_moments(latents, latents, 0.5, 0.2, 0.0).mean.dtype == torch.float32
    assert ddim_moments(randn(1, 2), randn(1, 2), 0.2, 0.5, 0.0, "epsilon").mean.dtype == (
        torch.float64
    )


@pytest.mark.parametrize("scale", [0.0, 1e-10, 1e10])
def test_extreme_inputs_stay_finite_with_their_gradient(scale: float) -> None:
    output = (scale * randn(2, 6)).requires_grad_(True)
    moments = ddim_moments(output, scale * randn(2, 6, seed=1), 0.005, 0.03, 1.0, "epsilon")
    log_prob = gaussian_log_prob(torch.zeros(2, 6), moments.mean, moments.std)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(output.grad).all()


def test_log_prob_is_that_of_torch_distributions() -> None:
    x, mean, std = randn(3, 2, 4), randn(3, 2, 4, seed=1), 0.3
    expected = Independent(Normal(mean, std), 2).log_prob(x)
    torch.testing.assert_close(gaussian_log_prob(x, mean, std, "sum"), expected)
    torch.testing.assert_close(gaussian_log_prob(x, mean, std), expected / 8)


def test_log_prob_gradient_is_the_score() -> None:
    # l = -(x - m)^2 / (2 s^2) / D + const, so dl/dm = (x - m) / (s^2 D).
    x, std = randn(2, 5), 0.4
    mean = randn(2, 5, seed=1).requires_grad_(True)
    gaussian_log_prob(x, mean, std).sum().backward()
    torch.testing.assert_close(mean.grad, (x - mean.detach()) / (std**2 * 5))
    assert torch.autograd.gradcheck(lambda m: gaussian_log_prob(x, m, std), mean)


def test_kl_is_that_of_torch_distributions() -> None:
    mean, reference, std = randn(3, 2, 4), randn(3, 2, 4, seed=1), 0.3
    divergence = kl_divergence(Normal(mean, std), Normal(reference, std)).sum((1, 2))
    torch.testing.assert_close(gaussian_kl(mean, reference, std), divergence)
    assert gaussian_kl(mean, mean, std).eq(0).all()


def test_log_ratio_averages_to_the_kl() -> None:
    # E_{x ~ N(m, s^2)} [log p(x) - log q(x)] = KL: a check that both are in nats of the whole
    # latent. The sample mean has a standard error of sqrt(2 KL / n) = 0.01 here.
    mean, reference, std = torch.zeros(1, 8), torch.full((1, 8), 0.25), 0.5
    divergence = gaussian_kl(mean, reference, std)  # 8 * 0.0625 / 0.5 = 1
    x = mean + std * randn(20_000, 8).float()
    log_ratio = gaussian_log_prob(x, mean.expand_as(x), std, "sum")
    log_ratio -= gaussian_log_prob(x, reference.expand_as(x), std, "sum")
    assert divergence.item() == pytest.approx(1.0)
    assert log_ratio.mean().item() == pytest.approx(1.0, abs=0.04)


def test_clip_range_in_nats() -> None:
    # The published 1e-4 at 4 x 64 x 64 elements, and the 1.6e-3 that means the same at 1,024.
    assert clip_range_in_nats(1e-4, 16_384) == pytest.approx(1.6384)
    assert clip_range_in_nats(1.6e-3, 1_024) == pytest.approx(1.6384)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ddim_moments(x, x, 0.2, 0.5, 1.1, "epsilon"), "`eta`"),
        (lambda x: ddim_moments(x, x, 0.5, 0.2, 0.0, "epsilon"), "alpha_prev=0.2"),
        (lambda x: ddim_moments(x, x, 1.0, 1.0, 0.0, "epsilon"), "alpha_t < 1"),
        (lambda x: ddim_moments(x, x, 0.0, 0.2, 0.0, "epsilon"), "use v_prediction"),
        (lambda x: ddim_moments(x, x, 0.2, 0.5, 0.0, "flow"), "`prediction`"),
        (lambda x: flow_sde_moments(x, x, 0.2, 0.5, 0.0), "0.2 -> 0.5"),
        (lambda x: flow_sde_moments(x, x, 0.5, 0.2, -0.1), "`eta`"),
        (lambda x: gaussian_log_prob(x, x, 0.0), "deterministic"),
        (lambda x: gaussian_kl(x, x, 0.0), "`std`"),
        (lambda _x: clip_range_in_nats(0.0, 8), "`clip_range`"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(1, 2))


def test_unknown_reduction() -> None:
    x = torch.ones(1, 2)
    with pytest.raises((ValueError, TypeError), match="reduction"):
        gaussian_log_prob(x, x, 1.0, "median")
