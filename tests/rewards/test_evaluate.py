"""Objectives on images: values, validity, disagreement, pessimism, one pass each."""

from __future__ import annotations

import math

import pytest
import torch
from properties import assert_gradient_matches_finite_difference, normal

from rewards import R, ensemble, max_, maximize, min_, register
from rewards.calibration import Calibration
from rewards.encoders import Encoder
from rewards.errors import CalibrationError, ExpressionError, RewardFault
from rewards.expression import Expression
from rewards.facts import RewardFacts
from rewards.members import NoProtectionError
from rewards.objective import Objective
from rewards.panel import MaskedFaultWarning, RewardTable
from rewards.reward import ImageBatch, Reward, Scores
from rewards.semantics import value_of

NAMES = ("a", "b", "c")
# Two samples; c does not apply to the second.
VALUES = torch.tensor([[2.0, -4.0, 0.5], [3.0, 1.0, 8.0]])
VALID = torch.tensor([[True, True, True], [True, True, False]])
STD = torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.0, 0.5]])
TABLE = RewardTable(VALUES, VALID, STD, NAMES)
A, B, C = R("a"), R("b"), R("c")


def columns(*values: list[float], std: list[list[float]] | None = None) -> RewardTable:
    """A table of the columns a, b, ... that applies everywhere."""
    table = torch.tensor(values).T
    spread = torch.zeros_like(table) if std is None else torch.tensor(std).T
    return RewardTable(table, torch.ones_like(table).bool(), spread, NAMES[: len(values)])


class Fixed(Reward):
    """A reward with a declared range that returns given scores, counting its calls."""

    def __init__(self, name, values, std=None, valid=None, low=-math.inf, high=math.inf) -> None:
        self.facts = RewardFacts(name, "quality", "", low, high)
        self.values, self.std, self.valid = values, std, valid
        self.calls = 0

    def score(self, batch):
        self.calls += 1
        valid = [True] * len(batch) if self.valid is None else self.valid
        std = None if self.std is None else torch.tensor(self.std)
        return Scores(torch.tensor(self.values), torch.tensor(valid), std)


def of_size(count: int) -> ImageBatch:
    return ImageBatch(torch.full((count, 3, 4, 4), 0.5), [f"prompt {i}" for i in range(count)])


