"""Spreads of groups and the weights that dividing by them implies, by hand."""

import torch

from morl.algorithms.normalization import effective_weights, group_std


def test_group_std_by_hand() -> None:
    # 1 and 3: sqrt(((-1)^2 + 1^2) / 1); the invalid 99 is left out; two equal values and a single
    # one have no spread.
    rewards = torch.tensor([[1.0], [3.0], [99.0], [5.0], [5.0], [7.0]])
    valid = torch.tensor([[True], [True], [False], [True], [True], [True]])
    found = group_std(rewards, valid, torch.tensor([4, 4, 4, 0, 0, 9]))[:, 0]
    torch.testing.assert_close(found[:3], torch.full((3,), 2**0.5))
    assert found[3:].isinf().all()


def test_effective_weights_by_hand() -> None:
    # 0.5 / 0.1 : 0.5 / 1 = 10 : 1; an objective without spread is out; without any, all are 0.
    weights = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8], [0.0, 0.0]])
    scale = torch.tensor([[0.1, 1.0], [torch.inf, 1.0], [torch.inf, torch.inf], [1.0, 1.0]])
    expected = torch.tensor([[10 / 11, 1 / 11], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(effective_weights(weights, scale), expected)
