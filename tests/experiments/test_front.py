"""The front study: what its methods train, and what its tables say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.cells import origin, with_rate
from experiments.front import rates
from experiments.front.figure import draw, on_edge
from experiments.front.methods import Shuffled, fixed, plain, soup, with_steps
from experiments.front.run import BUDGETS, corners
from experiments.front.store import pooled_front
from experiments.front.table import at_weights, by_seed, comparison, gain_kept, regret, stored
from experiments.judging import JUDGING_SEED
from experiments.pairing import delivered, pooled, require_same_questions, shared_seeds
from morl.config import check, load_config
from morl.errors import ConfigError, DataError
from morl.fronts.front import Front
from morl.fronts.indicators import FrontConstants
from morl.prompts import load_prompts
from morl.training.assemble import assemble
from morl.training.utility import TrainingUtility
from morl.weights import das_dennis
from rewards.calibration import Calibration
from rewards.evaluate import ObjectiveTable
from rewards.objective import Objective
from rewards.panel import RewardTable

NAMES = ("aesthetic", "alignment", "preference")


@pytest.fixture(scope="module")
def config():
    return load_config("shapes", ["training.steps=60", "training.warmup=6", "training.ema=0.9"])


@pytest.mark.parametrize("weights", das_dennis(3, 3))
def test_a_dedicated_adapter_is_valid_and_never_sees_another_weight_vector(config, weights):
    one = fixed(config, weights, 6)
    assert check(one) == []
    assert one.adapter.core == "constant"
    low, high = one.weights.bounds(one.names)
    assert low == high == pytest.approx(weights.tolist(), abs=1e-6)


def test_shorter_training_averages_over_the_same_share_of_it(config):
    shorter = with_steps(config, 6).training
    assert (shorter.steps, shorter.warmup) == (6, 1)
    # 10 updates of the long run decay its average as much as 1 of the short run
    assert shorter.ema == pytest.approx(config.training.ema**10)


def test_the_soup_is_the_weighted_sum_of_the_experts_updates(config):
    generator = torch.Generator().manual_seed(0)
    experts = []
    for seed in range(3):
        expert = assemble(replace(plain(config), training=replace(config.training, seed=seed)))
        for layer in expert.adapter.layers:
            torch.nn.init.normal_(layer.up, std=0.02, generator=generator)
        experts.append(expert.adapter)
    weights = torch.tensor([0.5, 0.2, 0.3])
    blended = soup(config, experts).adapter
    gates = blended.layer_gates(weights)
    for i, (layer, gate) in enumerate(zip(blended.layers, gates, strict=True)):
        update = (layer.up.flatten(1) * gate) @ layer.down.flatten(1) * layer.scaling
        wanted = sum(
            w * e.layers[i].scaling * e.layers[i].up.flatten(1) @ e.layers[i].down.flatten(1)
            for w, e in zip(weights, experts, strict=True)
        )
        torch.testing.assert_close(update, wanted)


def test_the_shuffled_control_optimises_another_images_weights():
    objective = Objective.from_dict({"maximize": dict.fromkeys(NAMES, "brightness")})
    calibration = Calibration(NAMES, (0.0,) * 3, (1.0,) * 3)
    nothing, never = torch.zeros(3, 0), torch.zeros(3, 0).bool()
    table = ObjectiveTable(
        torch.rand(3, 3),
        torch.ones(3, 3).bool(),
        torch.zeros(3, 3),
        nothing,
        never,
        RewardTable(nothing, never, nothing, ()),
    )
    weights = torch.eye(3)
    honest = TrainingUtility(objective, calibration, None)
    shuffled = Shuffled.like(honest)
    torch.testing.assert_close(honest.score(table, weights).coefficients, weights)
    torch.testing.assert_close(
        shuffled.score(table, weights).coefficients, weights[torch.tensor([2, 0, 1])]
    )


def front(shift: float, seed: int = 0, weights=None) -> dict:
    """A front whose rewards are the weights plus `shift`, judged on 40 prompts."""
    weights = das_dennis(3, 3).double().numpy() if weights is None else weights
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 40, 3))
    samples = weights[:, None] + shift + (0.01 * seed) + noise
    constants = FrontConstants((-1.0,) * 3, (2.0,) * 3)
    return Front("gold", NAMES, weights, samples, noise[0], tuple(range(40)), constants).to_dict()


def cell(config, shift: float, seed: int) -> dict:
    values = front(shift, seed)
    both = {"gold": values, "proxy": {**values, "space": "proxy"}}
    return {**origin(with_rate(config, 1.0, seed)), "fronts": both}


class TestPairing:
    def test_the_interval_of_a_difference_is_paired(self):
        # the same noise in both: the difference is 0.1 / 3 on axes of length 3, without any spread
        better, worse = (
            pooled([Front.from_dict(front(shift, s)) for s in (0, 1)], delivered)
            for shift in (0.2, 0.1)
        )
        found = (better - worse).interval()
        assert (found.low, found.high) == pytest.approx((0.1 / 3, 0.1 / 3), abs=1e-9)
        assert worse.interval().high - worse.interval().low > 0.005

    def test_only_seeds_of_both_are_compared(self, config):
        # Seed s adds s / 100 to every reward. By position, conditioned 0 and 2 would meet
        # dedicated 2 and 5 and lose 0.025 / 3; seed 2 alone gains (0.2 - 0.1) / 3.
        results = {
            "conditioned": {seed: cell(config, 0.2, seed) for seed in (0, 2)},
            "dedicated": {seed: cell(config, 0.1, seed) for seed in (2, 5)},
        }
        row = next(r for r in comparison(results).splitlines() if r.startswith("| dedicated"))
        assert row.split("|")[3].strip() == "2"
        assert row.split("|")[7].strip() == "0.033 [0.033, 0.033]"

    def test_every_seed_is_shown_apart(self, config):
        # (0.2 - 0.1) / 3 at seed 0, (0.2 + 0.02 - 0.3 - 0.02) / 3 at seed 2
        results = {
            "conditioned": {seed: cell(config, 0.2, seed) for seed in (0, 2)},
            "soup": {0: cell(config, 0.1, 0), 2: cell(config, 0.3, 2), 5: cell(config, 0.1, 5)},
        }
        row = by_seed(results).splitlines()[-1]
        assert row.startswith("| soup | ")
        assert row.split("|")[3].strip() == "+0.033, -0.033"

    def test_a_method_without_a_common_seed_has_no_row(self, config):
        results = {
            "conditioned": {0: cell(config, 0.2, 0)},
            "dedicated": {1: cell(config, 0.1, 1)},
        }
        assert shared_seeds(*results.values()) == []
        assert "dedicated" not in comparison(results)

    def test_other_questions_are_refused(self):
        one = Front.from_dict(front(0.0))
        require_same_questions([one, replace(one, base=one.base + 1e-4)])
        with pytest.raises(DataError, match="different prompts or noise"):
            require_same_questions([one, replace(one, base=one.base[::-1].copy())])
        with pytest.raises(DataError, match="different prompts or noise"):
            require_same_questions([one, replace(one, groups=(0,) * 40)])


class TestStored:
    def write(self, folder, name, values):
        (folder / f"{name}.json").write_text(json.dumps(values))

    def test_learning_rates_may_differ_between_methods_but_not_within(self, config, tmp_path):
        self.write(tmp_path, "conditioned-0", origin(with_rate(config, 1.0, 0)))
        self.write(tmp_path, "dedicated-0", origin(with_rate(config, 2.0, 0)))
        assert list(stored(tmp_path)) == ["conditioned", "dedicated"]
        self.write(tmp_path, "dedicated-1", origin(with_rate(config, 1.0, 1)))
        with pytest.raises(DataError, match=r"dedicated-0 and dedicated-1 .*learning_rate"):
            stored(tmp_path)

    def test_recipes_are_not_mixed(self, config, tmp_path):
        self.write(tmp_path, "conditioned-0", origin(with_rate(config, 1.0, 0)))
        self.write(tmp_path, "soup-0", origin(with_steps(with_rate(config, 1.0, 0), 7)))
        with pytest.raises(DataError, match=r"conditioned-0 and soup-0 differ in training.steps"):
            stored(tmp_path)

    def test_nothing_stored_says_what_to_run(self, tmp_path):
        with pytest.raises(DataError, match=r"experiments.front.run"):
            stored(tmp_path)


def test_the_share_of_the_best_gain_that_is_kept():
    base = np.asarray(front(0.0)["base"]).mean(axis=0)
    weights = np.asarray(front(0.0)["weights"])
    gained = [{"gold": (np.tile(base, (10, 1)) + gain * weights).tolist()} for gain in (1, 4, 3)]
    run = {"fronts": {"gold": front(0.0)}, "curve": gained}
    assert gain_kept(run) == pytest.approx(0.75)


class TestRegret:
    def test_a_dedicated_adapter_is_compared_at_its_own_weight_vector(self, config):
        # The utility w . u of a reward that is higher by s in every objective is higher by s / 3
        # on axes of length 3, at any w: C/10 is 0.3 below the product, C/3 equal, C 0.15 above.
        at = corners(config).double().numpy()
        shifts = dict(zip(BUDGETS, (-0.1, 0.2, 0.35), strict=True))
        budgets = {name: front(shift, weights=at) for name, shift in shifts.items()}
        table = regret(
            {
                "conditioned": {seed: cell(config, 0.2, seed) for seed in (0, 1)},
                "regret": {0: {"budgets": budgets}},
            }
        ).splitlines()
        rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table[2:7]]
        assert [row[0] for row in rows] == [
            "1, 0, 0",
            "0, 1, 0",
            "0, 0, 1",
            "0.33, 0.33, 0.33",
            "mean of them",
        ]
        expected = [f"{gap} [{gap}, {gap}]" for gap in ("-0.100", "0.000", "0.050")]
        for row in rows:
            assert [cell.replace("-0.000", "0.000") for cell in row[3:]] == expected
        # At a vertex the product's own reward is 1 + 0.2 + noise on [-1, 2], the base's the noise.
        noise = np.asarray(front(0.0)["base"]).mean(axis=0)
        assert float(rows[0][1]) == pytest.approx((noise[0] + 1) / 3, abs=1e-3)
        assert float(rows[0][2].split()[0]) == pytest.approx((noise[0] + 2.2) / 3, abs=1e-3)
        assert "Paired by seed (0)" in table[-1]

    def test_points_are_found_by_weight_vector(self):
        grid = Front.from_dict(front(0.0))
        picked = at_weights(grid, grid.weights[[7, 2]])
        np.testing.assert_array_equal(picked.samples, grid.samples[[7, 2]])
        with pytest.raises(DataError, match=r"no point at weights 0.5, 0.5, 0"):
            at_weights(grid, np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))

    def test_a_grid_without_a_centre_is_refused_at_once(self, config):
        coarse = replace(config, evaluation=replace(config.evaluation, partitions=2))
        with pytest.raises(ConfigError, match=r"multiple of 3; got 2"):
            corners(coarse)

    def test_without_a_common_seed_there_is_nothing_to_pair(self, config):
        with pytest.raises(DataError, match="share no seed"):
            regret({"conditioned": {0: cell(config, 0.2, 0)}, "regret": {1: {}}})


class TestRates:
    def test_the_best_delivered_utility_wins_and_of_equals_the_recipes_own(self):
        assert rates.best({"0.5": 0.1, "1": 0.2, "2": 0.3}) == 2.0
        assert rates.best({"0.5": 0.2, "1": 0.2, "2": 0.1}) == 1.0

    def test_the_stored_choice_is_read(self, config, tmp_path, capsys):
        for factor, utility in ((0.5, 0.4), (1.0, 0.1), (2.0, 0.2)):
            short = with_steps(with_rate(config, factor, rates.SEED), 20)
            stored_trial = {**origin(short), "delivered_utility": utility}
            (tmp_path / f"tune-soup-{factor:g}.json").write_text(json.dumps(stored_trial))

        def exam():
            raise AssertionError("every trial is stored already")

        assert rates.rate_of("soup", config, tmp_path) == 1.0
        assert "no learning rate tuned" in capsys.readouterr().out
        rates.tune("soup", config, exam, tmp_path, tmp_path)
        assert rates.rate_of("soup", config, tmp_path) == 0.5
        chosen = json.loads((tmp_path / rates.FILE).read_text())["soup"]
        assert chosen["tried"] == {"0.5": 0.4, "1": 0.1, "2": 0.2}

    def test_whole_trainings_settle_between_the_recipes_rate_and_the_best(self, config, tmp_path):
        tried = {"0.5": 0.2, "1": 0.1, "2": 0.3}
        known = {"soup": {"factor": 2.0, "tried": tried, **origin(config)}}
        (tmp_path / rates.FILE).write_text(json.dumps(known))
        ran = []

        def whole(setting):
            ran.append(setting.training.learning_rate / config.training.learning_rate)
            return {"fronts": {"gold": {"delivered_utility": {"value": 0.5 - ran[-1] / 10}}}}

        for _ in range(2):  # the second time nothing runs
            rates.settle("soup", config, tmp_path, 0, whole)
        assert ran == [1.0, 2.0]
        assert rates.rate_of("soup", config, tmp_path) == 1.0
        kept = json.loads((tmp_path / "soup-0.json").read_text())
        assert kept["fronts"]["gold"]["delivered_utility"]["value"] == pytest.approx(0.4)
        assert kept["config"]["training"]["learning_rate"] == config.training.learning_rate
        with pytest.raises(DataError, match="no learning rate of random was tried yet"):
            rates.settle("random", config, tmp_path, 0, whole)

    def test_a_choice_for_another_recipe_is_refused(self, config, tmp_path):
        choice = {"soup": {"factor": 2.0, **origin(with_steps(config, 7))}}
        (tmp_path / rates.FILE).write_text(json.dumps(choice))
        with pytest.raises(DataError, match=r"training.steps: 7 -> 60.*--tune"):
            rates.rate_of("soup", config, tmp_path)

    @pytest.mark.slow
    def test_rates_are_tuned_on_prompts_that_never_judge(self, config):
        small = replace(
            config,
            base=replace(config.base, steps=1),
            evaluation=replace(config.evaluation, images_per_weight=4),
        )
        exam = rates.exam_for_tuning(small)
        judged = load_prompts(config.prompts.held_out, "held_out", JUDGING_SEED)
        assert len(exam.prompts) > 1000
        assert len(exam.asked) == len(exam.base["gold"].rewards) == 2
        assert not set(exam.prompts) & set(judged)


def test_the_edge_of_a_panel_runs_from_one_vertex_to_the_other():
    grid = das_dennis(3, 3).double().numpy()
    path = grid[on_edge(grid, 0, 2)]
    np.testing.assert_allclose(path[:, 2], [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    np.testing.assert_allclose(path[:, 1], 0)


def test_the_figure_is_drawn(config, tmp_path):
    pytest.importorskip("matplotlib")
    at = corners(config).double().numpy()
    results = {
        "conditioned": {seed: cell(config, 0.2, seed) for seed in (0, 1)},
        "soup": {0: cell(config, 0.1, 0)},
        "regret": {0: {"budgets": {"C": front(0.3, weights=at)}}},
    }
    draw(results, tmp_path / "front.svg")
    drawn = (tmp_path / "front.svg").read_text()
    assert drawn.startswith("<?xml")
    for text in ("conditioned", "soup", "dedicated, C", "base", "gold aesthetic"):
        assert text in drawn  # SVG comments keep the text of every label


def test_the_stored_front_is_the_mean_over_seeds():
    # the noise of seeds 0 and 1 is 40 prompts each: their mean is that of all 80 values
    runs = [Front.from_dict(front(0.1, seed)) for seed in (0, 1)]
    stored = pooled_front("conditioned", (0, 1), runs)
    np.testing.assert_allclose(stored.mean, (runs[0].mean + runs[1].mean) / 2, atol=1e-5)
    assert stored.seeds == (0, 1)
    low, high = np.asarray(stored.low), np.asarray(stored.high)
    assert (low < stored.mean).all()
    assert (high > stored.mean).all()
    assert (high - low < 0.2).all()  # 4 sd of a mean of 40 with sd 0.1 is 0.063
