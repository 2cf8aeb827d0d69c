"""Bounds that slide in training: every sample's own, in each regime, resumed and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from morl.algorithms.facts import ALGORITHMS
from morl.budgets import BudgetNote
from morl.cli.main import main
from morl.config import check, load_config
from morl.errors import ConfigError
from morl.inference import load
from morl.lora.store import read_adapter
from morl.training import assemble as assemble_module
from morl.training.conditions import Conditions
from morl.training.data import BatchPlan
from morl.training.evaluate import trained
from morl.training.gate import Terms, check_run
from morl.training.handling import Handling
from morl.training.mean_rewards import MeanRewards
from morl.training.observation import Observation
from morl.training.regimes.denoising import DenoisingCollector
from morl.training.run import RunDirectory
from morl.training.session import train
from morl.training.utility import TrainingUtility
from rewards.budgets import Budget
from rewards.calibration import Calibration
from rewards.controllers import DualAscent
from rewards.evaluate import ObjectiveTable
from rewards.multipliers import per_vertex, shared
from rewards.objective import Objective
from rewards.panel import RewardTable

CONTRAST = Budget("contrast", 0.1, 0.4)
SMALL = [
    "objective.maximize={red: saturation, dark: -brightness}",
    "objective.subject_to=[sharpness <= 0.5, 'contrast <= budget(0.1, 0.4)']",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "evaluation.partitions=1",
    "evaluation.images_per_weight=4",
    "base.steps=2",
    "adapter.rank=3",
    "training.batch_size=4",
    "training.checkpoint_every=1",
    "training.sample_every=100",
    "training.accelerator=cpu",
]
JUDGED = [
    "evaluation.held_out={red: saturation, dark: -brightness, contrast: contrast}",
    "evaluation.judged_images=4",
]
REGIMES = {
    "draft": ["algorithm.last_steps=1", "algorithm.drawn_steps=0", "algorithm.renoise_copies=1"],
    "policy_gradient": ["algorithm.name=policy_gradient", "algorithm.group_size=2"],
    "nft": [
        "algorithm.name=nft",
        "algorithm.group_size=2",
        "algorithm.noise_draws=2",
        "algorithm.relabel_radius=0.5",
    ],
}


def plan(**changes) -> BatchPlan:
    settings = {"objectives": 3, "batch_size": 16, "seed": 4, "budgets": 2, **changes}
    return BatchPlan(prompts=[f"prompt {i}" for i in range(20)], **settings)


class TestPlan:
    def test_rows_are_weights_with_positions_behind(self):
        rows, plain = plan().batch(3).weights, plan(budgets=0).batch(3).weights
        assert rows.shape == (16, 5)
        assert torch.equal(rows[:, :3], plain)  # budgets change nothing about the weight vectors
        assert ((rows[:, 3:] >= 0) & (rows[:, 3:] <= 1)).all()

    def test_a_group_shares_its_budget(self):
        batch = plan(group_size=4).batch(0)
        for number in range(4):
            assert len(batch.weights[batch.group == number].unique(dim=0)) == 1
        assert len(batch.weights[:, 3:].unique(dim=0)) > 1

    def test_the_same_step_draws_the_same_and_others_differ(self):
        first, again = (plan().batch(7, 1, 2).weights for _ in range(2))
        assert torch.equal(first, again)
        for other in (plan().batch(8, 1, 2), plan().batch(7, 0, 2), plan(seed=5).batch(7, 1, 2)):
            assert not torch.equal(first[:, 3:], other.weights[:, 3:])

    def test_the_share_at_the_ends(self):
        drawn = torch.cat([plan(budget_ends=1.0).batch(step).weights for step in range(5)])
        assert set(drawn[:, 3:].flatten().tolist()) == {0.0, 1.0}


def objective() -> Objective:
    return Objective.from_dict(
        {
            "maximize": {"a": "brightness", "b": "saturation"},
            "subject_to": ["sharpness <= 0.5", "contrast <= budget(0.1, 0.4)"],
        }
    )


def table(costs: torch.Tensor) -> ObjectiveTable:
    rewards = torch.zeros(len(costs), 2)
    every = torch.ones_like(rewards).bool()
    raw = RewardTable(rewards, every, rewards, ("a", "b"))
    return ObjectiveTable(rewards, every, rewards, costs, torch.ones_like(costs).bool(), raw)


UNIT = Calibration(("a", "b"), (0.0, 0.0), (1.0, 1.0))
# Bounds of contrast 0.1, 0.2 and 0.4 at different weight vectors.
ROWS = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 1.0, 1.0]])
COSTS = torch.tensor([[0.5, 0.3], [0.5, 0.3], [0.5, 0.3]])


def utility(dependence=None, start: float = 0.0) -> TrainingUtility:
    dependence = (dependence or shared()).over_budgets()
    duals = DualAscent(2 * dependence.parameters, 1.0, start=start)
    return TrainingUtility(objective(), UNIT, duals, Handling(dependence))


class TestUtility:
    def test_rows_are_read_by_the_order_of_the_constraints(self):
        conditions = Conditions.of(objective())
        assert (conditions.objectives, conditions.columns, conditions.budgets) == (2, (None, 2), 1)
        assert conditions.weights(ROWS).tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
        assert conditions.positions(ROWS).tolist() == [[0.0, 0.0], [0.0, 0.5], [0.0, 1.0]]

    def test_each_sample_pays_for_its_own_bound_at_its_own_multiplier(self):
        watched = utility()
        # (sharpness, contrast) at the strictest end, then at the loosest
        watched.duals.multipliers = torch.tensor([7.0, 4.0, 7.0, 2.0], dtype=torch.float64)
        scored = watched.score(table(COSTS), ROWS)
        # excess of contrast 0.2, 0.1, -0.1 times 4, 3, 2; sharpness is met exactly
        torch.testing.assert_close(scored.penalty, torch.tensor([0.8, 0.3, -0.2]))

    def test_the_multiplier_may_follow_the_weights_as_well(self):
        watched = utility(per_vertex(2))
        theta = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 5.0], [0.0, 7.0]], dtype=torch.float64)
        watched.duals.multipliers = theta.flatten()
        scored = watched.score(table(COSTS), ROWS)
        # lambda(w, t): 1 at (vertex a, strictest), (1 + 3 + 5 + 7) / 4 between, 7 at (b, loosest)
        torch.testing.assert_close(scored.penalty, torch.tensor([0.2, 0.4, -0.7]))

    def test_another_weight_vector_keeps_what_exceeded_the_bound(self):
        watched = utility(start=2.0)
        scored = watched.score(table(COSTS), ROWS)
        moved = torch.cat([ROWS[:, :2].flip(0), ROWS[:, 2:]], dim=1)
        again = watched.rescored(scored, moved)
        torch.testing.assert_close(again.penalty, scored.penalty)
        torch.testing.assert_close(again.weights, ROWS[:, :2].flip(0))

    def test_a_step_measures_against_own_bounds_and_judges_the_worse_end(self):
        watched = utility(start=1.0)
        seen = table(COSTS)
        logged = watched.observe(Observation.of(seen, watched.score(seen, ROWS), ROWS))
        assert logged["violation/contrast"] == pytest.approx(0.2 / 3)
        # weighed by 1, 1/2, 0 at the strictest end and 0, 1/2, 1 at the loosest
        strictest, loosest = 0.25 / 1.5, -0.05 / 1.5
        assert logged["violation_strictest/contrast"] == pytest.approx(strictest)
        assert logged["violation_loosest/contrast"] == pytest.approx(loosest)
        assert logged["multiplier_strictest/contrast"] == pytest.approx(1 + strictest)
        assert logged["multiplier_loosest/contrast"] == pytest.approx(1 + loosest)
        assert "violation_strictest/sharpness" not in logged
        worst = watched.feasibility.violations.tolist()
        assert worst == pytest.approx([0.0, strictest], abs=1e-7)

    def test_mean_rewards_see_the_budget(self):
        # r = w_1 + 2 t exactly
        means = MeanRewards(2, decay=1.0, ridge=1e-6, budgets=1)
        rows = plan(objectives=2, budgets=1, batch_size=256).batch(0).weights.double()
        reward = rows[:, :1] + 2 * rows[:, 2:]
        means.update(rows, torch.cat([reward, reward], dim=1), torch.ones(256, 2).bool())
        expected = torch.tensor([[1.0, 1.0], [1.5, 1.5], [2.0, 2.0]])
        torch.testing.assert_close(means.at(ROWS), expected, atol=1e-4, rtol=0)


def config(regime: str, *more: str):
    return load_config("shapes", [*SMALL, *REGIMES[regime], *more])


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_trains_and_a_resumed_run_is_the_same(regime, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(assemble_module, "CALIBRATION_IMAGES", 8)
    taught: list[torch.Tensor] = []
    terms = DenoisingCollector._terms

    def watched(self, rollout, latents, step):
        taught.append(rollout.weights)
        return terms(self, rollout, latents, step)

    monkeypatch.setattr(DenoisingCollector, "_terms", watched)
    settings = {n: config(regime, f"training.steps={n}") for n in (1, 2)}
    header, whole = read_adapter(train(settings[2], tmp_path / "whole", command="test"))
    if regime == "draft":  # bit for bit; how rows are drawn is the same in all regimes
        train(settings[1], tmp_path / "parts", command="test")
        with pytest.warns(UserWarning, match="training.steps: 1 -> 2"):
            file = train(settings[2], tmp_path / "parts", command="test", resume=True)
        parts = read_adapter(file)[1]
        assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert header.budgets == (CONTRAST,)
    assert whole["gates.slope"].shape[2] == 3
    record = RunDirectory(tmp_path / "whole").metrics.read()[-1]
    assert {"violation_loosest/contrast", "multiplier_strictest/contrast"} <= record.keys()
    if regime == "nft":  # relabelled or not, a row keeps its own position
        first, second = taught[0], taught[1]
        assert torch.equal(first[:, 2], second[:, 2])
        assert not torch.equal(first, second)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("budgets") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble_module, "CALIBRATION_IMAGES", 8)
        train(config("draft", *JUDGED, "training.steps=2", "training.learning_rate=0.05"), folder)
    return folder


def test_judging_takes_the_strictest_unless_told(run) -> None:
    directory, file = RunDirectory(run), run / "adapter.safetensors"
    with pytest.warns(BudgetNote, match=r"contrast = 0\.1 of 0\.1 \.\. 0\.4"):
        strictest = trained(directory, file)
    loosest = trained(directory, file, "contrast=0.4")
    assert [str(c) for c in strictest.objective.constraints][1] == "contrast <= 0.1"
    assert [str(c) for c in loosest.objective.constraints][1] == "contrast <= 0.4"
    weights = torch.tensor([0.5, 0.5])
    rows = {0.0: strictest, 1.0: loosest}
    for position, parts in rows.items():
        own = torch.cat([weights, torch.tensor([position])])
        layer_gates = parts.adapter.layer_gates
        assert torch.equal(layer_gates(weights), layer_gates(own))
    assert not torch.equal(*(parts.adapter.layer_gates(weights) for parts in rows.values()))


def test_the_gate_names_the_budget_it_judged_at(run, capsys) -> None:
    terms = Terms(("contrast <= 0.4",), images=4, weights=("red=1,dark=0",), budgets="0.4")
    assert check_run(run, terms).to_dict()["budgets"] == {"contrast": 0.4}
    with pytest.raises(ConfigError, match=r"budgets\.contrast: .*got 0\.5 \(nearest: 0\.4\)"):
        check_run(run, Terms(("contrast <= 0.4",), budgets="contrast=0.5"))
    words = ["check", str(run), "--constraint", "contrast <= budget(0.1, 0.4)"]
    assert main(words) == ConfigError.exit_code
    assert "a verdict is on one bound" in capsys.readouterr().err


def test_commands_slide_the_budget(run, tmp_path, capsys) -> None:
    drawn = ["generate", str(run), "--prompt", "a red star", "--weights", "red=0.5,dark=0.5"]
    assert main([*drawn, "--budgets", "contrast=0.3", "--out", str(tmp_path / "a.png")]) == 0
    assert main([*drawn, "--budgets", "contrast=0.5", "--out", str(tmp_path / "b.png")]) == 2
    assert "must lie in 0.1 .. 0.4" in capsys.readouterr().err
    lora = tmp_path / "lora.safetensors"
    words = [
        "export",
        str(run),
        "--weights",
        "red=1,dark=0",
        "--budgets",
        "0.3",
        "--out",
        str(lora),
    ]
    assert main(words) == 0
    assert main(["evaluate", str(run), "--budgets", "contrast=0.3"]) == 0
    front = json.loads((run / "front.json").read_bytes())
    assert front["budgets"] == {"contrast": 0.3}
    assert front["constraints"] == ["sharpness <= 0.5", "contrast <= 0.3"]
    assert front["events"]["contrast"]["threshold"] == 0.3


def test_the_slider_of_a_run(run) -> None:
    slider = load(run)
    mix = {"red": 0.5, "dark": 0.5}
    bounds = [0.1, 0.2, 0.4]
    images = slider.generate("a ring", mix, budgets=[{"contrast": d} for d in bounds])
    assert [json.loads(i.info["morl"])["budgets"]["contrast"] for i in images] == bounds
    with pytest.warns(BudgetNote):
        omitted = slider.generate("a ring", mix)
    assert omitted.tobytes() == slider.generate("a ring", mix, budgets="0.1").tobytes()


class TestCheck:
    def found(self, *more: str) -> list[str]:
        return check(config("draft", *more))

    def test_a_range_is_fine(self):
        assert self.found() == []

    @pytest.mark.parametrize("core", ["constant", "experts"])
    def test_a_core_without_anything_to_act_on(self, core):
        (problem,) = self.found(f"adapter.core={core}", "adapter.rank=2")
        assert problem.startswith(f"adapter.core: {core} gives a budget nothing to act on")

    def test_a_fixed_penalty(self):
        (problem,) = self.found("objective.multiplier=fixed")
        assert problem.startswith("objective.multiplier: a fixed penalty weighs every bound of ")

    def test_a_range_outside_of_the_reward(self):
        (problem,) = self.found("objective.subject_to=['contrast <= budget(0.1, 40)']")
        assert "must lie in the range of contrast" in problem

    def test_no_share_above_one(self):
        with pytest.raises(ConfigError, match=r"weights\.budget_ends"):
            config("draft", "weights.budget_ends=1.5")


def test_all_three_regimes_are_here() -> None:
    names = {n.partition("=")[2] for s in REGIMES.values() for n in s if "name=" in n} | {"draft"}
    assert {ALGORITHMS[name].regime for name in names} == {f.regime for f in ALGORITHMS.values()}
