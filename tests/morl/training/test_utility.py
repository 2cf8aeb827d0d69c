"""What is optimised: the running mean over weight vectors, coefficients, penalties."""

from dataclasses import replace

import pytest
import torch

from morl.training.handling import Handling
from morl.training.utility import MeanRewards, Observation, TrainingUtility
from rewards.calibration import Calibration
from rewards.constraints import DualAscent
from rewards.evaluate import ObjectiveTable
from rewards.multipliers import per_vertex
from rewards.objective import Objective
from rewards.panel import RewardTable


def objective(**changes: object) -> Objective:
    plain = {"maximize": {"a": "brightness", "b": "saturation"}, **changes}
    return Objective.from_dict(plain)


def table(rewards: torch.Tensor, costs: torch.Tensor | None = None) -> ObjectiveTable:
    costs = rewards.new_zeros(len(rewards), 0) if costs is None else costs
    raw = RewardTable(rewards, torch.ones_like(rewards).bool(), 0 * rewards, ("a", "b"))
    return ObjectiveTable(
        rewards,
        torch.ones_like(rewards).bool(),
        0 * rewards,
        costs,
        torch.ones_like(costs).bool(),
        raw,
    )


UNIT = Calibration(("a", "b"), (0.0, 0.0), (1.0, 1.0))


