"""What is done against over-optimisation: one arm a cure, and the reward that it trains on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.overoptimization.proxies import HeldOut, Proxies
from morl.guard.settings import DEFAULT_RULES, Rule
from rewards.expression import Aggregate
from rewards.members import aggregate

KL_COEFS = {"weak": 0.03, "middle": 0.1, "strong": 0.3}


@dataclass(frozen=True)
class Arm:
    """What is done against over-optimisation.

    reward: a single network, an ensemble of bootstraps, an average of parameters, or a single one
    with the uncertainty of its last layer. pessimism: standard deviations taken off the value.
    kl_coef: base standard deviations of reward a nat. gate: share of the batch whose KL counts, as
    in `kl_gate`, 0 for all of it. rules: those of the guard, if any; held_out: what it checks by.
    """

    reward: Literal["single", "ensemble", "warm", "laplace"] = "single"
    aggregate: Aggregate = "mean"
    pessimism: float = 0.0
    kl_coef: float = 0.0
    gate: float = 0.0
    rules: tuple[Rule, ...] = ()
    held_out: HeldOut | None = "network"


EARLY_STOP = Rule("held_out_drop", above=2.0, looks=2, do=["stop"])
DISAGREEMENT = Rule("disagreement", above=2.0, do=["roll_back", "raise_kl"], times=1000)
# The pessimism of `configs/shapes.yaml`; a guard that raises kl_coef needs one above 0.
PESSIMISM = (Rule("disagreement", above=2.0, do=["raise_pessimism"]), *DEFAULT_RULES[1:])
GUARD = Arm("ensemble", pessimism=0.5, kl_coef=KL_COEFS["weak"], rules=DEFAULT_RULES)
ARMS: dict[str, Arm] = {
    "none": Arm(),
    **{f"kl_{name}": Arm(kl_coef=kl_coef) for name, kl_coef in KL_COEFS.items()},
    "early_stop": Arm(rules=(EARLY_STOP,)),
    "mean": Arm("ensemble"),
    "min": Arm("ensemble", "min"),
    "uwo": Arm("ensemble", "uwo"),
    "mean-std": Arm("ensemble", "mean-std"),
    "soft-min": Arm("ensemble", "soft-min"),
    "laplace": Arm("laplace", pessimism=1.0),
    "gated_kl": Arm(kl_coef=KL_COEFS["middle"], gate=1.0),
    "warm": Arm("warm"),
    "guard": GUARD,
    # The same with a held-out reward of another kind: it does not share the proxies' blind spots.
    "early_stop_kernel": Arm(rules=(EARLY_STOP,), held_out="kernel"),
    "guard_kernel": replace(GUARD, held_out="kernel"),
    # The first proposal, which development cases changed: disagreement only raises the pessimism.
    "guard_pessimism": replace(GUARD, rules=PESSIMISM),
    # Nothing held out: the best look is the last quiet one.
    "guard_disagreement": replace(GUARD, rules=(DISAGREEMENT,), held_out=None),
}


def value(
    proxies: Proxies, arm: Arm, inputs: Float[Tensor, "run row input"]
) -> tuple[Float[Tensor, "run row"], Float[Tensor, "run row"]]:
    """A reward in base standard deviations, before pessimism, and its uncertainty."""
    if arm.reward == "ensemble":
        scores = proxies.bootstraps.score(inputs)
        members = scores.shape[-1]
        # They are z-scores already, so the way back to raw units is the identity.
        zeros, ones = scores.new_zeros(members), scores.new_ones(members)
        both = aggregate(scores.flatten(0, 1), zeros, ones, arm.aggregate)
        combined, std = (part.view(scores.shape[:2]) for part in both)
        return combined, std
    if arm.reward == "laplace":
        std = proxies.laplace.std(inputs) / proxies.single.std[:, 0]
        return proxies.single.score(inputs)[..., 0], std
    networks = proxies.warm if arm.reward == "warm" else proxies.single
    scores = networks.score(inputs)[..., 0]
    return scores, torch.zeros_like(scores)
