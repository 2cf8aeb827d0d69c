"""Whether a run holds its constraints: the best step that did, and multipliers that are stuck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PATIENCE = 10
"""Updates in a row at the cap after which a constraint is called infeasible."""
DECAY = 0.9
"""Share of the running means that is kept at an update, as for the mean rewards."""


class Feasibility:
    """Running violation of each constraint and running utility; which step was best so far.

    m_t = decay m_{t-1} + (1 - decay) x_t, read as m_t / (1 - decay^t)

    A step is feasible if every running violation is <= 0; of the feasible steps the one with the
    highest running utility is best, of equals the last. Both lag by some 1 / (1 - decay) updates,
    as the averaged adapter does.
    """

    def __init__(self, constraints: int, decay: float = DECAY, patience: int = PATIENCE) -> None:
        self.decay = decay
        self.patience = patience
        self.updates = 0
        self.best_step = 0
        """Updates after which the best feasible adapter stood; 0: none was feasible yet."""
        self.best_utility = -float("inf")
        self.improved = False
        """Whether the last update is the best feasible one so far."""
        self._utility = 0.0
        self._violations = torch.zeros(constraints, dtype=torch.float64)
        self._capped_for = torch.zeros(constraints, dtype=torch.int64)
        self._told = torch.zeros(constraints, dtype=torch.bool)

    @property
    def violations(self) -> Float[Tensor, " constraint"]:
        """Running violation of each constraint in its unit, positive where it is violated."""
        return self._violations / self._seen_share

    @property
    def utility(self) -> float:
        """Running mean utility, before penalties."""
        return self._utility / self._seen_share

    def update(
        self,
        utility: float,
        violations: Float[Tensor, " constraint"],
        capped: Bool[Tensor, " constraint"],
    ) -> None:
        """Add one update: what its batch measured, and which multipliers are at their cap."""
        self.updates += 1
        self._utility = self.decay * self._utility + (1 - self.decay) * utility
        self._violations = self.decay * self._violations + (1 - self.decay) * violations
        self._capped_for = torch.where(capped, self._capped_for + 1, 0)
        feasible = bool((self.violations <= 0).all())
        self.improved = feasible and self.utility >= self.best_utility
        if self.improved:
            self.best_step, self.best_utility = self.updates, self.utility

    def newly_stuck(self) -> list[int]:
        """Constraints whose multiplier has been at its cap for `patience` updates, each once."""
        stuck = (self._capped_for >= self.patience) & ~self._told
        self._told = self._told | stuck
        return [int(j) for j in stuck.nonzero().flatten()]

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that later updates depend on."""
        return {
            "counts": torch.tensor([self.updates, self.best_step]),
            "utilities": torch.tensor([self._utility, self.best_utility], dtype=torch.float64),
            "violations": self._violations,
            "capped_for": self._capped_for,
            "told": self._told,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self.updates, self.best_step = (int(count) for count in state["counts"])
        self._utility, self.best_utility = (float(value) for value in state["utilities"])
        self._violations = state["violations"]
        self._capped_for = state["capped_for"]
        self._told = state["told"]

    def best(self) -> dict[str, Any]:
        """Plain form of the best step, right after it was found."""
        return {
            "step": self.best_step,
            "running_utility": self.best_utility,
            "running_violations": self.violations.tolist(),
        }

    @property
    def _seen_share(self) -> float:
        return 1 - self.decay**self.updates if self.updates else 1.0
