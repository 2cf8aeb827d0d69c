"""Constraints on mean rewards: their violation, their penalty, and multipliers by dual ascent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.expression import Sense


def violation(
    costs: Float[Tensor, " batch"],
    valid: Bool[Tensor, " batch"],
    threshold: float,
    sense: Sense,
) -> tuple[float, int]:
    """Mean excess over the threshold on valid samples, and how many there were.

    v = mean_{i valid} c_i - d  for "<=",  d - mean_{i valid} c_i  for ">=";  positive: violated

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
    thresholds: Sequence[float] | Float[Tensor, " constraint"],
    multipliers: Float[Tensor, " constraint"],
    senses: Sequence[Sense],
) -> Float[Tensor, " batch"]:
    """What constraints take from the utility of each sample.

    p_i = sum_j lambda_j s_j (c_ij - d_j) [i valid for j] B / n_j

    c: `costs` [B,J], differentiable; d: `thresholds` [J]; lambda >= 0: `multipliers` [J], constant
    here; s_j = +1 for "<=", -1 for ">="; n_j: valid samples of constraint j. The factor B / n_j
    makes the batch mean of p the Lagrangian term over *valid* samples, however few they are.
    Raises ValueError if there are not J of each.
    """
    counts = {len(thresholds), len(multipliers), len(senses), costs.shape[1]}
    if len(counts) > 1:
        raise ValueError(
            f"`costs` has {costs.shape[1]} constraints, but there are {len(thresholds)} "
            f"thresholds, {len(multipliers)} multipliers and {len(senses)} senses"
        )
    sign = costs.new_tensor([1.0 if sense == "<=" else -1.0 for sense in senses])
    limit = costs.new_tensor([float(threshold) for threshold in thresholds])
    scale = len(costs) / valid.sum(dim=0).clamp(min=1)
    # `where`, not a product: what does not apply may be anything, even NaN.
    excess = torch.where(valid, (costs - limit) * sign, 0.0) * scale
    return (excess * multipliers.detach().to(costs)).sum(dim=1)


class DualAscent:
    """Multipliers that grow while their constraint is violated, and shrink while it is slack.

    e_t = ema e_{t-1} + (1 - ema) v_t,  e_0 = 0;  lambda_t = clip(lambda_{t-1} + rate e_t, 0, cap)

    v_t: measured violations [J] in raw units; rate: `learning_rate` > 0, per update and unit of
    violation; `ema` in [0, 1) smooths, and its start at 0 warms up; `cap` > 0: a multiplier that
    stays there says that the constraint cannot be met. The state is two float64 tensors, kept in
    checkpoints. Raises ValueError for settings out of range.
    Source: dual ascent as in Khalafi et al., repository constrained_comp_align, whose rate is 1.
    """

    def __init__(
        self,
        constraints: int,
        learning_rate: float = 1.0,
        ema: float = 0.0,
        cap: float = 100.0,
    ) -> None:
        if constraints < 1 or not learning_rate > 0 or not 0 <= ema < 1 or not cap > 0:
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
        """Take one step of ascent; raises ValueError for another length or what is not finite."""
        measured = violations.detach().cpu().double()
        if measured.shape != self.multipliers.shape or not torch.isfinite(measured).all():
            raise ValueError(
                f"`violations` must be {len(self.multipliers)} finite numbers; got "
                f"{measured.tolist()}"
            )
        self.error = self.ema * self.error + (1 - self.ema) * measured
        self.multipliers = (self.multipliers + self.learning_rate * self.error).clamp(0, self.cap)

    @property
    def capped(self) -> Bool[Tensor, " constraint"]:
        """Which multipliers are at the cap: their constraint asks for more than there is."""
        return self.multipliers >= self.cap

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next update depends on."""
        return {"multipliers": self.multipliers, "error": self.error}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`; raises ValueError for another number of constraints."""
        for name in ("multipliers", "error"):
            if state[name].shape != self.multipliers.shape:
                raise ValueError(
                    f"`{name}` of {len(self.multipliers)} constraints expected; got "
                    f"{list(state[name].shape)}"
                )
        self.multipliers = state["multipliers"].double()
        self.error = state["error"].double()
