"""Multipliers with a memory of the error: by hand, against cooper, and on a known problem."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from properties import normal

from rewards.controllers import PID, DualAscent, Fixed, NuPI
from rewards.multipliers import controller

RULES = {
    "dual_ascent": partial(DualAscent, learning_rate=0.3, ema=0.9),
    "nupi": partial(NuPI, integral=0.3, proportional=2.0, ema=0.9),
    "pid": partial(PID, integral=0.3, proportional=2.0, derivative=1.0, ema=0.9),
    "fixed": partial(Fixed, start=2.0),
}


def following(driven, amounts):
    """The multipliers after each violation."""
    seen = []
    for amount in amounts:
        driven.update(torch.as_tensor([amount], dtype=torch.float64).flatten())
        seen.append(driven.multipliers.clone())
    return torch.stack(seen)


class TestByHand:
    def test_nupi(self):
        # K_I 1, K_P 2, nu 0.5; xi = 0.4, 0.3, 0.1
        # lambda = 0.4; 0.4 + 0.2 - 2 x 0.1 = 0.4; max(0, 0.4 - 0.1 - 2 x 0.2) = 0
        seen = following(NuPI(1, 1.0, 2.0, ema=0.5), (0.4, 0.2, -0.1))
        assert seen.flatten().tolist() == pytest.approx([0.4, 0.4, 0.0])

    def test_pid(self):
        # K_I 1, K_P 2, K_D 3, a 0.5; P = 0.4, 0.5, 0.15; I = 0.4, 1, 0.8; D = 0, 0.1, 0
        # lambda = 0.4 + 0.8, 1 + 1 + 0.3, 0.8 + 0.3
        seen = following(PID(1, 1.0, 2.0, 3.0, ema=0.5), (0.4, 0.6, -0.2))
        assert seen.flatten().tolist() == pytest.approx([1.2, 2.3, 1.1])

    def test_the_sum_of_a_pid_is_bounded_so_that_it_comes_back_at_once(self):
        # I is 1 after a hundred violations of 1, not 100: one slack of 1 empties it.
        driven = PID(1, 1.0, 0.0, cap=1.0)
        following(driven, [1.0] * 100)
        assert following(driven, [-1.0]).item() == 0.0

    def test_without_proportional_gain_nupi_is_dual_ascent(self):
        amounts = normal(20).tolist()
        assert torch.equal(
            following(NuPI(1, 0.3, 0.0), amounts), following(DualAscent(1, 0.3), amounts)
        )

    def test_a_penalty_does_not_move_and_is_never_capped(self):
        driven = Fixed(2, start=3.0, cap=3.0)
        driven.update(torch.tensor([5.0, -5.0]))
        assert driven.multipliers.tolist() == [3.0, 3.0]
        assert not driven.capped.any()


class TestAgainstCooper:
    @pytest.mark.parametrize("ema", [0.0, 0.7])
    @pytest.mark.parametrize("proportional", [0.0, 4.0])
    def test_nupi(self, ema, proportional):
        # Its own "SGD" start stores 0 after the first step; with xi_{-1} = e_0 given by hand, its
        # "ZEROS" rule is the documented algorithm from that start.
        optim = pytest.importorskip("cooper.optim")
        errors = normal(30, 3) + 0.3
        theirs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = optim.nuPI(
            [theirs],
            lr=1.0,
            Ki=torch.tensor(0.5),
            Kp=torch.tensor(proportional),
            ema_nu=ema,
            init_type=optim.nuPIInitType.ZEROS,
            maximize=True,
        )
        optimizer.state[theirs]["xi"] = errors[0].clone()
        ours = NuPI(3, 0.5, proportional, ema)
        for error in errors:
            theirs.grad = error.clone()
            optimizer.step()
            theirs.data.clamp_(min=0)
            ours.update(error)
            torch.testing.assert_close(ours.multipliers, theirs.detach())

    def test_the_augmented_lagrangian_where_the_constraint_is_violated(self):
        cooper = pytest.importorskip("cooper")
        formulations = pytest.importorskip("cooper.formulations.utils")
        # d/dg of lambda g + c/2 relu(g)^2 is lambda + c g; lambda has taken its own step first.
        violation = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
        driven = PID(2, integral=0.5, proportional=4.0, start=1.5)
        driven.update(violation)
        formulations.compute_primal_quadratic_augmented_contribution(
            multiplier_value=driven.total,
            penalty_coefficient_value=torch.full((2,), 4.0, dtype=torch.float64),
            violation=violation,
            constraint_type=cooper.ConstraintType.INEQUALITY,
        ).sum().backward()
        torch.testing.assert_close(driven.multipliers, violation.grad)
        torch.testing.assert_close(driven.total, 1.5 + 0.5 * violation.detach())


def undershoot(driven) -> float:
    """How far x falls below its bound: max -(x - 2)^2 subject to x <= 1, x slower than lambda.

    x* = 1 and lambda* = 2. Around it s^2 + (0.1 + 0.05 K_P) s + 0.025 = 0 for dual ascent of rate
    0.5 with K_P: damping 0.32 without, 1.1 with K_P = 5.
    """
    x, lowest, met = 1.9, math.inf, False
    for _ in range(400):
        x += 0.05 * (2 * (2 - x) - driven.multipliers.item())
        driven.update(torch.tensor([x - 1], dtype=torch.float64))
        met = met or x < 1
        lowest = min(lowest, x) if met else lowest
    assert x == pytest.approx(1, abs=1e-3)
    assert driven.multipliers.item() == pytest.approx(2, abs=1e-2)
    return 1 - lowest


class TestOnAKnownProblem:
    def test_both_brake_where_dual_ascent_overshoots(self):
        plain = undershoot(DualAscent(1, 0.5))
        assert plain > 0.1
        assert undershoot(NuPI(1, 0.5, 5.0)) < 0.2 * plain
        assert undershoot(PID(1, 0.5, 5.0)) < 0.2 * plain


@pytest.mark.parametrize("rule", RULES)
class TestEveryRule:
    def test_an_infeasible_constraint_ends_at_the_cap(self, rule):
        if rule == "fixed":
            return
        driven = RULES[rule](2, cap=5.0)
        for _ in range(400):
            driven.update(torch.tensor([-1.0, 1.0]))
        assert driven.multipliers.tolist() == [0.0, 5.0]
        assert driven.capped.tolist() == [False, True]

    def test_it_resumes_exactly(self, rule):
        whole, first, second = (RULES[rule](2) for _ in range(3))
        amounts = normal(10, 2)
        for amount in amounts:
            whole.update(amount)
        for amount in amounts[:5]:
            first.update(amount)
        second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
        for amount in amounts[5:]:
            second.update(amount)
        for name, value in whole.state_dict().items():
            assert torch.equal(second.state_dict()[name], value), name

    def test_a_kept_state_does_not_change_with_later_updates(self, rule):
        driven = RULES[rule](1)
        kept = driven.state_dict()
        before = {name: value.clone() for name, value in kept.items()}
        driven.update(torch.ones(1))
        assert all(torch.equal(kept[name], value) for name, value in before.items())

    def test_a_violation_that_is_no_number(self, rule):
        with pytest.raises(ValueError, match=r"must be 2 finite numbers; got \[0.0, nan\]"):
            RULES[rule](2).update(torch.tensor([0.0, math.nan]))

    def test_a_start(self, rule):
        assert RULES[rule](2, start=1.5).multipliers.tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (NuPI, {"integral": 0.0}),
        (NuPI, {"proportional": -1.0}),
        (NuPI, {"ema": 1.0}),
        (PID, {"derivative": math.nan}),
        (PID, {"cap": 0.0}),
        (PID, {"constraints": 0}),
        (Fixed, {"start": math.inf}),
    ],
)
def test_settings_out_of_range(kind, wrong):
    with pytest.raises(ValueError, match="multipliers need constraints >= 1, cap > 0"):
        kind(**{"constraints": 1, **({"start": 0.0} if kind is Fixed else {}), **wrong})


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("dual_ascent", [0.2, 0.3]),
        ("nupi", [0.2, 0.3 - 3 * 0.1]),
        ("pid", [0.2 + 0.6, 0.3 + 0.3]),
        ("augmented_lagrangian", [0.2 + 0.6, 0.3 + 0.3]),
        ("fixed", [0.0, 0.0]),
    ],
)
def test_each_rule_gets_its_own_settings(rule, expected):
    # violations 0.2 and 0.1, K_I 1, K_P 3, K_D 7 (the violation never grows)
    driven = controller(
        rule, 1, rate=1.0, proportional=3.0, derivative=7.0, ema=0.0, cap=9.0, start=0.0
    )
    assert following(driven, (0.2, 0.1)).flatten().tolist() == pytest.approx(expected)