def test_mean_rewards_recover_a_linear_front() -> None:
    # r(w) = M^T w exactly; after many samples the ridge no longer weighs.
    truth = torch.tensor([[1.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    means = MeanRewards(2, decay=1.0, ridge=1e-6)
    weights = torch.rand(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    means.update(weights, weights @ truth)
    torch.testing.assert_close(means.at(torch.eye(2).double()), truth, atol=1e-4, rtol=0)


def test_mean_rewards_start_at_the_base_model() -> None:
    assert torch.equal(MeanRewards(3).at(torch.eye(3)), torch.zeros(3, 3))


def test_linear_utility_by_hand() -> None:
    # 0.25 * 2 + 0.75 * 4 = 3.5, calibrated by mean 1 and std 2: 0.25 * 0.5 + 0.75 * 1.5 = 1.25.
    calibration = Calibration(("a", "b"), (1.0, 1.0), (2.0, 2.0))
    utility = TrainingUtility(objective(), calibration, None)
    weights = torch.tensor([[0.25, 0.75]])
    scored = utility.score(table(torch.tensor([[2.0, 4.0]])), weights)
    torch.testing.assert_close(utility.utility(scored, weights), torch.tensor([1.25]))


def test_smooth_chebyshev_on_the_mean_pulls_the_lagging_objective() -> None:
    utility = TrainingUtility(
        objective(scalarization="smooth_chebyshev", params={"mu": 0.1}), UNIT, None
    )
    weights = torch.tensor([[0.5, 0.5]])
    many = weights.expand(200, 2)
    utility.means.update(many, torch.tensor([[2.0, 0.0]]).expand(200, 2))
    scored = utility.score(table(torch.tensor([[0.0, 0.0]])), weights)
    assert scored.coefficients[0, 1] > 10 * scored.coefficients[0, 0]


def test_penalty_enters_by_its_multiplier_and_reaches_the_images() -> None:
    duals = DualAscent(1)
    duals.multipliers = torch.tensor([2.0], dtype=torch.float64)
    bound = objective(subject_to=["contrast <= 0.3"])
    utility = TrainingUtility(bound, UNIT, duals)
    costs = torch.tensor([[0.5], [0.1]], requires_grad=True)
    weights = torch.full((2, 2), 0.5)
    scored = utility.score(table(torch.zeros(2, 2), costs), weights)
    # 2 * (0.5 - 0.3) = 0.4 and 2 * (0.1 - 0.3) = -0.4, taken from utilities of 0.
    torch.testing.assert_close(
        utility.utility(scored, weights), torch.tensor([-0.4, 0.4]), atol=1e-6, rtol=0
    )
    utility.utility(scored, weights).sum().backward()
    assert costs.grad is not None
    torch.testing.assert_close(costs.grad, torch.tensor([[-2.0], [-2.0]]))


def test_observed_violation_moves_the_multiplier() -> None:
    bound = objective(subject_to=["contrast <= 0.3"])
    utility = TrainingUtility(bound, UNIT, DualAscent(1, learning_rate=2.0))
    costs = torch.tensor([[0.5], [0.7]])
    weights = torch.full((2, 2), 0.5)
    seen = table(torch.zeros(2, 2), costs)
    logged = utility.observe(Observation.of(seen, utility.score(seen, weights), weights))
    # Mean cost 0.6 exceeds 0.3 by 0.3; one step of rate 2 gives 0.6.
    assert logged["violation/contrast"] == pytest.approx(0.3, abs=1e-6)
    assert logged["multiplier/contrast"] == pytest.approx(0.6, abs=1e-6)


def test_advantages_mix_objectives_inside_groups() -> None:
    utility = TrainingUtility(objective(), UNIT, None)
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    rewards = torch.tensor([[1.0, 9.0], [3.0, 9.0], [0.0, 2.0], [2.0, 0.0]])
    group = torch.tensor([0, 0, 1, 1])
    scored = utility.score(table(rewards), weights)
    # Group 0 sees objective a alone: -2, 2. Group 1: 0.5 * (-2) + 0.5 * 2 = 0, and 0.
    torch.testing.assert_close(
        utility.advantages(scored, weights, group, 5.0), torch.tensor([-2.0, 2.0, 0.0, 0.0])
    )


def test_each_sample_pays_its_own_multiplier_also_when_it_is_relabelled() -> None:
    duals = DualAscent(2)  # one a vertex
    duals.multipliers = torch.tensor([1.0, 3.0], dtype=torch.float64)
    utility = TrainingUtility(
        objective(subject_to=["contrast <= 0.3"]), UNIT, duals, Handling(per_vertex(2))
    )
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    scored = utility.score(table(torch.zeros(2, 2), torch.full((2, 1), 0.5)), weights)
    # excess 0.2; lambda = 1 and 2, and with the weight vectors exchanged 2 and 1
    torch.testing.assert_close(scored.penalty, torch.tensor([0.2, 0.4]), atol=1e-6, rtol=0)
    again = utility.rescored(scored, weights.flip(0))
    torch.testing.assert_close(again.penalty, torch.tensor([0.4, 0.2]), atol=1e-6, rtol=0)


def test_warm_up_measures_and_does_not_move() -> None:
    handling = Handling(warmup=2)
    bound = objective(subject_to=["contrast <= 0.3"])
    utility = TrainingUtility(bound, UNIT, DualAscent(1), handling)
    weights = torch.full((2, 2), 0.5)
    seen = table(torch.zeros(2, 2), torch.full((2, 1), 0.5))
    logged = [
        utility.observe(Observation.of(seen, utility.score(seen, weights), weights))
        for _ in range(3)
    ]
    assert [row["multiplier/contrast"] for row in logged] == pytest.approx([0.0, 0.0, 0.2])
    assert logged[0]["violation/contrast"] == pytest.approx(0.2)


def test_without_utility_only_the_constraints_are_followed() -> None:
    duals = DualAscent(1)
    duals.multipliers = torch.tensor([2.0], dtype=torch.float64)
    bound = objective(subject_to=["contrast <= 0.3"])
    for on in ("mean", "sample"):
        utility = TrainingUtility(replace(bound, on=on), UNIT, duals, Handling(utility_weight=0.0))
        weights = torch.full((2, 2), 0.5)
        scored = utility.score(
            table(torch.tensor([[5.0, 1.0], [2.0, 3.0]]), torch.tensor([[0.5], [0.1]])), weights
        )
        torch.testing.assert_close(utility.utility(scored, weights), -scored.penalty)
