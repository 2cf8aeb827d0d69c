"""What each algorithm is and needs, without importing torch: one row an algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from morl.algorithms.settings import (
    AlgorithmSettings,
    DraftSettings,
    NFTSettings,
    PolicyGradientSettings,
)
from morl.errors import ConfigError
from rewards.errors import nearest

Regime = Literal["reward_gradient", "policy_gradient", "denoising"]
Need = Literal["reward_gradient", "log_probs", "groups"]
NEEDS: dict[Need, str] = {
    "reward_gradient": "gradients of every reward with respect to the image",
    "log_probs": "a sampler with noise, so that its steps have log-probabilities",
    "groups": "several images for each prompt and weight vector",
}


@dataclass(frozen=True)
class AlgorithmFacts:
    """Declared facts of one algorithm: enough to list it and to reject what cannot work."""

    name: str
    regime: Regime
    needs: frozenset[Need]
    settings: type[AlgorithmSettings]
    summary: str
    paper: str
    source: str
    """`module:attribute` of the class that is built from the settings."""


_ROWS = (
    AlgorithmFacts(
        name="draft",
        regime="reward_gradient",
        needs=frozenset({"reward_gradient"}),
        settings=DraftSettings,
        summary="differentiates the utility through the last steps of the sampler",
        paper="DRaFT, arXiv 2309.17400",
        source="morl.algorithms.draft:Draft",
    ),
    AlgorithmFacts(
        name="policy_gradient",
        regime="policy_gradient",
        needs=frozenset({"log_probs", "groups"}),
        settings=PolicyGradientSettings,
        summary="weighs the log-probabilities of recorded steps by clipped advantages",
        paper="DDPO, arXiv 2305.13301; Flow-GRPO, arXiv 2505.05470",
        source="morl.algorithms.policy_gradient:PolicyGradient",
    ),
    AlgorithmFacts(
        name="nft",
        regime="denoising",
        needs=frozenset({"groups"}),
        settings=NFTSettings,
        summary="contrasts a positive and a negative denoiser on finished images",
        paper="DiffusionNFT, arXiv 2509.16117",
        source="morl.algorithms.nft:NFT",
    ),
)
ALGORITHMS: dict[str, AlgorithmFacts] = {row.name: row for row in _ROWS}


def facts_of(name: str) -> AlgorithmFacts:
    """Look an algorithm up; an unknown name raises ConfigError with the nearest ones."""
    if name not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm {name!r}; {nearest(name, ALGORITHMS)}")
    return ALGORITHMS[name]
