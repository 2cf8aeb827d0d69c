"""Whether a run holds its constraints, and what it keeps and says of that."""

from __future__ import annotations

import json

import pytest
import torch

from morl.config import load_config
from morl.lora.store import read_adapter
from morl.training.assemble import assemble
from morl.training.best_feasible import (
    BEST_FILE,
    BEST_STEP_FILE,
    BestFeasible,
    InfeasibleWarning,
)
from morl.training.feasibility import PATIENCE, Feasibility
from morl.training.run import RunDirectory
from morl.training.session import build_module, train
from rewards.calibration import Calibration

SMALL = [
    "objective.maximize={red: saturation, dark: -brightness}",
    "objective.subject_to=[contrast <= 0.4]",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "base.steps=2",
    "adapter.rank=2",
    "algorithm.last_steps=1",
    "algorithm.drawn_steps=0",
    "algorithm.kl_coef=0.1",
    "training.batch_size=4",
    "training.checkpoint_every=1",
    "training.sample_every=100",
    "training.accelerator=cpu",
]
NEVER = torch.zeros(1, dtype=torch.bool)


def violated(amount: float) -> torch.Tensor:
    return torch.tensor([amount], dtype=torch.float64)


class TestFeasibility:
    def test_the_best_feasible_step_by_hand(self):
        # decay 0.5, read as m / (1 - 0.5^t). Violations 1, -2, 0: 1, -1, -3/7; utilities 9, 2, 4:
        # 9, 13/3, 29/7 (worse than step 2), then 9 lifts it to (29/8 / 2 + 4.5) / (15/16) = 6.7.
        watched = Feasibility(1, decay=0.5)
        seen = []
        for amount, utility in ((1.0, 9.0), (-2.0, 2.0), (0.0, 4.0), (0.0, 9.0)):
            watched.update(utility, violated(amount), NEVER)
            seen.append((watched.violations.item(), watched.utility, watched.improved))
        assert seen[0] == pytest.approx((1.0, 9.0, False))
        assert seen[1] == pytest.approx((-1.0, 13 / 3, True))
        assert seen[2] == pytest.approx((-3 / 7, 29 / 7, False))
        assert seen[3] == pytest.approx((-0.2, 101 / 15, True))
        assert (watched.best_step, watched.best_utility) == (4, pytest.approx(101 / 15))

    def test_all_constraints_must_hold(self):
        watched = Feasibility(2)
        watched.update(1.0, torch.tensor([-1.0, 0.1], dtype=torch.float64), NEVER.expand(2))
        assert watched.best_step == 0

    def test_a_stuck_multiplier_is_told_once_and_only_if_it_stays(self):
        watched, at_cap = Feasibility(2, patience=3), torch.tensor([True, False])
        told = []
        for capped in (at_cap, at_cap, ~at_cap, *[at_cap] * 6):
            watched.update(0.0, torch.ones(2, dtype=torch.float64), capped)
            told.append(watched.newly_stuck())
        assert told == [[]] * 5 + [[0]] + [[]] * 3

    def test_it_resumes_exactly(self):
        whole, second = Feasibility(1), Feasibility(1)
        for i in range(8):
            whole.update(i, violated(3.0 - i), ~NEVER)
            if i == 4:
                whole.newly_stuck()
                second.load_state_dict({k: v.clone() for k, v in whole.state_dict().items()})
            elif i > 4:
                second.update(i, violated(3.0 - i), ~NEVER)
        assert second.best() == whole.best()
        for name, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name


def test_the_adapter_of_the_best_feasible_step_is_kept_and_infeasibility_said_once(tmp_path):
    config = load_config("shapes", SMALL)
    parts = assemble(config)
    calibration = Calibration(parts.objective.names, (0.2, 0.4), (0.1, 0.1))
    module = build_module(parts, ["a red star"], calibration)
    best = BestFeasible(RunDirectory(tmp_path), parts, module, calibration)
    average = module.ema.state_dict()
    name = next(iter(average))
    for step, amount in enumerate((-1.0, -1.0, 50.0), start=1):
        average[name].fill_(step)
        module.utility.feasibility.update(float(step), violated(amount), NEVER)
        best.observe()
    assert not (tmp_path / BEST_FILE).exists()
    best.write()
    assert read_adapter(tmp_path / BEST_FILE)[1][name].unique().tolist() == [2.0]
    assert json.loads((tmp_path / BEST_STEP_FILE).read_text())["step"] == 2

    for _ in range(PATIENCE - 1):
        module.utility.feasibility.update(0.0, violated(50.0), ~NEVER)
        best.observe()
    module.utility.feasibility.update(0.0, violated(50.0), ~NEVER)
    message = r"contrast <= 0.4 looks infeasible: .*multiplier_cap = 100 .*best feasible step so "
    with pytest.warns(InfeasibleWarning, match=message + "far is 2"):
        best.observe()
    module.utility.feasibility.update(0.0, violated(50.0), ~NEVER)
    best.observe()  # a second warning would be an error


def test_constraints_of_every_kind_train_and_resume_bit_for_bit(tmp_path):
    constrained = [
        *SMALL,
        "objective.subject_to=['quantile(contrast, 0.5) <= baseline() - 0.01', "
        "\"mean(sharpness, where='prompt does not ask') <= baseline() + 0.5\"]",
        "objective.multiplier=nupi",
        "objective.multiplier_of_weights=implicit",
        "objective.multiplier_warmup=1",
        "objective.utility_weight=0",
    ]
    settings = {n: load_config("shapes", [*constrained, f"training.steps={n}"]) for n in (2, 3)}
    whole = read_adapter(train(settings[3], tmp_path / "whole", command="test"))[1]
    train(settings[2], tmp_path / "parts", command="test")
    with pytest.warns(UserWarning, match="training.steps: 2 -> 3"):
        file = train(settings[3], tmp_path / "parts", command="test", resume=True)
    parts = read_adapter(file)[1]
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    first, *_, last = RunDirectory(tmp_path / "whole").metrics.read()
    quantile = "quantile(contrast, 0.5)"
    assert first[f"multiplier_max/{quantile}"] == 0  # warm-up
    assert last[f"multiplier_max/{quantile}"] > 0
    for part in ("threshold/", "violation/", "cost/", "multiplier/", "multiplier_min/"):
        assert f"{part}{quantile}" in last
    assert f"multiplier_at/{quantile}/red" in last
    base = json.loads((tmp_path / "whole" / "base.json").read_text())["statistics"]
    assert last[f"threshold/{quantile}"] == pytest.approx(
        base[f"base model's {quantile}"][0] - 0.01
    )
