"""Tell the scorers what a configuration says of encoders, judges and instruments. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from morl.config.objective_settings import ObjectiveConfig
from morl.prompts import records
from rewards import encoder_settings, instruments, judge_settings
from rewards.checkpoints import CHECKPOINTS
from rewards.registry import facts_of


def configure_scorers(objective: ObjectiveConfig) -> None:
    """Rewards that are built from now on run as `objective` says."""
    for name, settings in objective.encoders.items():
        encoder_settings.configure(name, settings)
    for name, judge in objective.judges.items():
        judge_settings.configure(name, judge)
    for kind, maker in objective.instruments.items():
        instruments.provide(kind, maker)


def checkpoints_of(rewards: Iterable[str]) -> list[str]:
    """The checkpoints whose weights these rewards read, each once, in order of their names."""
    return sorted(CHECKPOINTS.keys() & {facts_of(reward).encoder for reward in rewards})


def unread_records(rewards: Iterable[str], prompts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Rewards that read a record which no prompt has, each with the record's name."""
    held = {field for record in records(prompts) or () for field in record}
    for reward in rewards:
        record = facts_of(reward).record
        if record and record not in held:
            yield reward, record
