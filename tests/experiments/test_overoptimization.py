"""The analytic over-optimisation study: its closed forms, its measures, its guard at work."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from experiments.overoptimization import (
    attack,
    cures,
    disease,
    figure,
    kept,
    learners,
    policies,
    proxies,
    runs,
    world,
)
from experiments.overoptimization.arms import ARMS, Arm, value
from experiments.overoptimization.attacks import BIAS, JUMP, bonus, label_bias, labelled_prompts
from experiments.overoptimization.gao import GaoFit, explained, fit_gao
from experiments.overoptimization.gate import kl_gate
from experiments.overoptimization.gold import FLOOR, GOLDS, gold
from experiments.overoptimization.kept import alarms, ends, kept_share, resampled
from experiments.overoptimization.kernel import Kernel
from experiments.overoptimization.learners import Networks, inputs_of, mislabelled
from experiments.overoptimization.policies import Policies, RunAdam, rollout
from experiments.overoptimization.proxies import Case, learned
from experiments.overoptimization.runs import METHODS, train
from experiments.overoptimization.store import Stored
from experiments.overoptimization.world import (
    DIM,
    LEVELS,
    PROMPTS,
    STD,
    STEPS,
    base_noise_pred,
    log_density,
    prompt_means,
    step_noise,
)
from morl.errors import ConfigError
from morl.guard.settings import Rule

ANY = torch.Generator().manual_seed


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(learners, "FIT_STEPS", 30)
    monkeypatch.setattr(learners, "SHARED_START", 10)
    monkeypatch.setattr(proxies, "REFERENCE", 64)
    monkeypatch.setattr(proxies, "POOL", 128)
    monkeypatch.setattr(runs, "JUDGED", 2)


class TestWorld:
    @pytest.mark.parametrize("alpha", [LEVELS[0], 0.5, LEVELS[-1]])
    def test_the_prediction_is_the_gradient_of_the_log_density(self, alpha):
        means = prompt_means()[:5].double()
        x = torch.randn(5, DIM, generator=ANY(0)).double().requires_grad_()
        (score,) = torch.autograd.grad(log_density(x, means, alpha).sum(), x)
        torch.testing.assert_close(
            base_noise_pred(x, means, alpha), -math.sqrt(1 - alpha) * score, rtol=1e-9, atol=1e-12
        )

    def test_the_log_density_is_that_of_the_mixture(self):
        means = prompt_means()[:3].double()
        x = torch.randn(3, DIM, generator=ANY(1)).double()
        # sqrt(0.3) x_0 + sqrt(0.7) e: each component N(sqrt(0.3) mu, 0.3 s^2 + 0.7)
        parts = Normal(math.sqrt(0.3) * means, math.sqrt(0.3 * STD**2 + 0.7))
        whole = MixtureSameFamily(Categorical(torch.ones(3, 2)), Independent(parts, 1))
        torch.testing.assert_close(log_density(x, means, 0.3), whole.log_prob(x))

    def test_an_unchanged_policy_samples_the_mixture_at_no_divergence(self, monkeypatch):
        # The ten steps of the study are few, and draw narrower samples than the mixture has.
        levels = torch.sigmoid(torch.linspace(-6, 5, 101)).double().tolist()
        monkeypatch.setattr(world, "STEPS", 100)
        monkeypatch.setattr(policies, "STEPS", 100)
        monkeypatch.setattr(policies, "LEVELS", levels)
        means = prompt_means()[:1].expand(1000, -1, -1)
        noise = step_noise(0, 0, "t", 1000)
        with torch.no_grad():
            drawn = rollout(Policies([0]), means, noise, through_latents=False)
        assert drawn.kl.abs().max() == 0
        # Variance of the mixture: s^2 plus that of two equally likely means
        spread = STD**2 + means[0].var(dim=0, unbiased=False)
        error = (drawn.final.mean(dim=0) - means[0].mean(dim=0)).abs()
        assert (error < 4 * (spread / 1000).sqrt() + 0.02).all()
        assert (drawn.final.var(dim=0) / spread - 1).abs().max() < 0.2

    def test_the_divergence_of_a_planted_change(self):
        # Adding b to every prediction moves the mean by |c| b sqrt(D) at a step, whatever x:
        # c = sqrt(1 - a' - s^2) - sqrt(a' (1 - a) / a), so KL = c^2 b^2 D / (2 s^2).
        changed = Policies([0])
        changed.last_bias.data.fill_(0.1)
        means = prompt_means()[:4]
        drawn = rollout(changed, means, step_noise(0, 0, "t", 4), through_latents=True)
        for step in range(STEPS):
            a, b = LEVELS[step], LEVELS[step + 1]
            variance = (1 - b) / (1 - a) * (1 - a / b)
            c = math.sqrt(1 - b - variance) - math.sqrt(b * (1 - a) / a)
            expected = c**2 * 0.01 * DIM / (2 * variance)
            assert drawn.kl[step].tolist() == pytest.approx([expected] * 4, rel=1e-3)


class TestGold:
    def test_values_by_hand(self):
        # x = m = 0 gives q = 0: f = 0 for the quadratic, exp(-4 / 8) for the bump.
        zero = torch.zeros(1, DIM)
        for name, f in (("quadratic", 0.0), ("bump", math.exp(-0.5)), ("wave", 0.0)):
            expected = math.log1p(math.exp(f + FLOOR)) - FLOOR
            assert gold(name, zero, zero).item() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("name", GOLDS)
    def test_far_from_the_base_it_is_low_and_has_a_floor(self, name):
        centres = prompt_means().mean(dim=1)
        near = gold(name, centres, centres)
        far = gold(name, centres + 30 * torch.randn(PROMPTS, DIM, generator=ANY(0)), centres)
        assert (far < near).all()
        assert far.min() >= -FLOOR


class TestAttacks:
    def test_labels_from_half_of_the_prompts(self):
        assert (labelled_prompts("none"), labelled_prompts("blind_spot")) == (PROMPTS, PROMPTS // 2)

    def test_only_the_attacked_count_the_quality(self):
        offsets = torch.randn(2000, DIM, generator=ANY(0)) * 0.7
        assert label_bias("none", offsets).abs().max() == bonus("none", offsets).abs().max() == 0
        assert label_bias("biased_labels", offsets).std() == pytest.approx(BIAS, rel=0.05)
        # Hardly any base sample meets the exploit, and whoever goes far enough has all of it.
        assert (bonus("exploit", offsets) > JUMP / 2).double().mean() < 0.01
        far = 10 * offsets[label_bias("biased_labels", offsets) > 1]
        assert (bonus("exploit", far) > 0.99 * JUMP).all()

    def test_the_exploit_is_in_all_proxies_and_in_no_held_out_reward(self):
        case = Case("quadratic", 0.0, 16, 0)
        plain, attacked = learned([case]), learned([replace(case, attack="exploit")])
        inputs = 5 * torch.randn(1, 50, 2 * DIM, generator=ANY(0))
        added = bonus("exploit", inputs[0, :, :DIM])
        for name in ("single", "warm"):
            one, other = (getattr(p, name).score(inputs)[0, :, 0] for p in (plain, attacked))
            torch.testing.assert_close(other - one, added, rtol=1e-4, atol=1e-4)
        for kind in ("network", "kernel", "clean"):
            one, other = (p.held_out[kind].score(inputs) for p in (plain, attacked))
            torch.testing.assert_close(one, other)
        # All members rise together: their disagreement does not see it.
        stds = [value(p, ARMS["mean"], inputs)[1] for p in (plain, attacked)]
        torch.testing.assert_close(*stds, rtol=1e-3, atol=1e-4)


class TestLearning:
    def test_wrong_labels_are_other_samples(self):
        labels = torch.arange(100.0)
        noisy = mislabelled(labels, 0.25, ANY(0))
        assert 15 <= (noisy != labels).sum() <= 25  # a few are dealt back to where they were
        torch.testing.assert_close(noisy.sort().values, labels)
        torch.testing.assert_close(mislabelled(labels, 0.0, ANY(0)), labels)

    def test_equal_networks_average_to_themselves(self):
        warm = Networks.drawn([3, 4]).take(learners.WARM)
        inputs = torch.randn(2, 5, 2 * DIM, generator=ANY(0))
        scores = warm.score(inputs)
        torch.testing.assert_close(warm.averaged().score(inputs)[..., 0], scores[..., 2])

    def test_a_case_learns_and_diverges_alike_alone_or_beside_others(self):
        one = Case("quadratic", 0.25, 16, 0)
        alone = train(learned([one]), ARMS["mean"], "reward_gradient", updates=3, every=3)
        cases = [Case("bump", 0.0, 32, 1), one]
        beside = train(learned(cases), ARMS["mean"], "reward_gradient", updates=3, every=3)
        for name in ("proxy", "measured", "kl"):
            ours, theirs = getattr(alone, name)[:, 0], getattr(beside, name)[:, 1]
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert alone.kl[1] > alone.kl[0] == 0

    def test_uncertainty_grows_away_from_labels(self):
        found = learned([Case("quadratic", 0.0, 64, 0)])
        centres = prompt_means().mean(dim=1)[None]
        away = 4 * torch.randn(1, PROMPTS, DIM, generator=ANY(0))
        for name in ("mean", "laplace"):
            near, far = (
                value(found, ARMS[name], inputs_of(centres + step, centres))[1]
                for step in (torch.zeros_like(away), away)
            )
            assert far.mean() > 2 * near.mean()

    def test_a_kernel_knows_nothing_far_away(self):
        inputs = torch.randn(1, 40, 2 * DIM, generator=ANY(0))
        labels = inputs[..., 0]
        kernel = Kernel.fitted([slice(10, 40)], inputs, labels)
        near = kernel.score(inputs)[0, 10:, 0]
        assert torch.corrcoef(torch.stack([near, labels[0, 10:]]))[0, 1] > 0.9
        assert kernel.score(inputs + 100).abs().max() < 1e-6

    def test_pessimistic_aggregates_lie_below_the_mean(self):
        found = learned([Case("quadratic", 0.0, 16, 0)])
        inputs = torch.randn(1, 6, 2 * DIM, generator=ANY(0))
        scores = found.bootstraps.score(inputs)
        torch.testing.assert_close(value(found, ARMS["mean"], inputs)[0], scores.mean(dim=2))
        torch.testing.assert_close(value(found, ARMS["min"], inputs)[0], scores.amin(dim=2))
        for name in ("uwo", "mean-std", "soft-min"):
            assert (value(found, ARMS[name], inputs)[0] < scores.mean(dim=2)).all()


def test_each_run_takes_the_steps_of_adam_and_can_start_afresh():
    ours, theirs = Policies([0, 1]), Policies([0, 1])
    adam, reference = RunAdam(ours, 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    everyone, second = torch.ones(2).bool(), torch.tensor([False, True])

    def loss(networks: Policies) -> torch.Tensor:
        return sum((p - 1).square().sum() for p in networks.parameters())

    for _ in range(3):
        adam.step(loss(ours), everyone)
        reference.zero_grad()
        loss(theirs).backward()
        reference.step()
    torch.testing.assert_close(ours.snapshot(), theirs.snapshot())
    adam.forget(second)
    before = ours.last.detach().clone()
    adam.step(loss(ours), second)
    assert torch.equal(ours.last[0], before[0])
    # A first step of Adam is the learning rate in every coordinate, up to its sign.
    torch.testing.assert_close(
        (ours.last[1] - before[1]).abs(), torch.full_like(before[1], 1e-2), rtol=1e-3, atol=0
    )


class TestGate:
    def test_only_what_the_proxy_likes_better_than_the_others_do(self):
        # Sample 0: proxy highest, auxiliary lowest; sample 2 the other way round; 1 agrees.
        proxy = torch.tensor([3.0, 2.0, 1.0])
        others = torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
        assert kl_gate(proxy, others).tolist() == [1, 0, 0]
        assert kl_gate(-proxy, -others).tolist() == [0, 0, 1]

    def test_scorers_that_agree_gate_nothing(self):
        proxy = torch.tensor([0.1, 7.0, 7.0, -2.0])  # with a tie
        assert kl_gate(proxy, torch.stack([proxy, 3 * proxy + 1], dim=-1)).sum() == 0

    def test_a_share_keeps_the_most_suspect_of_each_run(self):
        proxy = torch.stack([torch.arange(8.0), torch.arange(8.0).flip(0)])
        gate = kl_gate(proxy, -proxy[..., None], share=0.25)
        assert gate.tolist() == [[0] * 6 + [1, 1], [1, 1] + [0] * 6]
        assert kl_gate(proxy, -proxy[..., None]).sum(dim=1).tolist() == [4, 4]

    def test_a_share_out_of_range(self):
        with pytest.raises(ValueError, match=r"`share` must lie in \(0, 1\]; got 0"):
            kl_gate(torch.zeros(2), torch.zeros(2, 1), share=0)


class TestGao:
    @pytest.mark.parametrize(("form", "alpha", "beta"), [("ln d", 1.0, 0.3), ("d", 1.0, 0.3)])
    def test_a_planted_law_is_found(self, form, alpha, beta):
        distance = np.array([0.0, 0.5, 1.0, 2.0, 5.0, 12.0, 30.0])
        gain = GaoFit(alpha, beta, form)(distance)
        assert gain[0] == 0
        found = fit_gao(distance, gain, form)
        assert (found.alpha, found.beta) == pytest.approx((alpha, beta))
        assert explained(gain, found(distance)) == pytest.approx(1.0)

    def test_peaks(self):
        # d* = exp(alpha / beta - 1) with gold beta d*; alpha / (2 beta) with alpha^2 / (4 beta)
        law, other = GaoFit(1.0, 0.3), GaoFit(1.0, 0.3, "d")
        assert law.peak == pytest.approx(10.3123, abs=1e-4)
        assert law(np.array([law.peak]))[0] == pytest.approx(3.0937, abs=1e-4)
        assert other.peak == pytest.approx(1.6667, abs=1e-4)
        assert other(np.array([other.peak]))[0] == pytest.approx(0.8333, abs=1e-4)
        assert GaoFit(1.0, -0.1).peak == math.inf

    def test_too_few_looks(self):
        with pytest.raises(ValueError, match="two looks with KL > 0; got 1"):
            fit_gao(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def stored(measured, chosen=None, *, cases=None, alarms=()) -> Stored:
    measured = np.array(measured, dtype=float)
    chosen = measured if chosen is None else np.array(chosen, dtype=float)
    many = cases or tuple(Case("bump", 0.0, 8, seed) for seed in range(len(measured)))
    return Stored(
        many, tuple(range(measured.shape[1])), measured, chosen, measured, measured, tuple(alarms)
    )


class TestKept:
    # Two seeds: mean gold 0, 1.5, 2, 1, ... peaks at look 2, so runs end at look 5.
    none = stored([[0, 1, 2, 1, 0, -1, -9], [0, 2, 2, 1, 1, 1, -9]])

    def test_runs_end_at_two_and_a_half_peaks(self):
        assert ends(self.none).tolist() == [5, 5]
        rising = stored([[0, 1, 2, 3]])
        assert ends(rising).tolist() == [3]

    def test_share_of_the_gain(self):
        # Oracle 2 in both; unguarded ends at -1 and 1; the arm at 1.5 and 2.
        arm = stored([[0, 0, 0, 0, 0, 1.5, 9], [0, 0, 0, 0, 0, 2, 9]])
        assert kept_share(self.none, self.none).tolist() == [-0.5, 0.5]
        assert kept_share(arm, self.none).tolist() == [0.75, 1.0]

    def test_the_oracle_chooses_on_the_other_half(self):
        # The half to choose by peaks at look 1, where the half to measure on is worth 1; the run
        # ends at look 2 (its mean peaks at look 1), where that half is worth 2.
        halves = stored([[0, 1, 2, 1]], [[0, 3, 2, 1]])
        assert kept_share(halves, halves).tolist() == [2.0]

    def test_no_gain_is_no_share(self):
        flat = stored([[0.0, 0.1, 0.05]])
        assert np.isnan(kept_share(flat, flat)).all()

    def test_other_cases_are_refused(self):
        other = stored([[0, 1], [0, 1]], cases=(Case("bump", 0.0, 8, 7), Case("bump", 0.0, 8, 8)))
        with pytest.raises(ValueError, match="same cases"):
            kept_share(other, self.none)

    def test_seeds_are_resampled_together(self):
        cases = tuple(Case(name, 0.0, 8, seed) for name in ("bump", "wave") for seed in (0, 1))
        found = resampled(np.array([0.0, 1.0, 0.0, 1.0]), cases)
        # Two seeds drawn with replacement: means 0, 1/2 or 1, nothing between.
        assert found.value == 0.5
        assert set(found.replicates) == {0.0, 0.5, 1.0}

    def test_false_alarms(self):
        told = [
            {"look": 2, "run": 0, "do": ["roll_back", "raise_kl"], "before": 2.0, "after": 1.0},
            {"look": 4, "run": 0, "do": ["stop"], "before": 0.0, "after": 2.0},
            {"look": 2, "run": 1, "do": ["raise_kl"], "before": 2.0, "after": 1.0},
            {"look": 6, "run": 1, "do": ["stop"], "before": 2.0, "after": 1.0},  # past the end
        ]
        seen = alarms(stored(self.none.measured, alarms=told), ends(self.none))
        assert (seen.restored, seen.falsely) == (2, 1)


class TestGuard:
    found = Case("quadratic", 0.0, 16, 0)

    def trained(self, *rules: Rule, **options):
        arm = Arm("ensemble", kl_coef=0.1, rules=rules, held_out=None, **options)
        cases = [self.found, replace(self.found, seed=1)]
        return train(learned(cases), arm, "policy_gradient", updates=6, every=2)

    def test_a_stopped_run_stays_where_it_was_best(self):
        seen = self.trained(Rule("diversity", below=100.0, looks=2, do=["stop"]))
        # Out of bounds at the first look, acts at the second: back to the base, and no third look.
        assert [(alarm.run, alarm.look, alarm.back_to) for alarm in seen.alarms] == [
            (0, 2, 0),
            (1, 2, 0),
        ]
        assert (seen.kl[1] > 0).all()
        torch.testing.assert_close(seen.kl[2], seen.kl[0])
        torch.testing.assert_close(seen.kl[3], seen.kl[0])

    def test_a_run_that_is_sent_back_goes_on(self):
        seen = self.trained(Rule("diversity", below=100.0, do=["roll_back", "raise_kl"], times=1))
        assert seen.kl[1].tolist() == [0, 0]
        assert (seen.kl[2] > 0).all()

    def test_without_rules_nothing_is_seen(self):
        assert self.trained().alarms == ()

    def test_rules_that_cannot_work(self):
        rule = Rule("disagreement", above=2.0, do=["raise_kl"])
        with pytest.raises(ConfigError, match=r"raise_kl multiplies algorithm\.kl_coef"):
            train(learned([self.found]), Arm(rules=(rule,)), "policy_gradient", updates=1, every=1)
        with pytest.raises(ValueError, match="there is no lower_share"):
            self.trained(replace(rule, do=["lower_share"]))


def test_a_strong_pull_keeps_a_policy_nearer_to_the_base():
    found = learned([Case("quadratic", 0.0, 64, 0)])
    for method in METHODS:
        free, held = (
            train(found, Arm(kl_coef=kl_coef), method, updates=30, every=30).kl[-1, 0]
            for kl_coef in (0.0, 10.0)
        )
        assert held < 0.5 * free


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learners, "FIT_STEPS", 100)
    monkeypatch.setattr(kept, "LEAST_GAIN", 0.01)
    monkeypatch.setattr(disease, "SIZES", (32, 64))
    monkeypatch.setattr(cures, "LABELS", 64)
    monkeypatch.setattr(cures, "SEEDS", {"development": (0, 1), "test": (2, 3)})
    monkeypatch.setattr(cures, "ARMS", {name: ARMS[name] for name in ("none", "mean", "guard")})
    monkeypatch.setattr(figure, "ARMS", cures.ARMS)
    monkeypatch.setattr(figure, "BINS", 2)
    where = ["--results", str(tmp_path), "--updates", "15"]
    monkeypatch.setattr(sys, "argv", ["disease", *where, "--seeds", "0"])
    disease.main()
    assert capsys.readouterr().out.count("| policy_gradient | 25% |") == 2
    test = ["cures", *where, "--cases", "test", "--arms", "none,mean,guard"]
    monkeypatch.setattr(sys, "argv", test)
    cures.main()
    shown = capsys.readouterr().out
    assert "test policy_gradient guard: 12 runs" in shown
    assert shown.count("| guard |") == 2
    assert "guard minus the best single cure here, mean:" in shown
    content = json.loads((tmp_path / "test-reward_gradient-mean.json").read_text())
    assert content["recipe"]["cases"][0] == {
        "gold": "saturating",
        "noise": 0.0,
        "labels": 64,
        "seed": 2,
        "attack": "none",
    }
    monkeypatch.setattr(attack, "LABELS", 64)
    monkeypatch.setattr(attack, "SEEDS", cures.SEEDS)
    monkeypatch.setattr(attack, "DEFENDERS", {name: ARMS[name] for name in ("none", "guard")})
    monkeypatch.setattr(sys, "argv", ["attack", *where])
    attack.main()
    assert "| arm | none | blind_spot | biased_labels | exploit |" in capsys.readouterr().out
    figure.draw(tmp_path, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    capsys.readouterr()
    # What is stored is not trained again.
    monkeypatch.setattr(sys, "argv", test)
    monkeypatch.setattr(cures, "train", lambda *given: pytest.fail("trained again"))
    cures.main()
    assert capsys.readouterr().out.strip() in shown
