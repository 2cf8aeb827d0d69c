"""objective.explain: contributions and gradient shares of every reward for every image."""

from __future__ import annotations

import pytest
import torch

from rewards import R, maximize, min_, pointwise, register, where
from rewards.calibration import Calibration
from rewards.reward import ImageBatch, Scores


@register(name="explain_test_red", differentiable=True, low=0.0, high=1.0)
def red(images, prompts):
    return images[:, 0].mean((1, 2))


@register(name="explain_test_green", differentiable=True, low=0.0, high=1.0)
def green(images, prompts):
    return images[:, 1].mean((1, 2))


@register(name="explain_test_blind", low=0.0, high=1.0)
def blind(images, prompts):
    return images[:, 2].mean((1, 2))


@register(name="explain_test_left", differentiable=True, low=0.0, high=1.0)
def left(images, prompts):
    """Applies to prompts that ask for it."""
    asked = torch.tensor(["left" in prompt for prompt in prompts])
    return Scores(images[:, 0, :, :2].mean((1, 2)), asked)


PROMPTS = ["a", "b", "c left"]
IMAGES = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
VALUES = IMAGES.mean((2, 3))
MEAN = VALUES.mean(dim=0)


def test_linear_by_hand():
    objective = maximize(warm=R(red) - 0.5 * R(green), cool=R(blind))
    found = objective.explain(IMAGES, PROMPTS, [0.8, 0.2])
    # c = w_k times the coefficient times (r - mean r)
    expected = torch.tensor([0.8, -0.4, 0.2]) * (VALUES - MEAN)
    torch.testing.assert_close(found.contributions, expected)
    torch.testing.assert_close(found.utility, VALUES @ torch.tensor([0.8, -0.4, 0.2]))
    assert found.leaves == ("explain_test_red", "explain_test_green", "explain_test_blind")
    torch.testing.assert_close(found.shares.abs().sum(dim=1), torch.ones(3))
    # Image gradients are 0.8 / 16 on every red pixel and -0.4 / 16 on every green one: squares
    # 0.64 and 0.16, orthogonal
    pull = torch.tensor([[0.8, 0.2]]).expand(3, 2)
    torch.testing.assert_close(found.pull[:, :2], pull)
    assert found.pull[:, 2].isnan().all()


def test_a_calibration_changes_units():
    objective = maximize(warm=R(red), cool=R(green))
    calibration = Calibration(("warm", "cool"), (0.5, 0.5), (0.1, 1.0))
    found = objective.explain(IMAGES, PROMPTS, calibration=calibration)
    expected = torch.tensor([5.0, 0.5]) * (VALUES - MEAN)[:, :2]
    torch.testing.assert_close(found.contributions, expected)


@pytest.mark.parametrize("on", ["mean", "sample"])
def test_contributions_sum_to_the_change_of_the_utility(on):
    objective = maximize(
        warm=min_(R(red), R(green)), cool=where(R(blind) <= 0.5, R(green), 0)
    ).scalarize("smooth_chebyshev", on=on, ideal=1.0)
    bound = objective.bind()
    weights = torch.tensor([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])
    found = bound.explain(ImageBatch(IMAGES, PROMPTS), weights)
    mean = bound.explain(ImageBatch(MEAN[None, :, None, None].expand(3, 3, 4, 4), PROMPTS), weights)
    if on == "sample":
        torch.testing.assert_close(found.contributions.sum(dim=1), found.utility - mean.utility)
    assert torch.allclose(mean.contributions, torch.zeros(3, 3), atol=1e-6)
    differentiable = found.pull[:, :2]
    assert ((differentiable.sum(dim=1) - 1).abs() < 1e-5).all()


def test_the_branch_that_is_not_taken_does_not_pull():
    objective = maximize(worst=min_(R(red), R(green)))
    found = objective.explain(IMAGES, PROMPTS)
    lower = VALUES[:, 0] < VALUES[:, 1]
    expected = torch.stack([lower, ~lower], dim=1).float()
    torch.testing.assert_close(found.pull, expected)


def test_a_reward_that_does_not_apply_contributes_nothing():
    found = maximize(side=R(left), warm=R(red)).explain(IMAGES, PROMPTS)
    assert found.contributions[:2, 0].tolist() == [0.0, 0.0]
    assert found.pull[:2, 0].tolist() == [0.0, 0.0]
    assert found.pull[2, 0] > 0


def test_works_without_gradient_mode_and_leaves_the_images_alone():
    with torch.no_grad():
        found = maximize(warm=R(red)).explain(IMAGES, PROMPTS)
    torch.testing.assert_close(found.pull, torch.ones(3, 1))
    assert not IMAGES.requires_grad
    assert not found.utility.requires_grad


def test_only_blind_rewards():
    found = maximize(cool=R(blind)).explain(IMAGES, PROMPTS)
    assert found.pull.isnan().all()


def test_prints_a_table():
    lines = str(maximize(warm=R(red) - R(green), cool=R(blind)).explain(IMAGES, PROMPTS)).split(
        "\n"
    )
    assert len(lines) == 4
    assert lines[0].split()[:3] == ["utility", "-", "mean"]
    assert "pull explain_test_green" in lines[0]
    assert lines[3].endswith("c left")
    assert "none" in lines[1]


@pytest.mark.usefixtures("unchecked")
def test_weights_of_another_length():
    with pytest.raises(ValueError, match=r"`weights` must have shape \[2\] or \[3, 2\]"):
        maximize(warm=R(red), cool=R(green)).explain(IMAGES, PROMPTS, [1.0, 0.0, 0.0])


class TestLeafContributions:
    def test_of_objectives_that_read_several(self):
        objective = maximize(warm=R(red) - 0.5 * R(green), cool=R(blind))
        assert objective.shared == (("warm", "explain_test_red"), ("warm", "explain_test_green"))
        bound = objective.bind()
        found = bound.leaf_contributions(bound.panel(ImageBatch(IMAGES, PROMPTS)))
        torch.testing.assert_close(found, torch.tensor([1.0, -0.5]) * (VALUES - MEAN)[:, :2])

    def test_a_mixture_without_a_value_stops_no_run(self):
        @pointwise(differentiable=True)
        def root(x):
            return x.sqrt()

        # Green exceeds red on every image, and not where only one of them is at its mean.
        images = torch.zeros(2, 3, 4, 4)
        images[0, 1], images[1, 0], images[1, 1] = 0.1, 0.8, 0.9
        bound = maximize(gap=root(R(green) - R(red)), cool=R(red) + R(green)).bind()
        found = bound.leaf_contributions(bound.panel(ImageBatch(images, PROMPTS[:2])))
        assert found[:, :2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert (found[:, 2:] != 0).all()

    def test_none(self):
        bound = maximize(warm=R(red)).bind()
        found = bound.leaf_contributions(bound.panel(ImageBatch(IMAGES, PROMPTS)))
        assert found.shape == (3, 0)
