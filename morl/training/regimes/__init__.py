"""One collector for each of the three ways to learn from rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from morl.training.collect import Collector, Parts
from morl.training.regimes.denoising import DenoisingCollector
from morl.training.regimes.reward_gradient import RewardGradientCollector
from morl.training.regimes.trajectory import TrajectoryCollector

COLLECTORS: dict[str, Callable[[Any, Parts], Collector]] = {
    "reward_gradient": RewardGradientCollector,
    "policy_gradient": TrajectoryCollector,
    "denoising": DenoisingCollector,
}


def collector_for(regime: str, algorithm: Any, parts: Parts) -> Collector:
    """Build the collector of a regime around one algorithm of that regime."""
    return COLLECTORS[regime](algorithm, parts)
