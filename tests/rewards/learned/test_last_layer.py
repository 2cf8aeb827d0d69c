"""The last layer's uncertainty against Bayesian linear regression in closed form."""

from __future__ import annotations

import pytest
import torch
from properties import assert_gradient_matches_finite_difference

from rewards.learned.last_layer import (
    LastLayer,
    laplace,
    laplace_of_choices,
    likeliest_precision,
    mahalanobis,
)
from rewards.learned.settings import RewardTrainingError

WIDTH, COUNT = 4, 50


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PHI = draw(COUNT, WIDTH) * torch.tensor([1.0, 3.0, 0.3, 1.0]) + 2.0
ELSEWHERE = 5 * draw(20, WIDTH, seed=1)


class TestRatings:
    @pytest.mark.parametrize("alpha", [0.01, 3.0])
    @pytest.mark.parametrize("noise", [0.2, 5.0])
    def test_it_is_bayesian_linear_regression(self, alpha, noise):
        # y ~ N(w . phi + c, noise): the posterior of (w, c) under w ~ N(0, 1 / alpha), c flat.
        found = laplace(PHI, torch.full((COUNT,), 1 / noise), torch.ones(WIDTH), alpha)
        design = torch.cat([PHI, torch.ones(COUNT, 1)], 1).double()
        prior = torch.diag(torch.tensor([alpha] * WIDTH + [0.0])).double()
        covariance = torch.linalg.inv(design.T @ design / noise + prior)
        x = torch.cat([ELSEWHERE, torch.ones(len(ELSEWHERE), 1)], 1).double()
        expected = ((x @ covariance) * x).sum(1).sqrt()
        torch.testing.assert_close(found(ELSEWHERE).double(), expected, rtol=1e-4, atol=1e-5)
        # Of a difference the offset cancels.
        d = x[:10] - x[10:]
        between = found.of_difference(ELSEWHERE[:10], ELSEWHERE[10:]).double()
        torch.testing.assert_close(
            between, ((d @ covariance) * d).sum(1).sqrt(), rtol=1e-4, atol=1e-5
        )

    def test_more_labels_make_it_surer_by_the_root_of_their_number(self):
        few = laplace(PHI, torch.ones(COUNT), torch.ones(WIDTH), 1e-9)
        many = laplace(PHI.repeat(4, 1), torch.ones(4 * COUNT), torch.ones(WIDTH), 1e-9)
        torch.testing.assert_close(many(ELSEWHERE), few(ELSEWHERE) / 2, rtol=1e-3, atol=1e-4)

    def test_a_direction_without_labels_is_as_unsure_as_the_prior(self):
        flat = PHI.clone()
        flat[:, 0] = 2.0
        found = laplace(flat, torch.ones(COUNT), torch.ones(WIDTH), 0.25)
        away = flat.mean(0, keepdim=True) + torch.tensor([[7.0, 0.0, 0.0, 0.0]])
        # std of w_0 is 1 / sqrt(0.25) = 2, that of the offset 1 / sqrt(50)
        assert found(away).item() == pytest.approx((14**2 + 1 / COUNT) ** 0.5, rel=1e-4)


def test_flags_weigh_by_their_curvature():
    # The Hessian of the cross-entropy, by automatic differentiation, is what is inverted.
    phi, alpha = PHI.double(), 0.5
    weights = draw(WIDTH + 1, seed=2).double()

    def loss(w: torch.Tensor) -> torch.Tensor:
        logits = phi @ w[:-1] + w[-1]
        flagged = (logits.detach() > 0).double()
        cost = torch.nn.functional.binary_cross_entropy_with_logits(logits, flagged)
        return COUNT * cost + alpha / 2 * w[:-1].square().sum()

    covariance = torch.linalg.inv(torch.autograd.functional.hessian(loss, weights))
    p = torch.sigmoid(phi @ weights[:-1] + weights[-1])
    found = laplace(PHI, (p * (1 - p)).float(), weights[:-1].float(), alpha)
    x = torch.cat([ELSEWHERE, torch.ones(len(ELSEWHERE), 1)], 1).double()
    expected = ((x @ covariance) * x).sum(1).sqrt()
    torch.testing.assert_close(found(ELSEWHERE).double(), expected, rtol=1e-3, atol=1e-3)


def test_choices_say_nothing_of_a_common_offset():
    first, second = PHI[:25], PHI[25:]
    found = laplace_of_choices(first, second, torch.full((25,), 0.25), torch.ones(4), PHI.mean(0))
    shifted = laplace_of_choices(
        first + 9, second + 9, torch.full((25,), 0.25), torch.ones(4), PHI.mean(0) + 9
    )
    torch.testing.assert_close(found(ELSEWHERE), shifted(ELSEWHERE + 9), rtol=1e-3, atol=1e-3)
    assert found(PHI.mean(0, keepdim=True)).item() == pytest.approx(0, abs=1e-5)


def test_the_likeliest_precision_has_the_largest_evidence():
    values, weights = torch.tensor([50.0, 8.0, 0.2, 0.0]), torch.tensor([0.3, -1.0, 0.5, 0.1])
    alpha = likeliest_precision(values, weights)

    def evidence(a: float) -> float:
        fit = a * weights.square().sum() + torch.log(values + a).sum()
        return (4 * torch.tensor(a).log() - fit).item() / 2

    assert evidence(alpha) > max(evidence(1.05 * alpha), evidence(alpha / 1.05))


def test_mahalanobis_is_the_distance_at_laplaces_level():
    like = laplace(PHI, torch.ones(COUNT), torch.ones(WIDTH), 1.0)
    found = mahalanobis(PHI, like, ELSEWHERE)
    level = found(ELSEWHERE).square().mean().sqrt().item()
    assert level == pytest.approx(like(ELSEWHERE).square().mean().sqrt().item(), rel=1e-4)
    precision = torch.linalg.inv(torch.cov(PHI.T.double()))
    d = ELSEWHERE.double() - PHI.double().mean(0)
    distance = ((d @ precision) * d).sum(1).sqrt()
    ratio = found(ELSEWHERE).double() / distance
    assert ratio.max() / ratio.min() < 1.05  # but for the ridge


def test_labels_that_say_nothing_are_refused():
    with pytest.raises(RewardTrainingError, match="no curvature"):
        laplace(PHI, torch.zeros(COUNT), torch.ones(WIDTH))
    with pytest.raises(RewardTrainingError, match="say nothing"):
        laplace(PHI[:1].expand(9, -1), torch.ones(9), torch.ones(WIDTH))


def test_its_gradient_is_right_and_finite_at_the_centre():
    found = laplace(PHI, torch.ones(COUNT), torch.ones(WIDTH), 1.0).double()
    assert_gradient_matches_finite_difference(lambda x: found(x).sum(), ELSEWHERE[:3].double())
    at = LastLayer.of(torch.zeros(2), torch.eye(2))
    x = torch.zeros(1, 2, requires_grad=True)
    at(x).sum().backward()
    assert torch.isfinite(x.grad).all()
