"""Leave-one-out advantages inside (prompt, weight vector) groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morl.algorithms.advantages import group_advantages, zero_spread_share


def test_value_by_hand() -> None:
    # Group 0 holds rewards 1 and 3: each one's baseline is the other, so A = -2 and +2.
    # Group 1 holds 0, 3, 6: A_i = r_i - mean of the other two = -4.5, 0, 4.5.
    rewards = torch.tensor([[1.0], [3.0], [0.0], [3.0], [6.0]])
    group = torch.tensor([0, 0, 1, 1, 1])
    advantages = group_advantages(rewards, torch.ones(5, 1, dtype=torch.bool), group, clip=10.0)
    torch.testing.assert_close(advantages[:, 0], torch.tensor([-2.0, 2.0, -4.5, 0.0, 4.5]))


def test_clip_bounds_each_objective() -> None:
    rewards = torch.tensor([[0.0, 0.0], [100.0, 1.0]])
    advantages = group_advantages(
        rewards, torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.long), clip=5.0
    )
    torch.testing.assert_close(advantages, torch.tensor([[-5.0, -1.0], [5.0, 1.0]]))


def test_invalid_entries_neither_teach_nor_shift_the_baseline() -> None:
    rewards = torch.tensor([[1.0], [3.0], [99.0]])
    valid = torch.tensor([[True], [True], [False]])
    advantages = group_advantages(rewards, valid, torch.zeros(3, dtype=torch.long), clip=5.0)
    torch.testing.assert_close(advantages[:, 0], torch.tensor([-2.0, 2.0, 0.0]))


def test_a_group_of_one_teaches_nothing() -> None:
    rewards = torch.tensor([[1.0], [3.0]])
    advantages = group_advantages(
        rewards, torch.ones(2, 1, dtype=torch.bool), torch.tensor([0, 1]), clip=5.0
    )
    assert torch.equal(advantages, torch.zeros(2, 1))
    assert zero_spread_share(advantages) == 1.0


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=8),
    st.floats(-100, 100, allow_subnormal=False),
)
def test_unchanged_by_a_shift_of_the_group(values: list[float], shift: float) -> None:
    rewards = torch.tensor(values, dtype=torch.float64)[:, None]
    valid = torch.ones_like(rewards, dtype=torch.bool)
    group = torch.zeros(len(values), dtype=torch.long)
    plain = group_advantages(rewards, valid, group, clip=5.0)
    torch.testing.assert_close(group_advantages(rewards + shift, valid, group, clip=5.0), plain)


def test_no_gradient_reaches_the_rewards() -> None:
    rewards = torch.tensor([[1.0], [2.0]], requires_grad=True)
    advantages = group_advantages(
        rewards, torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, dtype=torch.long), clip=5.0
    )
    assert not advantages.requires_grad


def test_clip_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"`clip` must be positive; got 0"):
        group_advantages(
            torch.zeros(1, 1),
            torch.ones(1, 1, dtype=torch.bool),
            torch.zeros(1, dtype=torch.long),
            clip=0.0,
        )
