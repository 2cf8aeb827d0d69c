"""What cannot work of the files that a configuration names: prompts, their records, LoRAs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from morl.config.objective_check import unknown
from morl.config.scorers import unread_records
from morl.config.tree import Config
from morl.errors import DataError
from morl.prompts import WORLD, Prompt, read_prompts, records
from rewards.bound import Constraint
from rewards.errors import RewardError
from rewards.objective import Objective
from rewards.prompt_classes import class_problem
from rewards.routing import matches, rule_problem


def data_problems(config: Config) -> Iterator[str]:
    """Every missing, unreadable or unsuitable input file, each with its key."""
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
    known = [leaf for leaf in _leaves(config) if not unknown(leaf)]
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