class TestValueOf:
    @pytest.mark.parametrize(
        ("expression", "values", "std"),
        [
            (A, [2, 3], [0.1, 0.3]),
            (A + B, [-2, 4], [0.3, 0.3]),
            (A - B, [6, 2], [0.3, 0.3]),
            (-A, [-2, -3], [0.1, 0.3]),
            (A + 1, [3, 4], [0.1, 0.3]),
            (-3 * A, [-6, -9], [0.3, 0.9]),
            # |a| std b + |b| std a: 2 x 0.2 + 4 x 0.1, 3 x 0 + 1 x 0.3
            (A * B, [-8, 3], [0.8, 0.3]),
            # (std a + |a / b| std b) / |b|: (0.1 + 0.5 x 0.2) / 4, 0.3 / 1
            (A / B, [-0.5, 3], [0.05, 0.3]),
            (1 / A, [0.5, 1 / 3], [0.1 / 4, 0.3 / 9]),
            (min_(A, B), [-4, 1], [0.2, 0.0]),
            (max_(A, B, 2.5), [2.5, 3], [0.0, 0.3]),
            (A.clip(2.5, 2.75), [2.5, 2.75], [0.1, 0.3]),
        ],
    )
    def test_arithmetic(self, expression, values, std):
        found = value_of(expression, TABLE, {})
        assert found.values.tolist() == pytest.approx(values)
        assert found.disagreement.tolist() == pytest.approx(std)
        assert found.valid.all()

    @pytest.mark.parametrize(
        "expression", [C, C + A, A - C, A * C, A / C, min_(A, C), C.clip(0, 1)]
    )
    def test_a_sample_is_valid_where_all_its_rewards_are(self, expression):
        assert value_of(expression, TABLE, {}).valid.tolist() == [True, False]

    def test_calibrated(self):
        # (2 - 1) / 4 and (3 - 1) / 4
        found = value_of(A.calibrated(), TABLE, {"a": (1.0, 4.0)})
        assert found.values.tolist() == pytest.approx([0.25, 0.5])
        assert found.disagreement.tolist() == pytest.approx([0.025, 0.075])

    def test_ensemble(self):
        # a and b with base (2, 1) and (1, 5): z = (0, -1), (1, 0); mean of means 1.5, of stds 3
        statistics = {"a": (2.0, 1.0), "b": (1.0, 5.0)}
        found = value_of(ensemble(A, B), TABLE, statistics)
        assert found.values.tolist() == pytest.approx([1.5 - 1.5, 1.5 + 1.5])
        # between: 3 sqrt 0.5; within: the mean of (0.1, 0.2 / 5)^2, of (0.3, 0)^2, in z, times 9
        within = [(0.1**2 + 0.04**2) / 2, 0.3**2 / 2]
        expected = [3 * math.sqrt(0.5 + w) for w in within]
        assert found.disagreement.tolist() == pytest.approx(expected, rel=1e-5)

    def test_pessimistic_ensembles_know_their_role(self):
        statistics = {"a": (2.0, 1.0), "b": (1.0, 5.0)}
        low = ensemble(A, B, aggregate="min")
        # z = (0, -1), (1, 0): lower ends -1, 0; upper ends 0, 1
        assert value_of(low, TABLE, statistics).values.tolist() == pytest.approx([-1.5, 1.5])
        minus = value_of(-low, TABLE, statistics)
        assert minus.values.tolist() == pytest.approx([-1.5, -4.5])
        cost = value_of(low, TABLE, statistics, direction=-1)
        assert cost.values.tolist() == pytest.approx([1.5, 4.5])

    def test_what_does_not_apply_divides_nothing(self):
        values = torch.tensor([[1.0, 2.0], [1.0, 0.0]], requires_grad=True)
        valid = torch.tensor([[True, True], [True, False]])
        found = value_of(A / B, RewardTable(values, valid, torch.zeros(2, 2), ("a", "b")), {})
        torch.where(found.valid, found.values, 0).sum().backward()
        # d (a / b) = 1 / b, -a / b^2 at (1, 2)
        assert values.grad.tolist() == [[0.5, -0.25], [0.0, 0.0]]

    @pytest.mark.parametrize(
        "expression",
        [
            0.5 * A + B * A - 2,
            A / (B.clip(3, 9)) - B / 2,
            min_(A, 2 * B) + max_(B, 0.1),
            ensemble(A, B).calibrated() * 3,
            ensemble(A, B, aggregate="mean-std") - ensemble(B, A, aggregate="min"),
        ],
    )
    def test_gradients(self, expression):
        statistics = {str(node): (0.5, 2.0) for node in expression.walk()}
        valid, std = torch.ones(5, 2).bool(), torch.zeros(5, 2).double()

        def value(values):
            return value_of(
                expression, RewardTable(values, valid, std, NAMES[:2]), statistics
            ).values

        assert_gradient_matches_finite_difference(value, normal(5, 2))

    def test_an_unknown_node_is_an_error(self):
        class Power(Expression):
            children = (A,)

        with pytest.raises(TypeError, match="no rule evaluates a Power"):
            value_of(Power(), TABLE, {})


