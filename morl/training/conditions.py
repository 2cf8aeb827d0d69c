"""What a conditioning row holds: the weight vector, then where each budget lies in its range."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rewards.objective import Objective


@dataclass(frozen=True)
class Conditions:
    """Reads the rows [B, K + budgets] of a batch; without budgets a row is a weight vector.

    columns: of each constraint, that of its budget's position in a row, or None without one.
    """

    objectives: int
    columns: tuple[int | None, ...] = ()

    @classmethod
    def of(cls, objective: Objective) -> Conditions:
        """Rows hold the budgets in the order of their constraints."""
        count, columns = len(objective.names), []
        for constraint in objective.constraints:
            columns.append(None if constraint.budget is None else count)
            count += constraint.budget is not None
        return cls(len(objective.names), tuple(columns))

    @property
    def budgets(self) -> int:
        """How many bounds slide."""
        return sum(column is not None for column in self.columns)

    def weights(self, rows: Float[Tensor, "batch condition"]) -> Float[Tensor, "batch objective"]:
        """The weight vector of each sample."""
        return rows[:, : self.objectives]

    def positions(
        self, rows: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch constraint"]:
        """Where each sample's own bound lies in its range; 0 for a constraint without one."""
        found = rows.new_zeros(len(rows), len(self.columns))
        for j, column in enumerate(self.columns):
            if column is not None:
                found[:, j] = rows[:, column]
        return found
