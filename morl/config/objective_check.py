"""What cannot work of an objective: its rewards, constraints, units and what judges it."""

from __future__ import annotations

from collections.abc import Iterator

from morl.algorithms.aggregation_facts import aggregation_problems
from morl.algorithms.facts import ALGORITHMS, AlgorithmFacts
from morl.config.guard import guard_problems
from morl.config.tree import Config
from rewards import instruments, judge_settings
from rewards.errors import RewardError, nearest
from rewards.objective import Objective
from rewards.registry import facts_of


def objective_problems(config: Config) -> Iterator[str]:
    """Every problem of `objective`, `guard` and what `evaluation` judges by, each with its key."""
    for name, settings in config.objective.encoders.items():
        yield from (f"objective.encoders: {problem}" for problem in settings.problems(name))
    for name, judge in config.objective.judges.items():
        yield from (f"objective.judges: {problem}" for problem in judge.problems(name))
    for kind, path in config.objective.instruments.items():
        yield from (f"objective.instruments: {p}" for p in instruments.problems(kind, path))
    if not config.names:
        yield "objective.maximize: names no objective; write at least one, name: reward expression"
        return
    try:
        objective = Objective.from_dict(config.objective.to_objective())
    except RewardError as error:
        yield f"objective: {error}"
        return
    yield from (f"objective: {problem}" for problem in objective.problems())
    known = [leaf for leaf in objective.leaves if not unknown(leaf)]
    yield from (problem for leaf in known for problem in _unmet_needs(config, leaf))
    gold = [leaf for leaf in known if facts_of(leaf).gold]
    if gold and not config.objective.allow_gold:
        yield (
            f"objective: {', '.join(gold)} is a gold measure, which judges and never trains; use "
            "the learned proxy, or set allow_gold: true in a study that means it"
        )
    yield from _evaluation_problems(config, objective)
    yield from guard_problems(config, objective)
    yield from _multiplier_problems(config)
    yield from _budget_problems(config, objective)
    facts = ALGORITHMS[config.algorithm.name]
    yield from _regime_problems(config, facts)
    blind = objective.undifferentiable()
    if "reward_gradient" in facts.needs and blind:
        yield (
            f"algorithm.name: {facts.name} needs gradients of every reward, and "
            f"{', '.join(blind)} has none; choose an algorithm that needs none "
            f"({', '.join(_without_gradients())}) or another reward"
        )


def _regime_problems(config: Config, facts: AlgorithmFacts) -> Iterator[str]:
    """What an objective asks that not every regime, or not this one, can do."""
    asked = config.objective
    for problem in aggregation_problems(asked.aggregation, facts.regime, config.training.devices):
        yield f"objective.aggregation: {problem}"
    if asked.normalize == "base":
        return
    if "groups" not in facts.needs:
        yield (
            f"objective.normalize: {asked.normalize} divides by the std of a group, and "
            f"{facts.name} has no groups; use base, or one of {', '.join(_with_groups())}"
        )
    if asked.on == "sample":
        yield (
            f"objective.normalize: {asked.normalize} divides the advantage of each objective, and "
            "on: sample has one advantage for all of them; use on: mean, or normalize: base"
        )
    if asked.normalize == "group_std_sum" and asked.scalarization != "linear":
        yield (
            "objective.normalize: group_std_sum divides the weighted sum of raw rewards, so it "
            f"needs scalarization: linear; got {asked.scalarization}"
        )


def _unmet_needs(config: Config, leaf: str) -> Iterator[str]:
    needs = facts_of(leaf).needs
    judged = leaf in config.objective.judges or judge_settings.is_configured(leaf)
    if needs == "judge" and not judged:
        yield f"objective.judges.{leaf}: {leaf} asks a judge; name its url and model here"
    provided = needs in config.objective.instruments or instruments.is_provided(needs)
    if needs in ("detector", "recogniser") and not provided:
        yield (
            f"objective.instruments.{needs}: {leaf} needs one and none is shipped; name your own "
            "as path/to/file.py:name"
        )


def _multiplier_problems(config: Config) -> Iterator[str]:
    chosen = config.objective
    if chosen.multiplier_start > chosen.multiplier_cap:
        yield (
            f"objective.multiplier_start: must be at most multiplier_cap = "
            f"{chosen.multiplier_cap:g}; got {chosen.multiplier_start:g}"
        )
    if chosen.multiplier_of_weights == "implicit" and len(config.names) < 2:
        yield (
            "objective.multiplier_of_weights: one objective has one weight vector, and nothing for "
            "an implicit multiplier to depend on; write shared"
        )
    if chosen.utility_weight == 0 and not chosen.subject_to:
        yield (
            "objective.utility_weight: 0 leaves the constraints alone, and there are none; state "
            "targets in objective.subject_to"
        )
    if chosen.utility_weight == 0 and not config.algorithm.kl_coef:
        yield (
            "objective.utility_weight: 0 asks for the least departure from the base model under "
            "the constraints, and algorithm.kl_coef = 0 does not measure it; write kl_coef: 1"
        )


def _budget_problems(config: Config, objective: Objective) -> Iterator[str]:
    """What cannot act on a bound that slides."""
    slid = objective.budgets
    yield from (f"adapter.{problem}" for problem in config.adapter.budget_problems(len(slid)))
    if slid and config.objective.multiplier == "fixed":
        yield (
            f"objective.multiplier: a fixed penalty weighs every bound of {slid[0].name} alike, so "
            "the budget would not act; use dual_ascent, nupi, pid or augmented_lagrangian"
        )


def _evaluation_problems(config: Config, objective: Objective) -> Iterator[str]:
    held_out, axes = config.evaluation.held_out, config.evaluation.axes
    judged = (*config.names, *objective.constraint_names)
    for name, text in held_out.items():
        if name not in judged:
            yield f"evaluation.held_out.{name}: judges nothing; {nearest(name, judged)}"
        try:
            measure = Objective.from_dict({"maximize": {}, "subject_to": [f"{text} <= 0"]})
            for leaf in measure.leaves:
                facts_of(leaf)
        except RewardError as error:
            yield f"evaluation.held_out.{name}: {error}"
    missing = [name for name in config.names if name not in held_out]
    if held_out and missing:
        yield (
            f"evaluation.held_out: names no measure for {', '.join(missing)}; a front needs one "
            "for every objective"
        )
    for name, ends in axes.items():
        if name not in config.names:
            yield f"evaluation.axes.{name}: no such objective; {nearest(name, config.names)}"
        if len(ends) != 2 or not ends[0] < ends[1]:
            yield f"evaluation.axes.{name}: must be [nadir, ideal], the lower first; got {ends}"


def unknown(leaf: str) -> bool:
    """Whether no reward has this name; `Objective.problems` reports it."""
    try:
        facts_of(leaf)
    except RewardError:
        return True
    return False


def _without_gradients() -> list[str]:
    def free(facts: AlgorithmFacts) -> bool:
        return "reward_gradient" not in facts.needs

    return [name for name, facts in ALGORITHMS.items() if free(facts)]


def _with_groups() -> list[str]:
    return [name for name, facts in ALGORITHMS.items() if "groups" in facts.needs]
