"""What cannot work is said before anything loads: all problems in one go, within a second."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from morl.algorithms.aggregation_facts import aggregation_problems
from morl.algorithms.facts import ALGORITHMS, AlgorithmFacts
from morl.config.guard import guard_problems
from morl.config.scorers import unread_records
from morl.config.tree import BaseConfig, Config
from morl.diffusion.quantized import quantize_problem
from morl.errors import ConfigError, DataError
from morl.prompts import WORLD, Prompt, read_prompts, records
from rewards import instruments, judge_settings
from rewards.bound import Constraint
from rewards.errors import RewardError, nearest
from rewards.objective import Objective
from rewards.prompt_classes import class_problem
from rewards.registry import facts_of
from rewards.routing import matches, rule_problem

SUM_TOLERANCE = 1e-9
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def check(config: Config) -> list[str]:
    """Return every problem of a configuration, each with its key; imports no torch."""
    return [*_setting_problems(config), *_data_problems(config)]


def require(config: Config) -> None:
    """Raise ConfigError, or DataError where only input files are at fault, listing everything."""
    problems, data = list(_setting_problems(config)), list(_data_problems(config))
    if problems:
        raise ConfigError([*problems, *data])
    if data:
        raise DataError("\n".join(data))


def _setting_problems(config: Config) -> Iterator[str]:
    yield from _objective_problems(config)
    yield from _algorithm_problems(config)
    yield from _region_problems(config)
    yield from _base_problems(config.base)


def _base_problems(base: BaseConfig) -> Iterator[str]:
    model = Path(base.model)
    if base.model != WORLD and not model.exists() and not _HUB_ID.match(base.model):
        yield (
            f"base.model: got {base.model!r}; must be {WORLD!r}, an existing diffusers folder or "
            ".safetensors file, or a hub id like org/name"
        )
    if problem := quantize_problem(base.quantize):
        yield problem
    if base.quantize != "none" and model.is_file():
        yield (
            f"base.quantize: {base.quantize} reads a diffusers folder or hub id, and {base.model!r}"
            " is a single file; save it with save_pretrained, or set base.quantize: none"
        )
    described = "base.model", base.model
    if base.config is not None:
        described = "base.config", base.config
        if not model.is_file():
            yield f"base.config: describes a single file, and base.model {base.model!r} is none"
        elif not Path(base.config).is_dir() and not _HUB_ID.match(base.config):
            yield (
                f"base.config: got {base.config!r}; must be an existing diffusers folder or a hub "
                "id like org/name"
            )
    key, folder = described
    if Path(folder).is_dir() and not (Path(folder) / "model_index.json").is_file():
        yield f"{key}: {folder!r} holds no model_index.json, so it is no diffusers pipeline"


def _objective_problems(config: Config) -> Iterator[str]:
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
    known = [leaf for leaf in objective.leaves if not _unknown(leaf)]
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


def _algorithm_problems(config: Config) -> Iterator[str]:
    settings = config.algorithm
    yield from (f"adapter.{problem}" for problem in config.adapter.problems(len(config.names)))
    yield from settings.problems(config.base.steps)
    group = settings.group_size * settings.weights_per_prompt
    batch = config.training.batch_size
    if batch % group:
        below, above = batch // group * group, (batch // group + 1) * group
        near = f"{below} or {above}" if below else f"{above}"
        yield (
            f"training.batch_size: must be a multiple of group_size x weights_per_prompt = "
            f"{settings.group_size} x {settings.weights_per_prompt} = {group}; got {batch} "
            f"(nearest: {near})"
        )


def _region_problems(config: Config) -> Iterator[str]:
    region = config.weights
    if region.vertex + region.edge > 1 + SUM_TOLERANCE:
        yield (
            f"weights.vertex, weights.edge: shares of one whole; got {region.vertex} and "
            f"{region.edge}, more than 1 together"
        )
    unknown = False
    for key, bounds in (("low", region.low), ("high", region.high)):
        for name, bound in bounds.items():
            if name not in config.names:
                unknown = True
                yield f"weights.{key}.{name}: no such objective; {nearest(name, config.names)}"
            if not 0 <= bound <= 1:
                yield f"weights.{key}.{name}: must lie in [0, 1]; got {bound}"
    if unknown or not config.names:
        return
    low, high = region.bounds(config.names)
    for name, below, above in zip(config.names, low, high, strict=True):
        if below > above:
            yield f"weights: low of {name} ({below}) lies above its high ({above})"
    if sum(low) > 1 + SUM_TOLERANCE or sum(high) < 1 - SUM_TOLERANCE:
        yield (
            f"weights: no weight vector sums to 1 within the bounds; the sum of low is "
            f"{sum(low):g} (at most 1), the sum of high {sum(high):g} (at least 1)"
        )


def _data_problems(config: Config) -> Iterator[str]:
    prompts = config.prompts
    for key, source in (("train", prompts.train), ("held_out", prompts.held_out)):
        try:
            asked = [] if source == WORLD else read_prompts(source)
        except DataError as error:
            yield f"prompts.{key}: {error}"
        else:
            yield from (f"prompts.{key}: {problem}" for problem in _lacking(config, asked))
            if key == "train":
                yield from _empty_classes(config, asked)
    if prompts.train == prompts.held_out != WORLD:
        yield "prompts.held_out: the same file as prompts.train; evaluation needs unseen prompts"
    for key, file in (("init_from", config.adapter.init_from), ("beside", config.adapter.beside)):
        if file is not None and not Path(file).is_file():
            yield f"adapter.{key}: no such file: {file} (looked for {Path(file).absolute()})"


def _empty_classes(config: Config, prompts: Sequence[str]) -> Iterator[str]:
    """Classes of prompts that a constraint names and no prompt is in."""
    for position, constraint in enumerate(_constraints(config)):
        if constraint.where:
            problem = class_problem(constraint.where, prompts, records(prompts))
            if problem:
                yield f"objective.subject_to[{position}]: {constraint}: {problem}"


def _lacking(config: Config, prompts: Sequence[str]) -> Iterator[str]:
    """Rewards that read a record which no prompt has, and objectives that apply to no prompt."""
    known = [leaf for leaf in _leaves(config) if not _unknown(leaf)]
    for leaf, record in unread_records(known, prompts):
        yield (
            f"{leaf} reads {record!r} of each prompt's record, and no prompt has it; give a "
            ".jsonl whose lines hold it beside `prompt`"
        )
    for name, rule in config.objective.applies.items():
        told = (prompt.record for prompt in prompts if isinstance(prompt, Prompt))
        if rule_problem(rule) is None and not any(matches(rule, record) for record in told):
            yield (
                f"objective.applies.{name}: no prompt's record matches {rule!r}, so {name} would "
                "never count; give a .jsonl whose lines hold the field beside `prompt`"
            )


def _constraints(config: Config) -> tuple[Constraint, ...]:
    try:
        return Objective.from_dict(config.objective.to_objective()).constraints
    except RewardError:
        return ()


def _leaves(config: Config) -> tuple[str, ...]:
    try:
        return Objective.from_dict(config.objective.to_objective()).leaves
    except RewardError:
        return ()


def _without_gradients() -> list[str]:
    def free(facts: AlgorithmFacts) -> bool:
        return "reward_gradient" not in facts.needs

    return [name for name, facts in ALGORITHMS.items() if free(facts)]


def _with_groups() -> list[str]:
    return [name for name, facts in ALGORITHMS.items() if "groups" in facts.needs]


def _unknown(leaf: str) -> bool:
    try:
        facts_of(leaf)
    except RewardError:
        return True
    return False
