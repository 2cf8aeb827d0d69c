"""Batches are functions of (seed, step, rank), and groups are what they say."""

import pytest
import torch

from morl.training.data import BatchPlan


def plan(**changes: int) -> BatchPlan:
    settings = {"objectives": 3, "batch_size": 16, "seed": 4, **changes}
    return BatchPlan(prompts=[f"prompt {i}" for i in range(20)], **settings)


def test_same_arguments_give_the_same_batch() -> None:
    first, again = plan().batch(7, 1, 2), plan().batch(7, 1, 2)
    assert first.prompts == again.prompts
    assert torch.equal(first.weights, again.weights)


def test_steps_and_ranks_differ() -> None:
    batches = [plan().batch(step, rank, 2) for step in (0, 1) for rank in (0, 1)]
    for i, one in enumerate(batches):
        for other in batches[i + 1 :]:
            assert not torch.equal(one.weights, other.weights)


def test_a_pass_uses_every_prompt_once() -> None:
    # 20 prompts, batches of 4: five steps make one pass.
    seen = [p for step in range(5) for p in plan(batch_size=4).batch(step).prompts]
    assert sorted(seen) == sorted(f"prompt {i}" for i in range(20))


def test_a_group_shares_prompt_and_weights() -> None:
    batch = plan(group_size=4, weights_per_prompt=2).batch(3)
    assert len(batch.prompts) == 16
    for number in range(4):
        rows = batch.group == number
        assert rows.sum() == 4
        assert len({p for p, row in zip(batch.prompts, rows, strict=True) if row}) == 1
        assert (batch.weights[rows] == batch.weights[rows][0]).all()
    # Two weight vectors a prompt: groups 0 and 1 share the prompt, groups 1 and 2 do not.
    assert batch.prompts[0] == batch.prompts[4]
    assert batch.prompts[4] != batch.prompts[8]


def test_weights_lie_on_the_simplex() -> None:
    weights = plan().batch(0).weights
    torch.testing.assert_close(weights.sum(1), torch.ones(16, dtype=weights.dtype))
    assert (weights >= 0).all()


def test_vertices_come_first_and_the_strata_after_them() -> None:
    early, late = plan(vertices_first=2).batch(1).weights, plan(vertices_first=2).batch(2).weights
    assert (early.max(1).values == 1).all()
    assert early.argmax(1).bincount(minlength=3).min() >= 5  # 16 images at 3 vertices
    assert torch.equal(late, plan().batch(2).weights)


def test_batch_must_divide_into_groups() -> None:
    with pytest.raises(ValueError, match=r"multiple of .* 3 x 2 = 6; got 16 \(nearest: 12\)"):
        plan(group_size=3, weights_per_prompt=2)
