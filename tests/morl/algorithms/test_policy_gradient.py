"""The clipped surrogate: values by hand, and where its gradient must and must not vanish."""

import math

import pytest
import torch

from morl.algorithms.policy_gradient import clipped_policy_loss


def gradient(log_prob: float, old: float, advantage: float, clip_range: float) -> float:
    log_probs = torch.tensor([log_prob], dtype=torch.float64, requires_grad=True)
    output = clipped_policy_loss(
        log_probs,
        torch.tensor([old], dtype=torch.float64),
        torch.tensor([advantage], dtype=torch.float64),
        clip_range,
    )
    (grad,) = torch.autograd.grad(output.loss, log_probs)
    return grad.item()


def test_at_the_old_policy_it_is_the_policy_gradient() -> None:
    # d/dl of -A exp(l - l_old) at l = l_old is -A.
    assert gradient(-1.0, -1.0, 0.7, 0.1) == pytest.approx(-0.7)
    assert gradient(-1.0, -1.0, -0.7, 0.1) == pytest.approx(0.7)


def test_value_by_hand() -> None:
    # Ratios e^0.05 (inside 0.1) with A = 2, and e^0.5 = 1.6487 (outside) with A = 1:
    # losses -2 * 1.05127 = -2.10254 and max(-1.64872, -1.1) = -1.1; mean -1.60127.
    output = clipped_policy_loss(
        torch.tensor([0.05, 0.5]), torch.zeros(2), torch.tensor([2.0, 1.0]), 0.1
    )
    assert output.loss.item() == pytest.approx((-2 * math.exp(0.05) - 1.1) / 2, abs=1e-6)
    assert output.terms["clip_fraction"].item() == 0.5


def test_good_move_stops_outside_the_range_and_bad_move_is_undone() -> None:
    assert gradient(0.5, 0.0, 1.0, 0.1) == 0.0
    assert gradient(-0.5, 0.0, -1.0, 0.1) == 0.0
    assert gradient(-0.5, 0.0, 1.0, 0.1) == pytest.approx(-math.exp(-0.5))
    assert gradient(0.5, 0.0, -1.0, 0.1) == pytest.approx(math.exp(0.5))


def test_zero_advantage_gives_zero_gradient() -> None:
    assert gradient(0.03, 0.0, 0.0, 0.1) == 0.0


def test_clip_range_must_be_positive() -> None:
    with pytest.raises(ValueError, match="`clip_range` must be positive; got -1"):
        clipped_policy_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), -1.0)
