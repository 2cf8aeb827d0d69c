"""Which rules act, when, and which cannot."""

import pytest

from morl.guard.rules import Reading, Tally, decide
from morl.guard.settings import DEFAULT_RULES, GuardConfig, Rule


def run(rule: Rule, values: list[float | None]) -> list[bool]:
    """Whether the rule acted at each look."""
    tally, acted = Tally.none([rule]), []
    for value in values:
        seen = {} if value is None else {rule.signal: [Reading(value, "a=1")]}
        decisions, tally = decide([rule], seen, tally)
        acted.append(bool(decisions))
    return acted


def test_acts_above() -> None:
    rule = Rule("disagreement", above=2.0, do=["raise_pessimism"], times=9)
    assert run(rule, [1.0, 2.0, 2.1, 3.0]) == [False, False, True, True]


def test_acts_below() -> None:
    rule = Rule("diversity", below=0.7, do=["raise_kl"])
    assert run(rule, [0.9, 0.7, 0.6]) == [False, False, True]


def test_looks_must_follow_each_other_and_are_counted_anew() -> None:
    rule = Rule("artefacts", above=2.0, looks=2, do=["raise_kl"], times=9)
    assert run(rule, [3, 1, 3, 3, 3, 3]) == [False, False, False, True, False, True]


def test_a_missing_signal_changes_nothing() -> None:
    rule = Rule("gap", above=1.0, looks=2, do=["stop"])
    assert run(rule, [2.0, None, 2.0]) == [False, False, True]


def test_times() -> None:
    rule = Rule("disagreement", above=2.0, do=["raise_pessimism"], times=2)
    assert run(rule, [3.0] * 4) == [True, True, False, False]


def test_the_worst_reading_is_the_evidence() -> None:
    above = Rule("gap", above=1.0, do=["stop"])
    below = Rule("diversity", below=0.9, do=["raise_kl"])
    seen = [Reading(0.5, "a=1", "a"), Reading(1.5, "b=1", "b"), Reading(1.2, "a=1", "b")]
    decisions, _ = decide(
        [above, below], {"gap": seen, "diversity": seen}, Tally.none([above, below])
    )
    assert [(d.rule, d.reading) for d in decisions] == [(0, seen[1]), (1, seen[0])]


def test_the_default_rules_are_sound() -> None:
    guard = GuardConfig(every=10, held_out={"a": "saturation", "b": "contrast"})
    assert list(guard.problems(("a", "b"), kl_coef=1.0)) == []
    assert guard.rules == list(DEFAULT_RULES)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("gap", do=["stop"]), "give one of above and below; got above=None, below=None"),
        (Rule("gap", above=1, below=0, do=["stop"]), "give one of above and below"),
        (Rule("gap", above=1), "do: names no action; known: raise_pessimism"),
        (Rule("gap", above=1, do=["stop", "roll_back"]), "do: stop stands alone"),
        (Rule("diversity", below=1, do=["lower_share"]), "lower_share needs a signal that names"),
        (Rule("gap", above=1, do=["stop"], by=2.0), "by: none of stop takes an amount"),
        (Rule("gap", above=1, do=["lower_share"], by=1.5), "multiplies by less than 1; got 1.5"),
        (Rule("gap", above=1, do=["raise_kl"], by=0.5), "multiplies by more than 1; got 0.5"),
    ],
)
def test_meaningless_rules(rule: Rule, message: str) -> None:
    guard = GuardConfig(every=10, held_out={"a": "saturation"}, rules=[rule])
    (problem,) = guard.problems(("a",), kl_coef=1.0)
    assert problem.startswith("guard.rules[0]: ")
    assert message in problem
    assert list(GuardConfig(rules=[rule]).problems(("a",), kl_coef=1.0)) == []  # off


def test_what_the_run_lacks() -> None:
    guard = GuardConfig(every=10, rules=[Rule("gap", above=1, do=["raise_kl"])])
    lacking, pull = guard.problems(("a",), kl_coef=0.0)
    assert lacking.startswith("guard.rules[0]: gap needs rewards that never train")
    assert pull == "guard.rules[0]: raise_kl multiplies algorithm.kl_coef, which is 0"
    some = GuardConfig(every=10, held_out={"a": "saturation", "c": "contrast"})
    assert list(some.problems(("a", "b"), kl_coef=1.0)) == [
        "guard.held_out: checks no b; name one for every objective",
        "guard.held_out.c: no such objective; known: a, b",
    ]


def test_two_rules_of_one_case_contradict_each_other() -> None:
    rules = [Rule("gap", above=1, do=["stop"]), Rule("gap", above=1, do=["raise_kl"])]
    guard = GuardConfig(every=1, held_out={"a": "saturation"}, rules=rules)
    (problem,) = guard.problems(("a",), kl_coef=1.0)
    assert problem == (
        "guard.rules[1]: the case of rules[0], which does stop; one case is one rule"
    )
