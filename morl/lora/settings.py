"""What defines a weight-conditioned LoRA; free of torch, so that a check costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from morl.option import option

Core = Literal["constant", "linear", "mlp", "experts"]


@dataclass(frozen=True)
class AdapterConfig:
    """The weight-conditioned LoRA: Delta W(w) = strength * alpha / rank * B C(w) A."""

    rank: int = option(8, "rank of each low-rank update", low=1)
    alpha: float = option(8.0, "scale of the update; its factor is alpha / rank", above=0)
    targets: str | list[str] = option(
        "attention", 'layers that get an update: "attention", "attention+conv" or name endings'
    )
    core: Core = option("linear", "how C(w) depends on the weight vector; constant: not at all")
    specialisation: float = option(
        1.0,
        "how far each rank-one component starts out as one objective's own: 0 starts at C(w) = 1, "
        "1 at a mixture of experts (linear and mlp)",
        low=0,
        high=1,
    )
    strength: float = option(1.0, "factor on the whole update; 0 is the base model", low=0)
    init_from: str | None = option(None, "LoRA file to start from; C(w) then starts at 1")
    beside: str | None = option(None, "LoRA file that stays frozen beside the trained one")

    def budget_problems(self, budgets: int) -> list[str]:
        """Return what is wrong with these settings where `budgets` bounds slide."""
        if not budgets or self.core in ("linear", "mlp"):
            return []
        return [
            f"core: {self.core} gives a budget nothing to act on, so the bounds would not slide; "
            "use linear or mlp, or bound the constraints by one number each"
        ]

    def problems(self, objectives: int) -> list[str]:
        """Return what is wrong with these settings for K = `objectives`, each with its field."""
        found = []
        if self.core == "experts" and self.rank % max(1, objectives):
            below = self.rank // objectives * objectives
            near = f"{below} or {below + objectives}" if below else f"{objectives}"
            found.append(
                f"rank: must be a multiple of the {objectives} objectives for core 'experts', one "
                f"block each; got {self.rank} (nearest: {near})"
            )
        if self.init_from is not None and self.core == "experts" and objectives > 1:
            found.append(
                "init_from: core 'experts' has no weight-free start, so it cannot begin at a "
                "plain LoRA; use core 'linear', or `beside`"
            )
        return found
