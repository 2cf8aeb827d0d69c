"""What the guard watches and what it does about it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from morl.option import option

Signal = Literal["disagreement", "held_out_drop", "gap", "diversity", "statistics", "artefacts"]
Action = Literal[
    "raise_pessimism", "raise_kl", "lower_share", "refresh_reference", "roll_back", "stop"
]

SIGNALS: dict[Signal, str] = {
    "disagreement": "mean std of an ensemble's members, over that on the base model's images",
    "held_out_drop": "fall of the held-out utility from its best look, in its standard errors",
    "gap": "gain of a proxy less the gain of its held-out reward, in base standard deviations",
    "diversity": "mean distance between images of one prompt, over that of the base model",
    "statistics": "shift of mean saturation, contrast or sharpness, in base standard deviations",
    "artefacts": "share of an image's energy in its fine detail, over that of the base model",
}
ACTIONS: dict[Action, str] = {
    "raise_pessimism": "raise objective.pessimism",
    "raise_kl": "raise algorithm.kl_coef",
    "lower_share": "lower the share of the objective that the signal names",
    "refresh_reference": "pull towards the adapter of the best look instead of the base model",
    "roll_back": "go back to the adapter of the best look, with a fresh optimiser",
    "stop": "end the training with the adapter of the best look",
}
AMOUNTS: dict[Action, float] = {"raise_pessimism": 0.5, "raise_kl": 2.0, "lower_share": 0.5}
"""What `by` is where a rule leaves it out: added to the pessimism, a factor on the others."""
NAMES_AN_OBJECTIVE = ("disagreement", "gap")
NEEDS_HELD_OUT = ("held_out_drop", "gap")


@dataclass(frozen=True)
class Rule:
    """When a signal leaves its bounds, what is done."""

    signal: Signal = option("disagreement", "what is watched, at its worst weight vector")
    above: float | None = option(None, "act where the signal lies above this")
    below: float | None = option(None, "act where the signal lies below this")
    looks: int = option(1, "looks in a row at which it must be so", low=1)
    do: list[Action] = option([], "actions, in order")
    by: float | None = option(
        None, "added to the pessimism, or a factor on kl_coef or on the share", above=0
    )
    times: int = option(3, "how often the rule acts at most", low=1)

    def problems(self) -> Iterator[str]:
        """What makes the rule meaningless."""
        if (self.above is None) == (self.below is None):
            yield f"give one of above and below; got above={self.above}, below={self.below}"
        if not self.do:
            yield f"do: names no action; known: {', '.join(ACTIONS)}"
        if "stop" in self.do and len(self.do) > 1:
            yield f"do: stop stands alone; got {', '.join(self.do)}"
        if "lower_share" in self.do and self.signal not in NAMES_AN_OBJECTIVE:
            yield (
                f"do: lower_share needs a signal that names an objective "
                f"({', '.join(NAMES_AN_OBJECTIVE)}); got {self.signal}"
            )
        if self.by is not None and not set(self.do) & AMOUNTS.keys():
            yield f"by: none of {', '.join(self.do) or 'the actions'} takes an amount"
        if "lower_share" in self.do and self.amount("lower_share") >= 1:
            yield f"by: lower_share multiplies by less than 1; got {self.by}"
        if "raise_kl" in self.do and self.amount("raise_kl") <= 1:
            yield f"by: raise_kl multiplies by more than 1; got {self.by}"

    def holds(self, value: float) -> bool:
        """Whether the signal is out of bounds."""
        if self.above is not None:
            return value > self.above
        return self.below is not None and value < self.below

    def amount(self, action: Action) -> float:
        """How much of an action is meant."""
        return AMOUNTS[action] if self.by is None else self.by


# Proposals of ours, not of a paper: twice the disagreement or fine detail; a fall that noise makes
# at one look in forty, seen at two; a third of the variety gone. Which action answers to
# disagreement was chosen on the development cases of experiments/overoptimization.
DEFAULT_RULES = (
    Rule("disagreement", above=2.0, do=["roll_back", "raise_kl"], times=10),
    Rule("held_out_drop", above=2.0, looks=2, do=["roll_back", "raise_kl"]),
    Rule("diversity", below=0.7, do=["raise_kl"]),
    Rule("artefacts", above=2.0, do=["raise_kl"]),
)


@dataclass(frozen=True)
class GuardConfig:
    """What watches for over-optimised rewards, and acts."""

    every: int = option(0, "updates between looks; 0: no guard", low=0)
    prompts: int = option(16, "training prompts that are looked at, always the same", low=2)
    images_per_prompt: int = option(2, "images of each at every watched weight vector", low=2)
    held_out: dict[str, str] = option(
        {}, "rewards that never train, by the name of the objective that each checks"
    )
    rules: list[Rule] = option(
        list(DEFAULT_RULES),
        f"each {{signal, above or below, looks, do: [actions], by, times}}; signals: "
        f"{', '.join(SIGNALS)}; actions: {', '.join(ACTIONS)}",
    )

    def problems(self, names: Sequence[str], kl_coef: float) -> Iterator[str]:
        """What cannot work, each with its key; a guard that is off is not asked."""
        if not self.every:
            return
        for number, rule in enumerate(self.rules):
            key = f"guard.rules[{number}]"
            yield from (f"{key}: {problem}" for problem in rule.problems())
            if rule.signal in NEEDS_HELD_OUT and not self.held_out:
                yield (
                    f"{key}: {rule.signal} needs rewards that never train: name one for each "
                    "objective in guard.held_out, or give rules of your own without it"
                )
            if "raise_kl" in rule.do and not kl_coef:
                yield f"{key}: raise_kl multiplies algorithm.kl_coef, which is 0"
        yield from self._contradictions()
        missing = [name for name in names if self.held_out and name not in self.held_out]
        if missing:
            yield f"guard.held_out: checks no {', '.join(missing)}; name one for every objective"
        for name in self.held_out:
            if name not in names:
                yield f"guard.held_out.{name}: no such objective; known: {', '.join(names)}"

    def _contradictions(self) -> Iterator[str]:
        cases = [(rule.signal, rule.above, rule.below, rule.looks) for rule in self.rules]
        for number, case in enumerate(cases):
            first = cases.index(case)
            if first < number:
                yield (
                    f"guard.rules[{number}]: the case of rules[{first}], which does "
                    f"{', '.join(self.rules[first].do)}; one case is one rule"
                )
