"""The loop that fits members: early stop, subspaces, shared starts, losses without flips."""

from __future__ import annotations

import pytest
import torch

from rewards.learned.average import averaged_head
from rewards.learned.fit import Descent, Validation, fit_members
from rewards.learned.head import EnsembleHead
from rewards.learned.losses import flag_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


class TestHead:
    def test_an_affine_head_is_affine(self):
        head = EnsembleHead(2, 3, 0, generator())
        with torch.no_grad():
            head.outer.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, -1.0]]))
            head.outer_bias.copy_(torch.tensor([0.5, 0.0]))
            head.mean.copy_(torch.tensor([1.0, 0.0, 0.0]))
            head.std.copy_(torch.tensor([2.0, 1.0, 4.0]))
        # z = ((3 - 1) / 2, 5, 8 / 4) = (1, 5, 2): 1 + 10 + 0.5 and -2
        assert head(torch.tensor([[3.0, 5.0, 8.0]]))[0].tolist() == [11.5, -2.0]
        assert set(head.state_dict()) == {"outer", "outer_bias", "mean", "std"}

    def test_rescaled_outputs(self):
        head, x = EnsembleHead(3, 4, 8, generator()), draw(5, 4)
        before = head(x).detach()
        head.rescale(-2.0, 0.25)
        torch.testing.assert_close(head(x), -2 * before + 0.25)

    def test_the_output_is_linear_in_the_last_features(self):
        head, x = EnsembleHead(2, 4, 8, generator()), draw(5, 4)
        expected = (head.last_features(x) * head.outer).sum(-1) + head.outer_bias
        torch.testing.assert_close(head(x), expected)

    def test_shared_members_start_equal_and_others_do_not(self):
        assert len(set(EnsembleHead(3, 4, 8, generator(), shared=True).initialisations())) == 1
        assert len(set(EnsembleHead(3, 4, 8, generator()).initialisations())) == 3


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_restricted_member_never_reads_what_it_may_not(hidden):
    x = draw(60, 4)
    head = EnsembleHead(2, 4, hidden, generator())
    head.restrict(torch.tensor([[True, True, False, False], [False, False, True, True]]))
    target = x.sum(1, keepdim=True)
    fit_members(head, x, lambda s: (s - target).square(), Descent(steps=20), generator())
    moved = x.clone()
    moved[:, 2:] += 10
    with torch.no_grad():
        before, after = head(x), head(moved)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


class TestEarlyStop:
    def test_each_member_keeps_the_parameters_of_its_best_look(self):
        # Validation labels are pure noise: the longer the fit, the worse, and it stops soon.
        x, y = draw(40, 20), draw(40, 1, seed=2)
        other, answers = draw(40, 20, seed=3), draw(40, 1, seed=4)
        head = EnsembleHead(3, 20, 16, generator())
        look = Validation(other, lambda s: (s - answers).square())
        descent = Descent(steps=400, weight_decay=0.0, patience=3)
        steps = fit_members(head, x, lambda s: (s - y).square(), descent, generator(), look)
        kept = look.loss_of(head(other)).mean(0)
        long = EnsembleHead(3, 20, 16, generator())
        fit_members(long, x, lambda s: (s - y).square(), descent, generator())
        assert max(steps) < 400
        assert (kept < look.loss_of(long(other)).mean(0)).all()
        # What was kept is what the step alone would have given.
        again = EnsembleHead(3, 20, 16, generator())
        losses = []

        def watched(s: torch.Tensor) -> torch.Tensor:
            losses.append(look.loss_of(s.detach()).mean(0))
            return look.loss_of(s)

        fit_members(
            again, x, lambda s: (s - y).square(), descent, generator(), Validation(other, watched)
        )
        torch.testing.assert_close(kept.detach(), torch.stack(losses).amin(0))

    def test_without_validation_every_step_is_taken(self):
        x = draw(20, 3)
        head = EnsembleHead(2, 3, 0, generator())
        steps = fit_members(head, x, lambda s: s.square(), Descent(steps=7), generator())
        assert steps == [7, 7]


def test_without_bootstrap_equal_members_stay_equal():
    x, target = draw(30, 3), draw(30, 1, seed=2)
    found = []
    for bootstrap in (False, True):
        head = EnsembleHead(2, 3, 4, generator(), shared=True)
        descent = Descent(steps=10, bootstrap=bootstrap)
        fit_members(head, x, lambda s: (s - target).square(), descent, generator())
        found.append(torch.equal(head.outer[0], head.outer[1]))
    assert found == [True, False]


def test_cross_entropy_without_flips_stays_finite():
    # -log sigmoid(200) = 0, and a wrong answer costs its logit, 200
    loss = flag_loss(torch.tensor([[200.0], [200.0]]), torch.tensor([True, False]))
    assert loss[:, 0].tolist() == pytest.approx([0.0, 200.0])


def test_the_average_of_affine_heads_is_the_mean_of_their_outputs():
    head, x = EnsembleHead(5, 6, 0, generator()), draw(9, 6)
    head.standardise(draw(30, 6, seed=5))
    torch.testing.assert_close(averaged_head(head)(x)[:, 0], head(x).mean(1))


def test_the_average_of_other_heads_is_that_of_their_weights():
    head, x = EnsembleHead(3, 6, 8, generator()), draw(9, 6)
    one = averaged_head(head)
    torch.testing.assert_close(one.inner[0], head.inner.mean(0))
    assert (one(x)[:, 0] - head(x).mean(1)).abs().max() > 1e-3
