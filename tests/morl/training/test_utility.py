"""What is optimised: the running mean over weight vectors, coefficients, penalties."""

from dataclasses import replace

import pytest
import torch

from morl.training.handling import Handling
from morl.training.mean_rewards import MeanRewards
from morl.training.observation import Observation
from morl.training.utility import TrainingUtility
from rewards.calibration import Calibration
from rewards.controllers import DualAscent
from rewards.evaluate import ObjectiveTable
from rewards.multipliers import per_vertex
from rewards.objective import Objective
from rewards.panel import RewardTable


def objective(**changes: object) -> Objective:
    plain = {"maximize": {"a": "brightness", "b": "saturation"}, **changes}
    return Objective.from_dict(plain)


def table(
    rewards: torch.Tensor, costs: torch.Tensor | None = None, valid: torch.Tensor | None = None
) -> ObjectiveTable:
    costs = rewards.new_zeros(len(rewards), 0) if costs is None else costs
    raw = RewardTable(rewards, torch.ones_like(rewards).bool(), 0 * rewards, ("a", "b"))
    return ObjectiveTable(
        rewards,
        torch.ones_like(rewards).bool() if valid is None else valid,
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
    means.update(weights, weights @ truth, torch.ones(500, 2).bool())
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
    rewards = torch.tensor([[2.0, 0.0]]).expand(200, 2)
    utility.means.update(many, rewards, torch.ones(200, 2).bool())
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


def test_shares_are_mean_sizes_over_their_sum() -> None:
    bound = objective(maximize={"a": "brightness - contrast", "b": "saturation"})
    utility = TrainingUtility(bound, UNIT, None)
    weights = torch.full((2, 2), 0.5)
    seen = table(torch.zeros(2, 2))
    observation = Observation.of(seen, utility.score(seen, weights), weights)
    # Mean sizes 3 and 1 of 4; b reads one reward and has no share
    whole = replace(observation, contributions=torch.tensor([[2.0, -1.0], [-4.0, 1.0]]))
    shares = {k: v for k, v in whole.summary(bound).items() if k.startswith("share/")}
    assert shares == {"share/a/brightness": 0.75, "share/a/contrast": 0.25}
    nothing = replace(observation, contributions=torch.zeros(2, 2))
    assert not any(key.startswith("share/") for key in nothing.summary(bound))


HALF = torch.tensor([[True, False]])
SCALARIZATIONS = ("linear", "chebyshev", "smooth_chebyshev")


def test_what_does_not_apply_leaves_its_weight_to_the_others() -> None:
    # 0.25 / 0.25 of reward a alone; b's raw value, whatever it is, changes nothing.
    utility = TrainingUtility(objective(), Calibration(("a", "b"), (0.0, 5.0), (1.0, 0.1)), None)
    weights = torch.tensor([[0.25, 0.75]])
    scored = utility.score(table(torch.tensor([[2.0, 0.0]]), valid=HALF), weights)
    assert scored.coefficients.tolist() == [[1.0, 0.0]]
    assert utility.utility(scored, weights).tolist() == [2.0]


@pytest.mark.parametrize("on", ["mean", "sample"])
@pytest.mark.parametrize("scalarization", SCALARIZATIONS)
def test_a_sample_to_which_nothing_applies_contributes_nothing(on: str, scalarization: str) -> None:
    utility = TrainingUtility(objective(on=on, scalarization=scalarization), UNIT, None)
    rewards = torch.tensor([[3.0, 0.0], [1.0, 2.0], [4.0, 1.0]], requires_grad=True)
    # All of the first sample's weight lies on what does not apply to it.
    valid = torch.tensor([[True, False], [True, True], [True, True]])
    weights = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    scored = utility.score(table(rewards, valid=valid), weights)
    value = utility.utility(scored, weights)
    assert value[0] == 0
    value.sum().backward()
    assert rewards.grad is not None
    assert rewards.grad[0].tolist() == [0.0, 0.0]
    together = torch.zeros(3, dtype=torch.int64)
    advantages = utility.advantages(scored, weights, together, 5.0)
    assert advantages[0] == 0
    if on == "sample":  # nor is its utility anybody's baseline
        assert float(advantages[1] + advantages[2]) == pytest.approx(0, abs=1e-6)


def test_the_running_mean_learns_from_valid_samples_alone() -> None:
    weights = torch.tensor([[0.3, 0.7], [0.6, 0.4], [1.0, 0.0], [0.0, 1.0]])
    rewards = torch.tensor([[1.0, 9.0], [2.0, 1.0], [3.0, -9.0], [0.0, 2.0]])
    valid = torch.tensor([[True, False], [True, True], [True, False], [True, True]])
    some, kept = MeanRewards(2), MeanRewards(2)
    some.update(weights, rewards, valid)
    kept.update(weights[[1, 3]], rewards[[1, 3]], torch.ones(2, 2).bool())
    torch.testing.assert_close(some.at(weights)[:, 1], kept.at(weights)[:, 1])
    every = MeanRewards(2)
    every.update(weights, rewards, torch.ones(4, 2).bool())
    torch.testing.assert_close(some.at(weights)[:, 0], every.at(weights)[:, 0])


def test_the_running_mean_of_an_older_checkpoint_goes_on() -> None:
    weights = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    means = MeanRewards(2)
    means.update(weights, weights, torch.ones(2, 2).bool())
    older = {**means.state_dict(), "moments": means.state_dict()["moments"][0]}
    again = MeanRewards(2)
    again.load_state_dict(older)
    torch.testing.assert_close(again.at(weights), means.at(weights))


# Two groups of one prompt each; reward b, of 100 times the scale, spreads as on the base model in
# the first and has converged in the second.
GROUP = torch.tensor([0, 0, 1, 1])
RAW = torch.tensor([[0.0, 0.0], [1.0, 100.0], [0.0, 50.0], [1.0, 51.0]])
EVEN = torch.full((4, 2), 0.5)
SCALES = Calibration(("a", "b"), (0.0, 0.0), (1.0, 100.0))


@pytest.mark.parametrize(
    ("normalize", "effective"),
    [
        # Frozen units: the weights are what they say, in every group.
        ("base", [0.5, 0.5]),
        # Divided by its own spread, b counts as much in the second group as in the first although
        # it differs there by a hundredth of a base std: 1 to 100 in base units.
        ("group_std", [(0.5 + 1 / 101) / 2, (0.5 + 100 / 101) / 2]),
        # In the raw sum b has 100 times the scale, in both groups.
        ("group_std_sum", [1 / 101, 100 / 101]),
    ],
)
def test_effective_weights_say_what_a_normalisation_does(normalize, effective) -> None:
    utility = TrainingUtility(objective(), SCALES, None, normalize=normalize)
    seen = table(RAW)
    scored = utility.score(seen, EVEN, GROUP)
    shown = Observation.of(seen, scored, EVEN).summary(utility.objective)
    found = [shown[f"effective_weight/{name}"] for name in ("a", "b")]
    assert found == pytest.approx(effective, rel=0.02)


def test_advantages_are_divided_by_the_spread_of_the_group() -> None:
    # Two members differ from each other by d, and their std is d / sqrt(2): +-sqrt(2) each.
    utility = TrainingUtility(objective(), SCALES, None, normalize="group_std")
    scored = utility.score(table(RAW), EVEN, GROUP)
    root = 2**0.5
    torch.testing.assert_close(
        utility.advantages(scored, EVEN, GROUP, 5.0),
        torch.tensor([-root, root, -root, root]),
        rtol=0.01,
        atol=0,
    )


@pytest.mark.parametrize("on", ["mean", "sample"])
@pytest.mark.parametrize("tail", [1.0, 0.5])
def test_contributions_have_the_utilitys_gradient(on: str, tail: float) -> None:
    smooth = objective(on=on, scalarization="smooth_chebyshev", params={"mu": 1.0})
    utility = TrainingUtility(smooth, UNIT, None, tail=tail)
    weights = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    gradients = []
    for apart in (False, True):
        rewards = torch.tensor([[1.0, -0.5], [0.3, 0.8], [2.0, 1.0]], requires_grad=True)
        scored = utility.score(table(rewards), weights)
        parts = utility.contributions(scored, weights).sum(dim=1)
        (parts if apart else utility.utility(scored, weights)).sum().backward()
        gradients.append(rewards.grad)
    torch.testing.assert_close(*gradients)


def test_the_tail_holds_the_worst_prompts_and_not_the_worst_weights() -> None:
    # At w = (1, 0) utilities are 10 on average, at (0, 1) they are 0: the worst is the image that
    # lies 2 below what is usual, although another has the lowest utility.
    utility = TrainingUtility(objective(), UNIT, None, tail=0.25)
    ends = torch.eye(2).repeat(500, 1)
    utility.means.update(ends, 10 * ends[:, [0, 0]], torch.ones(1000, 2).bool())
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    rewards = torch.tensor([[8.0, 0.0], [11.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    scored = utility.score(table(rewards), weights)
    assert utility.utility(scored, weights).tolist() == [32.0, 0.0, 0.0, 0.0]


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