class TestTable:
    def test_value_by_hand(self, batch):
        bound = (
            maximize(look=0.5 * R("brightness") + 1, plain=-R("saturation"))
            .subject_to(R("brightness") <= 0.5, R("contrast") >= 0.1)
            .bind()
        )
        table = bound(batch)
        # black, white, red: brightness 0, 1, 0.299; saturation 0, 0, 1; contrast 0
        assert table.rewards[:3, 0].tolist() == pytest.approx([1, 1.5, 1.1495])
        assert table.rewards[:3, 1].tolist() == pytest.approx([0, 0, -1])
        assert table.costs[:3, 0].tolist() == pytest.approx([0, 1, 0.299])
        assert table.costs[:3, 1].tolist() == pytest.approx([0, 0, 0])
        assert table.reward_valid.all()
        assert table.cost_valid.all()
        assert table.std.abs().max() == 0
        assert table.raw.names == bound.leaves == ("brightness", "saturation", "contrast")

    def test_without_constraints_there_are_none(self, batch):
        table = maximize(a=R("brightness")).bind()(batch)
        assert table.costs.shape == table.cost_valid.shape == (4, 0)

    def test_gradients_reach_the_images(self):
        images = torch.rand(2, 3, 8, 8, requires_grad=True)
        objective = maximize(a=2 * R("brightness")).subject_to(R("brightness") <= 0.5)
        table = objective.bind()(ImageBatch(images, ["x", "y"]))
        (table.rewards.sum() + table.costs.sum()).backward()
        # 3 d mean luma / d green = 3 x 0.587 / 64
        assert images.grad[0, 1, 0, 0].item() == pytest.approx(3 * 0.587 / 64)

    def test_pessimism_by_role(self):
        noisy = R(Fixed("noisy", [1.0, 2.0], std=[0.1, 0.4]))
        objective = maximize(up=noisy, down=-noisy).subject_to(noisy <= 3, noisy >= 0)
        table = objective.pessimistic(2.0).bind()(of_size(2))
        # less where it is maximised or bounded from below, more where it is bounded from above
        assert table.rewards.T.flatten().tolist() == pytest.approx([0.8, 1.2, -1.2, -2.8])
        assert table.costs.T.flatten().tolist() == pytest.approx([1.2, 2.8, 0.8, 1.2])
        assert table.std.T.flatten().tolist() == pytest.approx([0.1, 0.4, 0.1, 0.4])

    def test_pessimism_zero_is_the_mean(self):
        noisy = R(Fixed("noisy", [1.0, 2.0], std=[0.1, 0.4]))
        table = maximize(a=noisy).subject_to(noisy <= 3).bind()(of_size(2))
        assert table.rewards.tolist() == table.costs.tolist() == [[1.0], [2.0]]

    def test_what_does_not_apply_is_zero_and_invalid(self):
        half = R(Fixed("half", [1.0, 2.0], std=[0.1, 0.4], valid=[True, False]))
        table = maximize(a=5 + half).subject_to(1 + half <= 3).pessimistic(1.0).bind()(of_size(2))
        assert table.rewards.flatten().tolist() == pytest.approx([5.9, 0.0])
        assert table.reward_valid.tolist() == table.cost_valid.tolist() == [[True], [False]]
        assert table.costs.flatten().tolist() == pytest.approx([2.1, 0.0])

    def test_constraints_compare_raw_values_and_calibration_comes_after(self):
        # Order: members, aggregate, pessimism, constraints raw, then calibration of what is
        # maximised: (mean - p std - mu) / sigma = (2 - 0.4 - 1) / 0.5
        noisy = R(Fixed("noisy", [2.0], std=[0.4]))
        objective = maximize(a=noisy).subject_to(noisy <= 3).pessimistic(1.0)
        table = objective.bind()(of_size(1)).calibrated(Calibration(("a",), (1.0,), (0.5,)))
        assert table.rewards.item() == pytest.approx(1.2)
        assert table.std.item() == pytest.approx(0.8)
        assert table.costs.item() == pytest.approx(2.4)


