"""Constraints on mean rewards: their violation, and multipliers by dual ascent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Sense = Literal["<=", ">="]


def violation(
    costs: Float[Tensor, " batch"],
    valid: Bool[Tensor, " batch"],
    threshold: float,
    sense: Sense,
) -> tuple[float, int]:
    """Mean excess over the threshold on valid samples, and how many there were.

    v = mean_{i valid} c_i - d  for "<=",  d - mean c_i  for ">=";  positive: violated

    c_i: `costs` [B], raw units; d: `threshold`. Without a valid sample v is 0 and the count 0.
    """
    count = int(valid.sum())
    if count == 0:
        return 0.0, 0
    excess = float(costs.detach()[valid].double().mean()) - threshold
    return (excess if sense == "<=" else -excess), count


def lagrangian_penalty(
    costs: Float[Tensor, "batch constraint"],
    valid: Bool[Tensor, "batch constraint"],
    thresholds: Sequence[float],
    multipliers: Float[Tensor, " constraint"],
    senses: Sequence[Sense],
) -> Float[Tensor, " batch"]:
    """What constraints take from the utility of each sample.

    p_i = sum_j lambda_j s_j (c_ij - d_j) [i valid for j] B / n_j

    c: `costs` [B,J], differentiable; s_j = +1 for "<=", -1 for ">="; n_j: valid samples. The
    factor B / n_j makes the batch mean of p the Lagrangian term over *valid* samples, however few
    they are. Multipliers are constants.
    """
    sign = torch.tensor([1.0 if sense == "<=" else -1.0 for sense in senses]).to(costs)
    limit = torch.tensor(list(thresholds)).to(costs)
    weight = valid.to(costs.dtype)
    scale = costs.shape[0] / weight.sum(dim=0).clamp(min=1)
    return ((costs - limit) * sign * weight * scale * multipliers.detach().to(costs)).sum(dim=1)


class DualAscent:
    """Multipliers that grow while their constraint is violated, and shrink while it is slack.

    e_t = ema e_{t-1} + (1 - ema) v_t;  lambda_t = clip(lambda_{t-1} + rate e_t, 0, cap)

    rate: `learning_rate` > 0 per update and unit of violation; `ema` in [0, 1); `cap` > 0: a
    multiplier that stays there says that the constraint cannot be satisfied. The state is two
    tensors, kept in checkpoints. Source: constrained_comp_align's dual step (dual ascent).
    """

    def __init__(
        self,
        constraints: int,
        learning_rate: float = 1.0,
        ema: float = 0.0,
        cap: float = 100.0,
    ) -> None:
        if constraints < 1 or learning_rate <= 0 or not 0 <= ema < 1 or cap <= 0:
            raise ValueError(
                "dual ascent needs constraints >= 1, learning_rate > 0, 0 <= ema < 1, cap > 0; "
                f"got {constraints}, {learning_rate}, {ema}, {cap}"
            )
        self.learning_rate = learning_rate
        self.ema = ema
        self.cap = cap
        self.multipliers = torch.zeros(constraints, dtype=torch.float64)
        self.error = torch.zeros(constraints, dtype=torch.float64)

    def update(self, violations: Float[Tensor, " constraint"]) -> None:
        """Take one step of ascent on the measured violations."""
        self.error = self.ema * self.error + (1 - self.ema) * violations.detach().cpu().double()
        step = self.multipliers + self.learning_rate * self.error
        self.multipliers = step.clamp(0, self.cap)

    def state_dict(self) -> dict[str, Tensor]:
        return {"multipliers": self.multipliers, "error": self.error}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.multipliers, self.error = state["multipliers"], state["error"]
