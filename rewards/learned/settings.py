"""How a reward is learned from labels, and what is refused. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from rewards.errors import RewardError, nearest

Task = Literal["regression", "preference", "classification"]
Uncertainty = Literal["members", "laplace", "mahalanobis", "none"]
TASKS: tuple[Task, ...] = get_args(Task)
UNCERTAINTIES: tuple[Uncertainty, ...] = get_args(Uncertainty)
WORLD_TASKS: dict[str, Task] = {
    "aesthetic": "regression",
    "alignment": "regression",
    "preference": "preference",
    "unsafe": "classification",
}
"""What the embedded world's annotators are asked."""
WORLD_READS_PROMPT = ("alignment",)
MOST_NOISE = 0.5  # labels of which half are flipped say nothing


class RewardTrainingError(RewardError, ValueError):
    """Settings or labels from which no reward can be learned."""


@dataclass(frozen=True)
class RewardTraining:
    """How a head is fitted to labels; the defaults are those of the embedded world's proxies."""

    members: int = 5
    hidden: int = 64
    """Units of each member's hidden layer; 0: an affine head."""
    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 2.0
    bootstrap: bool = True
    """Each member on a resample of the labels of its own."""
    subspace: float = 1.0
    """Share of the features, in (0, 1], that each member reads, drawn anew for each."""
    shared_start: bool = False
    """Members start equal, so that their weights can be averaged afterwards."""
    average: bool = False
    """Members start equal, and their weights are averaged into one head (WARM)."""
    uncertainty: Uncertainty = "members"
    """`members`: their disagreement; `laplace`, `mahalanobis`: one matrix beside a single head."""
    held_out: float = 0.3
    """Share of the images that never train: half of them choose the step and calibrate, the other
    half measure."""
    patience: int = 5
    """Looks at the validation labels, one every 10 steps, without gain before training stops."""
    label_noise: float = 0.0
    """Share of all labels that is made wrong first, as worse annotators would: flipped, or for
    ratings exchanged among each other."""
    seed: int = 0

    def problems(self) -> list[str]:
        """Every rule that these settings break."""
        found = [*self._ranges(), *self._heads()]
        if self.uncertainty not in UNCERTAINTIES:
            hint = nearest(str(self.uncertainty), UNCERTAINTIES)
            found.append(f"uncertainty: unknown {self.uncertainty!r}; {hint}")
        return found

    def _ranges(self) -> list[str]:
        least = {"members": 1, "hidden": 0, "steps": 1, "patience": 1, "seed": 0}
        found = [
            f"{name}: must be at least {low}; got {getattr(self, name)}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        intervals = {
            "learning_rate": (0 < self.learning_rate < math.inf, "above 0 and finite"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            "subspace": (0 < self.subspace <= 1, "a share in (0, 1]"),
            "held_out": (0 < self.held_out < 1, "a share strictly between 0 and 1"),
            "label_noise": (0 <= self.label_noise < MOST_NOISE, f"a share in [0, {MOST_NOISE})"),
        }
        return found + [
            f"{name}: must be {rule}; got {getattr(self, name)}"
            for name, (holds, rule) in intervals.items()
            if not holds
        ]

    def _heads(self) -> list[str]:
        several = self.members > 1
        one = not several or self.average
        found = []
        if self.average and not several:
            found.append("average: there is one member, so nothing to average; members: 2 or more")
        shared = "average" if self.average else "shared_start"
        if (self.average or self.shared_start) and self.subspace < 1:
            found.append(
                f"{shared}: members that read different features share no initialisation, and "
                f"their average means nothing; write subspace: 1; got {self.subspace}"
            )
        if (self.average or self.shared_start) and several and not self.bootstrap:
            found.append(
                f"{shared}: without a bootstrap of their own members that start equal stay equal, "
                "and equal members protect from nothing; write bootstrap: true"
            )
        if self.uncertainty == "members" and one:
            found.append(
                "uncertainty: a single head has no members that disagree, and protects from "
                "nothing; write laplace, mahalanobis or none"
            )
        if self.uncertainty in ("laplace", "mahalanobis") and not one:
            found.append(
                f"uncertainty: {self.uncertainty} is of a single head, and there are "
                f"{self.members}; write members: 1 or average: true"
            )
        return found