class TestOnce:
    def test_every_reward_runs_once_however_often_it_is_named(self):
        first, second = Fixed("first", [1.0, 2.0]), Fixed("second", [3.0, 4.0])
        a, b = R(first), R(second)
        bound = maximize(x=a + b * a, y=min_(a, b)).subject_to(a <= 5, b - a >= 0).bind()
        bound(of_size(2))
        assert (first.calls, second.calls) == (1, 1)

    def test_every_encoder_runs_once(self):
        class Tower(torch.nn.Module):
            calls = 0

            def encode_image(self, images):
                self.calls += 1
                return images.mean((2, 3))

            def encode_text(self, prompts):
                return torch.ones(len(prompts), 3)

        tower = Tower()
        encoder = Encoder("tower", tower)

        class Channel(Reward):
            def __init__(self, channel):
                self.facts = RewardFacts(f"channel_{channel}", "quality", "", encoder="tower")
                self.channel = channel

            def score(self, batch):
                return Scores.of(encoder.image_features(batch)[:, self.channel])

        red, green, blue = (R(Channel(i)) for i in range(3))
        maximize(a=red + green, b=blue).subject_to(red <= 1).bind()(of_size(2))
        assert tower.calls == 1

    def test_a_table_of_scores_is_evaluated_without_scoring(self):
        fixed = Fixed("fixed", [1.0, 2.0])
        bound = maximize(a=2 * R(fixed)).bind()
        raw = bound.panel(of_size(2))
        assert bound.table(raw).rewards.flatten().tolist() == [2.0, 4.0]
        assert fixed.calls == 1


class TestFit:
    def test_statistics_of_calibrated_parts(self):
        # a + 1 on (1, 3): 2, 4: mean 3, unbiased std sqrt 2
        bound = maximize(x=(R(Fixed("a", [])) + 1).calibrated()).bind()
        bound.fit([columns([1.0]), columns([3.0])])
        assert bound.statistics == {"a + 1": pytest.approx((3.0, math.sqrt(2)))}
        assert bound.table(columns([3.0])).rewards.item() == pytest.approx(1 / math.sqrt(2))

    def test_nested_parts_are_fitted_inside_out(self):
        bound = maximize(x=(2 + R(Fixed("a", [])).calibrated()).calibrated()).bind()
        base = columns([1.0, 2.0, 6.0])
        bound.fit([base])
        values = bound.table(base).rewards
        assert values.mean().item() == pytest.approx(0.0, abs=1e-6)
        assert values.std().item() == pytest.approx(1.0)
        # calibrated(a) has mean 0 and std 1, and 2 more has mean 2
        assert bound.statistics["2 + calibrated(a)"] == pytest.approx((2.0, 1.0))

    def test_fitting_again_starts_anew(self):
        bound = maximize(x=R(Fixed("a", [])).calibrated().calibrated()).bind()
        bound.fit([columns([1.0, 2.0])])
        bound.fit([columns([10.0, 30.0])])
        assert bound.statistics["a"] == pytest.approx((20.0, math.sqrt(200)))
        assert bound.statistics["calibrated(a)"] == pytest.approx((0.0, 1.0), abs=1e-6)

    def test_samples_that_do_not_apply_do_not_count(self):
        bound = maximize(x=R(Fixed("a", [])).calibrated()).bind()
        table = columns([1.0, 3.0, 100.0])
        valid = torch.tensor([[True], [True], [False]])
        bound.fit([RewardTable(table.values, valid, table.std, table.names)])
        assert bound.statistics["a"] == pytest.approx((2.0, math.sqrt(2)))

    def test_an_ensemble_stays_inside_the_declared_range(self):
        members = [R(Fixed(name, [], low=0, high=1)) for name in ("a", "b")]
        bound = maximize(x=ensemble(*members)).bind()
        bound.fit([columns([0.49, 0.50, 0.51], [0.8, 0.9, 1.0])])
        # base (0.5, 0.01) and (0.9, 0.1): z of (1, 1) is (50, 1), so 0.7 + 0.055 x 25.5 = 2.1;
        # of (0, 0) it is (-50, -9), so 0.7 - 0.055 x 29.5 = -0.9
        table = bound.table(columns([1.0, 0.0], [1.0, 0.0]))
        assert table.rewards.flatten().tolist() == [1.0, 0.0]

    def test_before_it_is_fitted(self):
        bound = maximize(x=R("brightness").calibrated()).bind()
        message = (
            r"calibrated\(brightness\) needs the base model's statistics of brightness; call `fit`"
        )
        with pytest.raises(CalibrationError, match=message):
            bound(of_size(2))

    def test_a_part_that_never_varies(self):
        bound = maximize(x=R(Fixed("a", [])).calibrated()).bind()
        with pytest.raises(CalibrationError, match=r"'a' takes one value, 0.1, on 3 images"):
            bound.fit([columns([0.1, 0.1, 0.1])])

    def test_members_that_never_disagree(self):
        bound = maximize(x=ensemble(R(Fixed("a", [])), R(Fixed("b", [])))).bind()
        with pytest.raises(NoProtectionError, match=r"members 0 and 1 .* on all 3 base samples"):
            bound.fit([columns([0.1, 0.2, 0.4], [0.1, 0.2, 0.4])])

    def test_agreement_on_one_batch_is_no_error(self):
        # Saturated members agree for a while, an hour into a run
        members = [R(Fixed(name, [])) for name in ("a", "b")]
        bound = maximize(x=ensemble(*members)).bind()
        bound.fit([columns([0.1, 0.2, 0.4], [0.2, 0.2, 0.5])])
        assert torch.isfinite(bound.table(columns([1.0, 1.0], [1.0, 1.0])).rewards).all()

    def test_no_tables(self):
        bound = maximize(x=R("brightness").calibrated()).bind()
        with pytest.raises(CalibrationError, match="no scores"):
            bound.fit([])


