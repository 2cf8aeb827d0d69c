"""What drives multipliers by measured violations: dual ascent, nuPI and PID, or nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Controller(ABC):
    """Multipliers [N] in [0, cap] that follow the violations measured after each update.

    The state is the float64 tensors [N] that `kept` names, for checkpoints. `update` is given the
    excess over each bound in the constraint's own unit, positive where it is violated.
    """

    kept: ClassVar[tuple[str, ...]]

    def __init__(self, constraints: int, cap: float, start: float = 0.0) -> None:
        self.cap = cap
        self.multipliers = torch.full((constraints,), start, dtype=torch.float64)

    def update(self, violations: Float[Tensor, " constraint"]) -> None:
        """Take one step; raises ValueError for another length or what is not finite."""
        measured = violations.detach().cpu().double()
        if measured.shape != self.multipliers.shape or not torch.isfinite(measured).all():
            raise ValueError(
                f"`violations` must be {len(self.multipliers)} finite numbers; got "
                f"{measured.tolist()}"
            )
        self._follow(measured)

    @abstractmethod
    def _follow(self, measured: Float[Tensor, " constraint"]) -> None:
        """Set the multipliers, and replace (never change in place) what `kept` names."""

    @property
    def capped(self) -> Bool[Tensor, " constraint"]:
        """Which multipliers are at the cap: their constraint asks for more than there is."""
        return self.multipliers >= self.cap

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next update depends on."""
        return {name: vars(self)[name] for name in self.kept}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`; raises ValueError for another number of constraints."""
        for name in self.kept:
            if state[name].shape != self.multipliers.shape:
                raise ValueError(
                    f"`{name}` of {len(self.multipliers)} constraints expected; got "
                    f"{list(state[name].shape)}"
                )
        for name in self.kept:
            setattr(self, name, state[name].double())


class Fixed(Controller):
    """Multipliers that never move: a penalty. Nothing says that the constraint is then met."""

    kept = ("multipliers",)

    def __init__(self, constraints: int, start: float, cap: float = 100.0) -> None:
        _require(constraints, cap, start=start)
        super().__init__(constraints, cap, start)

    def _follow(self, measured: Float[Tensor, " constraint"]) -> None:
        del measured

    @property
    def capped(self) -> Bool[Tensor, " constraint"]:
        """None: whatever they are, they say nothing of the constraint."""
        return torch.zeros(len(self.multipliers), dtype=torch.bool)


class DualAscent(Controller):
    """Multipliers that grow while their constraint is violated, and shrink while it is slack.

    e_t = ema e_{t-1} + (1 - ema) v_t,  e_0 = 0;  lambda_t = clip(lambda_{t-1} + rate e_t, 0, cap)

    v_t: measured violations [J] in raw units; rate: `learning_rate` > 0, per update and unit of
    violation; `ema` in [0, 1) smooths, and its start at 0 warms up; `cap` > 0: a multiplier that
    stays there says that the constraint cannot be met; `start` in [0, cap]: the multiplier before
    the first update. It overshoots: at the moment a violation is met, lambda is at its largest.
    The state is two float64 tensors, kept in checkpoints. Raises ValueError for settings out of
    range.
    Source: dual ascent as in Khalafi et al., repository constrained_comp_align, whose rate is 1.
    """

    kept = ("multipliers", "error")

    def __init__(
        self,
        constraints: int,
        learning_rate: float = 1.0,
        ema: float = 0.0,
        cap: float = 100.0,
        start: float = 0.0,
    ) -> None:
        if constraints < 1 or not learning_rate > 0 or not 0 <= ema < 1 or not cap > 0:
            raise ValueError(
                "dual ascent needs constraints >= 1, learning_rate > 0, 0 <= ema < 1, cap > 0; "
                f"got {constraints}, {learning_rate}, {ema}, {cap}"
            )
        super().__init__(constraints, cap, start)
        self.learning_rate = learning_rate
        self.ema = ema
        self.error = torch.zeros(constraints, dtype=torch.float64)

    def _follow(self, measured: Float[Tensor, " constraint"]) -> None:
        self.error = self.ema * self.error + (1 - self.ema) * measured
        self.multipliers = (self.multipliers + self.learning_rate * self.error).clamp(0, self.cap)


class NuPI(Controller):
    """Dual ascent that also answers to the change of the violation, and so brakes in time.

    lambda_{t+1} = clip(lambda_t + K_I e_t + K_P (xi_t - xi_{t-1}), 0, cap)
    xi_t = nu xi_{t-1} + (1 - nu) e_t,  xi_0 = e_0

    e_t: measured violations [N]; K_I: `integral` > 0 and K_P: `proportional` >= 0, multiplier per
    unit of violation; nu: `ema` in [0, 1). The average starts at the first error, so the first
    update is that of dual ascent: starting it at 0 lets the whole first violation in through K_P.
    While a violation falls the second term is negative, long before the violation is met. K_P = 0
    is dual ascent without smoothing. Raises ValueError for settings out of range.
    Source: Sohrabi et al., arXiv 2406.04558, algorithm 1, with the start that the documentation of
    cooper 1.0.1 states (its code stores 0 instead).
    """

    kept = ("multipliers", "average", "updates")

    def __init__(
        self,
        constraints: int,
        integral: float = 1.0,
        proportional: float = 5.0,
        ema: float = 0.0,
        cap: float = 100.0,
        start: float = 0.0,
    ) -> None:
        _require(constraints, cap, ema, integral, proportional=proportional, start=start)
        super().__init__(constraints, cap, start)
        self.integral = integral
        self.proportional = proportional
        self.ema = ema
        self.average = torch.zeros_like(self.multipliers)
        self.updates = torch.zeros_like(self.multipliers)

    def _follow(self, measured: Float[Tensor, " constraint"]) -> None:
        before = torch.where(self.updates == 0, measured, self.average)
        self.average = self.ema * before + (1 - self.ema) * measured
        step = self.integral * measured + self.proportional * (self.average - before)
        self.multipliers = (self.multipliers + step).clamp(0, self.cap)
        self.updates = self.updates + 1


class PID(Controller):
    """A multiplier that is computed anew from the violation, its sum and its growth.

    lambda_t = clip(I_t + K_P P_t + K_D D_t, 0, cap),  I_t = clip(I_{t-1} + K_I e_t, 0, cap)
    P_t = a P_{t-1} + (1 - a) e_t,  P_0 = e_0,  D_t = max(0, P_t - P_{t-1}),  D_0 = 0

    e_t: measured violations [N]; K_I: `integral` > 0, K_P: `proportional` >= 0, K_D: `derivative`
    >= 0, multiplier per unit of violation; a: `ema` in [0, 1). Only the sum accumulates: once the
    constraint is slack, lambda falls at once by K_P times the slack. The growth is 0 at the start,
    where omnisafe takes the whole first cost for growth. Raises ValueError for settings out of
    range.

    With K_D = 0 this is the augmented Lagrangian for an inequality: lambda = [I + c e]_+ is the
    gradient of its quadratic penalty (c / 2) [e + I / c]_+^2 with c = K_P, taken at the violation
    measured after the update before, so that it does not depend on how a batch is divided.
    Source: Stooke et al., arXiv 2007.03964, algorithm 2.
    """

    kept = ("multipliers", "total", "average", "updates")

    def __init__(
        self,
        constraints: int,
        integral: float = 1.0,
        proportional: float = 5.0,
        derivative: float = 0.0,
        ema: float = 0.0,
        cap: float = 100.0,
        start: float = 0.0,
    ) -> None:
        gains = {"proportional": proportional, "derivative": derivative, "start": start}
        _require(constraints, cap, ema, integral, **gains)
        super().__init__(constraints, cap, start)
        self.integral = integral
        self.proportional = proportional
        self.derivative = derivative
        self.ema = ema
        self.total = self.multipliers.clone()
        self.average = torch.zeros_like(self.multipliers)
        self.updates = torch.zeros_like(self.multipliers)

    def _follow(self, measured: Float[Tensor, " constraint"]) -> None:
        before = torch.where(self.updates == 0, measured, self.average)
        self.average = self.ema * before + (1 - self.ema) * measured
        # Bounded itself, or a long violation would be paid back for as long again.
        self.total = (self.total + self.integral * measured).clamp(0, self.cap)
        growth = (self.average - before).clamp(min=0)
        wanted = self.total + self.proportional * self.average + self.derivative * growth
        self.multipliers = wanted.clamp(0, self.cap)
        self.updates = self.updates + 1


def _require(
    constraints: int, cap: float, ema: float = 0.0, integral: float = 1.0, **others: float
) -> None:
    wrong = [name for name, value in others.items() if not 0 <= value < float("inf")]
    if constraints < 1 or not cap > 0 or not 0 <= ema < 1 or not integral > 0 or wrong:
        told = ", ".join(f"{name} {value}" for name, value in others.items())
        raise ValueError(
            "multipliers need constraints >= 1, cap > 0, 0 <= ema < 1, integral > 0 and all else "
            f">= 0; got {constraints}, {cap}, {ema}, {integral}, {told}"
        )
