"""What a guard cannot watch with: unknown, gold or training rewards under `guard.held_out`."""

from __future__ import annotations

from collections.abc import Iterator

from morl.config.tree import Config
from rewards.errors import RewardError
from rewards.objective import Objective
from rewards.registry import facts_of


def guard_problems(config: Config, objective: Objective) -> Iterator[str]:
    """Every problem of the section `guard`, each with its key; none where the guard is off."""
    guard = config.guard
    if not guard.every:
        return
    yield from guard.problems(config.names, config.algorithm.kl_coef)
    if config.training.devices > 1:
        yield (
            f"guard.every: a guard watches one process; training.devices is "
            f"{config.training.devices}"
        )
    if config.objective.on == "sample" and any("lower_share" in r.do for r in guard.rules):
        yield (
            "guard.rules: lower_share changes an objective's coefficient, which objective.on: "
            "sample has none of; take another action, or on: mean"
        )
    for name, text in guard.held_out.items():
        yield from (f"guard.held_out.{name}: {p}" for p in _held_out_problems(text, objective))


def _held_out_problems(text: str, objective: Objective) -> Iterator[str]:
    try:
        measure = Objective.from_dict({"maximize": {"held_out": text}})
    except RewardError as error:
        yield str(error)
        return
    yield from measure.problems()
    for leaf in measure.leaves:
        if leaf in objective.leaves:
            yield f"{leaf} also trains, so it can see no hack; name another measure of the same"
        elif _gold(leaf):
            yield f"{leaf} is a gold measure: a guard that reads the truth proves nothing"


def _gold(leaf: str) -> bool:
    try:
        return facts_of(leaf).gold
    except RewardError:
        return False  # `problems` reports it
