"""Learning a reward from labels: planted truths are found, what cannot be learned is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rewards.learned.average import average_rewards
from rewards.learned.card import Card
from rewards.learned.labels import Labelled, split, with_noise
from rewards.learned.measures import accuracy, calibration_error, correlation
from rewards.learned.model import RewardModel
from rewards.learned.settings import RewardTraining, RewardTrainingError
from rewards.learned.train import Learned, train_reward
from rewards.members import NoProtectionError

PLANTED = torch.tensor([1.0, -2.0, 0.5, 0.0])
COUNT = 400


# Enough of everything for an affine head to come to the optimum.
EXACT = {"steps": 300, "hidden": 0, "members": 3, "learning_rate": 0.05, "weight_decay": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(COUNT, 4, generator=generator()) * torch.tensor([1.0, 2.0, 0.5, 1.0])
TRUTH = X @ PLANTED
EACH = torch.arange(COUNT)


def ratings(noise: float = 0.5) -> Labelled:
    heard = 50 + 7 * (TRUTH + noise * torch.randn(COUNT, generator=generator(1)))
    return Labelled("regression", X, heard, EACH)


def flags() -> Labelled:
    drawn = torch.rand(COUNT, generator=generator(2)) < torch.sigmoid(TRUTH)
    return Labelled("classification", X, drawn.float(), EACH)


def choices(sure: float = 1.0) -> Labelled:
    """Pairs (2 i, 2 i + 1) and, in groups of four, (2 i, 2 i + 2)."""
    first = torch.cat([EACH[::2], EACH[::4]])
    second = torch.cat([EACH[1::2], EACH[2::4]])
    chance = torch.sigmoid(sure * (TRUTH[first] - TRUTH[second]))
    chosen = torch.rand(len(first), generator=generator(3)) < chance
    return Labelled("preference", X, chosen.float(), first, second)


def learned(labels: Labelled, **changed: object) -> Learned:
    card = Card(labels.task, "shapes_clip")
    return train_reward(labels, card, torch.ones(3), RewardTraining(**{"steps": 60, **changed}))


def slopes(model: RewardModel) -> torch.Tensor:
    """Of an affine head, member by member, by the raw features."""
    return model.head.outer / model.head.std


class TestPlantedTruths:
    def test_ratings_come_back_in_their_own_units(self):
        found = learned(ratings(), **EXACT)
        torch.testing.assert_close(slopes(found.model).mean(0), 7 * PLANTED, atol=0.7, rtol=0.05)
        assert found.model.card.measures["r"] > 0.95
        # noise of 0.5 in units of 7
        assert found.model.card.measures["rmse"] == pytest.approx(3.5, rel=0.3)

    def test_choices_give_the_utility_back(self):
        found = learned(choices(), **EXACT)
        # In units of each feature's spread: 210 pairs say little where one hardly varies.
        slope, planted = found.model.head.outer.mean(0), PLANTED * X.std(0)
        assert torch.cosine_similarity(slope, planted, dim=0) > 0.97
        assert slope.norm() == pytest.approx(planted.norm().item(), rel=0.35)
        assert found.model.card.measures["accuracy"] > 0.75

    def test_flags_give_their_probability_back(self):
        found = learned(flags(), **EXACT)
        p, std = found.model.score(X)
        assert (p - torch.sigmoid(TRUTH)).abs().mean() < 0.06
        assert 0 <= p.min() <= p.max() <= 1
        assert std.min() >= 0
        assert found.model.card.measures["ece"] < 0.25

    def test_label_noise_costs_accuracy(self):
        clean, noisy = (learned(choices(5.0), label_noise=share, **EXACT) for share in (0.0, 0.4))
        assert noisy.model.card.measures["accuracy"] < clean.model.card.measures["accuracy"] - 0.1

    def test_the_same_seed_learns_the_same(self):
        one, again, other = (learned(choices(), steps=20, seed=s) for s in (1, 1, 2))
        assert torch.equal(one.model.head.outer, again.model.head.outer)
        assert not torch.equal(one.model.head.outer, other.model.head.outer)


class TestSingleHeads:
    @pytest.mark.parametrize("kind", ["laplace", "mahalanobis"])
    @pytest.mark.parametrize("labels", [ratings(), flags(), choices()], ids=lambda part: part.task)
    def test_one_head_gives_value_and_uncertainty(self, kind, labels):
        found = learned(labels, members=1, hidden=8, uncertainty=kind).model
        inputs = X[:6].clone().requires_grad_(True)
        values, std = found.score(inputs)
        assert values.shape == std.shape == (6,)
        assert (std > 0).all()
        (values - std).sum().backward()
        assert torch.isfinite(inputs.grad).all()
        assert (inputs.grad != 0).any(dim=1).all()
        if labels.task != "classification":
            far = found.score(20 * X)[1]
            assert (far > found.score(X)[1]).float().mean() > 0.95

    def test_a_margin_is_surer_than_its_two_sides(self):
        found = learned(choices(), members=1, hidden=0, uncertainty="laplace").model
        values, std = found.score(X)
        near = X + 0.01
        margin, between = found.margin(X, near)
        torch.testing.assert_close(margin, values - found.score(near)[0], atol=1e-4, rtol=1e-4)
        assert (between < 0.1 * std.mean()).all()

    def test_an_average_is_one_head_that_learns_as_well(self):
        found = learned(
            choices(), average=True, uncertainty="laplace", hidden=8, learning_rate=0.03
        )
        assert found.model.head.members == found.model.card.members == 1
        assert found.model.card.averaged == 5
        assert len(found.steps) == 5
        assert found.model.card.measures["accuracy"] > 0.7
        assert found.doubt.count > 0


class TestAverageOfStoredRewards:
    def test_it_is_the_mean_of_affine_members(self):
        found = learned(ratings(), shared_start=True, hidden=0, steps=50).model
        one = average_rewards([found])
        expected = found.head(X).mean(1)
        torch.testing.assert_close(one.score(X)[0], expected, atol=1e-3, rtol=1e-4)
        assert one.score(X)[1] is None
        assert one.card.averaged == 5

    def test_several_files_are_joined(self):
        slow, fast = (
            learned(ratings(), shared_start=True, steps=20, learning_rate=rate).model
            for rate in (1e-3, 1e-2)
        )
        one = average_rewards([slow, fast])
        mean = torch.cat([slow.head.outer, fast.head.outer]).mean(0)
        torch.testing.assert_close(one.head.outer[0], mean)
        assert one.card.averaged == 10

    def test_members_of_their_own_start_are_refused(self):
        found = learned(ratings(), steps=10).model
        with pytest.raises(RewardTrainingError, match="these 5 started from 5"):
            average_rewards([found])

    def test_other_shapes_tasks_and_inputs_are_refused(self):
        wide, narrow = (
            learned(ratings(), shared_start=True, steps=10, hidden=units).model for units in (8, 4)
        )
        with pytest.raises(RewardTrainingError, match=r"`hidden` must be the same .* 4, .* 8"):
            average_rewards([wide, narrow])
        flagged = replace(wide, card=replace(wide.card, task="classification"))
        with pytest.raises(RewardTrainingError, match="`task` must be the same"):
            average_rewards([wide, flagged])
        moved = learned(replace(ratings(), inputs=2 * X), shared_start=True, steps=10, hidden=8)
        with pytest.raises(RewardTrainingError, match="standardises its inputs otherwise"):
            average_rewards([wide, moved.model])

    def test_one_reward_has_nothing_to_average(self):
        found = learned(ratings(), members=1, uncertainty="none", steps=10).model
        with pytest.raises(NoProtectionError, match="at least 2 different members; got 1"):
            average_rewards([found])
        with pytest.raises(NoProtectionError, match="2 different members; got 2 equal ones"):
            average_rewards([found, found])


@pytest.mark.usefixtures("unchecked")
class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"members": 0, "uncertainty": "none"}, "members: must be at least 1; got 0"),
            ({"members": 1}, "uncertainty: a single head has no members that disagree"),
            ({"average": True}, "uncertainty: a single head has no members that disagree"),
            ({"uncertainty": "laplace"}, "laplace is of a single head, and there are 5"),
            ({"uncertainty": "laplce"}, "unknown 'laplce'; nearest: 'laplace'"),
            ({"shared_start": True, "bootstrap": False}, "equal members protect from nothing"),
            ({"shared_start": True, "subspace": 0.5}, "shared_start: members that read different"),
            ({"subspace": 0.0}, r"subspace: must be a share in \(0, 1\]; got 0.0"),
            ({"label_noise": 0.5}, r"label_noise: must be a share in \[0, 0.5\); got 0.5"),
            ({"held_out": 1.0}, "held_out: must be a share strictly between 0 and 1; got 1.0"),
            ({"learning_rate": float("nan")}, "learning_rate: must be above 0 and finite; got nan"),
        ],
    )
    def test_settings(self, changed, message):
        with pytest.raises(RewardTrainingError, match=message):
            learned(ratings(), **changed)

    def test_every_bad_setting_is_named_at_once(self):
        with pytest.raises(RewardTrainingError) as caught:
            learned(ratings(), steps=0, subspace=2.0)
        assert len(str(caught.value).splitlines()) == 2

    def test_members_that_come_out_equal(self):
        # Inputs that never vary: every member is its offset, and bootstraps of two ratings that
        # occur equally often still differ; with one step of no size they do not.
        still = Labelled("regression", torch.zeros(COUNT, 2), ratings().target, EACH)
        with pytest.raises(NoProtectionError, match="give the same scores"):
            learned(still, learning_rate=1e-30, steps=1)

    def test_labels(self):
        with pytest.raises(RewardTrainingError, match="a target is NaN"):
            replace(ratings(), target=torch.full((COUNT,), torch.nan))
        with pytest.raises(RewardTrainingError, match="features hold NaN"):
            replace(ratings(), inputs=torch.full((COUNT, 4), torch.inf))
        with pytest.raises(RewardTrainingError, match="target of classification is 0 or 1"):
            replace(flags(), target=torch.full((COUNT,), 0.5))
        with pytest.raises(RewardTrainingError, match="`second` belongs to preference alone"):
            replace(ratings(), second=EACH)
        few = Labelled("regression", X[:12], ratings().target[:12], EACH[:12])
        with pytest.raises(RewardTrainingError, match=r"the part '(train|validation)' would hold"):
            learned(few)
        same = replace(ratings(), target=torch.ones(COUNT))
        with pytest.raises(RewardTrainingError, match="nothing to tell apart"):
            learned(same)


class TestSplit:
    def test_no_image_stands_in_two_parts(self):
        parts = split(choices(), 0.4, generator())
        seen = [{tuple(row) for row in part.inputs.tolist()} for part in parts.parts.values()]
        assert sum(map(len, seen)) == len(set.union(*seen)) == COUNT
        # Choices come in groups of four images, which stay together.
        assert parts.left_out == 0
        sizes = [len(part.inputs) / COUNT for part in parts.parts.values()]
        assert sizes == pytest.approx([0.6, 0.2, 0.2], abs=0.02)

    def test_choices_still_belong_to_their_images(self):
        labels = replace(
            choices(), target=(TRUTH[choices().first] > TRUTH[choices().second]).float()
        )
        for part in split(labels, 0.4, generator()).parts.values():
            margin = part.of_items(part.inputs @ PLANTED)
            assert torch.equal(margin > 0, part.target > 0.5)

    def test_a_web_of_choices_loses_those_between_the_parts(self):
        first, second = EACH, (EACH + 1) % COUNT  # one ring
        web = Labelled("preference", X, torch.ones(COUNT), first, second)
        parts = split(web, 0.5, generator())
        kept = sum(len(part) for part in parts.parts.values())
        assert kept + parts.left_out == COUNT
        assert parts.left_out > COUNT / 3

    def test_several_labels_of_an_image_stay_together(self):
        twice = Labelled("regression", X, torch.arange(2.0 * COUNT), EACH.repeat(2))
        for part in split(twice, 0.4, generator()).parts.values():
            assert len(part) == 2 * part.images
            numbers = (part.target % COUNT).long()
            assert torch.equal(X[numbers], part.inputs[part.first])


class TestNoise:
    def test_a_share_of_the_answers_is_flipped(self):
        noisy = with_noise(flags(), 0.25, generator())
        assert (noisy.target != flags().target).float().mean() == 0.25

    def test_ratings_are_exchanged(self):
        noisy = with_noise(ratings(), 0.25, generator())
        assert (noisy.target != ratings().target).float().mean() == 0.25
        assert torch.equal(noisy.target.sort().values, ratings().target.sort().values)


class TestMeasures:
    def test_calibration_error(self):
        # Two bins of 15: four at 0.9 of which three are yes, |0.75 - 0.9|, one at 0.2 that is yes,
        # |1 - 0.2|: 4/5 x 0.15 + 1/5 x 0.8 = 0.28
        p = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.2])
        yes = torch.tensor([True, True, True, False, True])
        assert calibration_error(p, yes) == pytest.approx(0.28)

    def test_certainty_that_is_right_has_none(self):
        assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 0
        assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([True, False])) == 1

    def test_accuracy_counts_ties_half(self):
        logits = torch.tensor([2.0, -1.0, 0.0, 3.0])
        assert accuracy(logits, torch.tensor([True, True, True, True])) == (1 + 0 + 0.5 + 1) / 4

    def test_correlation(self):
        x = torch.tensor([1.0, 2.0, 3.0])
        assert correlation(x, -2 * x + 1) == pytest.approx(-1)
        assert correlation(x, torch.ones(3)) == 0

    def test_a_choice_counts_in_both_orders(self):
        # A file that always names the chosen image first: half sure is right half of the time.
        part = replace(choices(), target=torch.ones(len(choices())))
        logits, answers = part.balanced(torch.zeros(len(part)))
        assert calibration_error(torch.sigmoid(logits), answers) == 0
