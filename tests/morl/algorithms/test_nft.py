"""DiffusionNFT: the gradient at the old policy, the closed-form step, and the value by hand."""

import pytest
import torch

from morl.algorithms.interface import DenoisingTerms
from morl.algorithms.nft import nft_loss


def terms(current: torch.Tensor, old: torch.Tensor, target: torch.Tensor) -> DenoisingTerms:
    return DenoisingTerms(target=target, current=current, old=old, reference=old)


def test_value_by_hand() -> None:
    # One element, x0 = 0, x_old = 1, x_theta = 2, beta = 1: x+ = 2, x- = 0.
    # A = A_max / 2 gives r = 3/4. Self-normalised errors: 4 / 2 = 2 and 0 / 1e-5 = 0.
    # L = 0.75 * 2 * A_max / beta = 1.5 * 4 = 6; the pull is kl_coef * (2 - 1)^2 = 0.5.
    one = torch.ones(1, 1)
    output = nft_loss(
        terms(2 * one, one, 0 * one),
        torch.tensor([2.0]),
        torch.tensor([True]),
        beta=1.0,
        advantage_max=4.0,
        kl_coef=0.5,
    )
    assert output.loss.item() == pytest.approx(6.5)


def test_at_the_old_policy_the_value_ignores_the_advantage_but_the_gradient_does_not() -> None:
    old, target = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 0.0]])
    values, gradients = [], []
    for advantage in (-2.0, 0.0, 2.0):
        current = old.clone().requires_grad_()
        output = nft_loss(
            terms(current, old, target),
            torch.tensor([advantage]),
            torch.tensor([True]),
            beta=0.5,
            advantage_max=4.0,
            kl_coef=0.0,
        )
        (grad,) = torch.autograd.grad(output.loss, current)
        values.append(output.loss.item())
        gradients.append(grad)
    assert values[0] == pytest.approx(values[1]) == pytest.approx(values[2])
    # dL/dx_theta = A_max/beta * (2r - 1) * beta * 2 (x_old - x0) / (n m) = A * 2 * (+-1) / 2.
    torch.testing.assert_close(gradients[2], torch.tensor([[2.0, -2.0]]))
    torch.testing.assert_close(gradients[0], -gradients[2])
    torch.testing.assert_close(gradients[1], torch.zeros(1, 2))


def test_invalid_samples_carry_no_weight() -> None:
    old = torch.zeros(2, 3)
    target = torch.ones(2, 3)
    current = torch.zeros(2, 3, requires_grad=True)
    output = nft_loss(
        terms(current, old, target),
        torch.tensor([1.0, 1.0]),
        torch.tensor([True, False]),
        beta=1.0,
        advantage_max=5.0,
        kl_coef=0.1,
    )
    (grad,) = torch.autograd.grad(output.loss, current)
    assert grad[0].abs().sum() > 0
    assert torch.equal(grad[1], torch.zeros(3))


def test_exact_prediction_stays_finite() -> None:
    zero = torch.zeros(1, 4)
    current = zero.clone().requires_grad_()
    output = nft_loss(
        terms(current, zero, zero),
        torch.tensor([5.0]),
        torch.tensor([True]),
        beta=1.0,
        advantage_max=5.0,
        kl_coef=0.0,
    )
    (grad,) = torch.autograd.grad(output.loss, current)
    assert torch.isfinite(output.loss)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize(
    ("beta", "advantage_max", "message"),
    [
        (0.0, 5.0, r"`beta` must lie in \(0, 1\]; got 0"),
        (1.0, 0.0, "`advantage_max` must be positive; got 0"),
    ],
)
def test_errors(beta: float, advantage_max: float, message: str) -> None:
    zero = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=message):
        nft_loss(
            terms(zero, zero, zero),
            torch.zeros(1),
            torch.ones(1, dtype=torch.bool),
            beta,
            advantage_max,
            0.0,
        )
