"""The reward-gradient loss."""

import pytest
import torch

from morl.algorithms.draft import draft_loss


def test_value_by_hand() -> None:
    # -mean(1, 3) + 0.5 * mean(2, 4) = -2 + 1.5
    output = draft_loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]), 0.5)
    assert output.loss.item() == pytest.approx(-0.5)
    assert output.terms["kl"].item() == pytest.approx(3.0)


def test_gradient_is_the_mean_over_samples() -> None:
    utility = torch.tensor([1.0, 3.0], requires_grad=True)
    draft_loss(utility, torch.zeros(2), 0.0).loss.backward()
    torch.testing.assert_close(utility.grad, torch.tensor([-0.5, -0.5]))


def test_negative_coefficient_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`kl_coef` must be >= 0; got -0\.1"):
        draft_loss(torch.zeros(1), torch.zeros(1), -0.1)