class TestFaults:
    def test_a_fault_names_the_reward_as_the_objective_does(self):
        fixed = Fixed("fixed", [1.0, math.nan])
        with pytest.raises(RewardFault, match="reward 'fixed' returned nan for prompt 'prompt 1'"):
            maximize(a=R(fixed)).bind()(of_size(2))

    def test_masked_samples_are_invalid_in_every_expression(self):
        fixed = Fixed("fixed", [1.0, math.nan])
        objective = maximize(a=1 + R(fixed), b=R("brightness")).subject_to(R(fixed) <= 3)
        bound = objective.bind(on_fault="mask")
        with pytest.warns(MaskedFaultWarning):
            table = bound(of_size(2))
        assert table.reward_valid.tolist() == [[True, True], [False, True]]
        assert table.cost_valid.tolist() == [[True], [False]]
        assert table.rewards[:, 0].tolist() == [2.0, 0.0]
        assert bound.panel.faults == {"fixed": 1, "brightness": 0}

    def test_an_expression_that_overflows_is_named_with_its_parts(self):
        big = Fixed("big", [1.0, 1e30])
        message = r"maximize.a: big \* big is inf on sample 1 \(big = 1e\+30\)"
        with pytest.raises(RewardFault, match=message):
            maximize(a=R(big) * R(big)).bind()(of_size(2))

    def test_an_unsound_objective_does_not_bind(self):
        with pytest.raises(ExpressionError, match="unknown reward 'brighness'"):
            Objective.from_dict({"maximize": {"a": "brighness"}}).bind()

    def test_chunks_change_nothing(self, batch):
        objective = maximize(a=R("brightness"), b=-R("sharpness"))
        whole, parts = objective.bind()(batch), objective.bind(chunk=3)(batch)
        torch.testing.assert_close(parts.rewards, whole.rewards)

    def test_a_function_that_returns_no_tensor(self, batch):
        @register
        def listed(images, prompts):
            return [0.0] * len(prompts)

        message = r"listed' raised TypeError: it must return a tensor of shape \[\d\]; got a list"
        with pytest.raises(RewardFault, match=message):
            maximize(a=R(listed)).bind()(batch)

    def test_a_function_that_returns_another_shape(self, batch):
        @register
        def one(images, prompts):
            return images.mean()

        with pytest.raises(RewardFault, match=r"must return a tensor of shape \[4\]; got \[\]"):
            maximize(a=R(one)).bind()(batch)
