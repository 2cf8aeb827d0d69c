"""Tell the scorers what a configuration says of encoders, judges and instruments. No torch."""

from __future__ import annotations

from morl.config.tree import ObjectiveConfig
from rewards import encoder_settings, instruments, judge_settings


def configure_scorers(objective: ObjectiveConfig) -> None:
    """Rewards that are built from now on run as `objective` says."""
    for name, settings in objective.encoders.items():
        encoder_settings.configure(name, settings)
    for name, judge in objective.judges.items():
        judge_settings.configure(name, judge)
    for kind, maker in objective.instruments.items():
        instruments.provide(kind, maker)
