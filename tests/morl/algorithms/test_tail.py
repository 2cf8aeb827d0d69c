"""CVaR over prompts: weights by hand, its exact value, and the bias that the docstring states."""

import pytest
import torch

from morl.algorithms.tail import tail_weights


def weights(utilities, share, group=None, valid=None):
    u = torch.tensor(utilities)
    numbers = torch.arange(len(u)) if group is None else torch.tensor(group)
    applies = torch.ones(len(u)).bool() if valid is None else torch.tensor(valid)
    return tail_weights(u, applies, numbers, share)


def test_the_worst_half_by_hand() -> None:
    assert weights([3.0, 1.0, 2.0, 0.0], 0.5).tolist() == [0.0, 2.0, 0.0, 2.0]


def test_a_tail_between_two_samples_is_split() -> None:
    # 1.5 of 4 samples: the worst in full, the next by half, over 0.375.
    found = weights([3.0, 1.0, 2.0, 0.0], 0.375)
    torch.testing.assert_close(found, torch.tensor([0.0, 4 / 3, 0.0, 8 / 3]))
    assert float(found.mean()) == pytest.approx(1)


def test_the_whole_is_the_plain_mean() -> None:
    assert weights([3.0, 1.0, 2.0], 1.0).tolist() == [1.0, 1.0, 1.0]


def test_less_than_one_prompt_is_the_worst_one() -> None:
    assert weights([3.0, 1.0, 2.0], 0.1).tolist() == pytest.approx([0.0, 3.0, 0.0])


def test_a_prompt_counts_by_the_mean_of_its_images() -> None:
    # Means 2 and 1.5: the second prompt is the worst, though the worst image is of the first.
    assert weights([4.0, 0.0, 1.0, 2.0], 0.5, group=[7, 7, 3, 3]).tolist() == [0.0, 0.0, 2.0, 2.0]


def test_what_does_not_apply_is_no_prompt() -> None:
    found = weights([-9.0, 1.0, 2.0], 0.5, valid=[False, True, True])
    assert found.tolist() == [0.0, 2.0, 0.0]


def test_a_small_batch_looks_better_than_its_prompts_are() -> None:
    # The worst of five standard normal utilities is -1.163 on average; the worst fifth of all of
    # them has the mean -1.400.
    draw = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    each, every = torch.arange(5), torch.ones(5).bool()
    found = [float((u * tail_weights(u, every, each, 0.2)).mean()) for u in draw]
    assert sum(found) / len(found) == pytest.approx(-1.163, abs=0.1)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        weights([1.0], share)
