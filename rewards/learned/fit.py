"""The one loop that fits heads to labels: each member on its own bootstrap, all at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.learned.head import EnsembleHead

CHECK_EVERY = 10  # steps between two looks at the validation labels

Loss = Callable[[Float[Tensor, "batch member"]], Float[Tensor, "item member"]]
"""From the members' outputs on some images to their loss on each label of these images."""


@dataclass(frozen=True)
class Descent:
    """Full-batch AdamW on a cosine schedule: features are frozen, so that a step is cheap."""

    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 2.0
    patience: int = 5
    """Looks at the validation labels without a better member before it stops."""
    bootstrap: bool = True
    """Each member on a resample of the labels of its own; False: all on every label once."""


@dataclass(frozen=True)
class Validation:
    """Labels that choose the step, never a gradient: inputs of the head, and the loss on them."""

    features: Float[Tensor, "batch feature"]
    loss_of: Loss


class _Best:
    """Each member's parameters where its own validation loss was smallest.

    Members share no parameter, and the first axis of every parameter numbers them.
    """

    def __init__(self, head: EnsembleHead, validation: Validation) -> None:
        self._head, self._validation = head, validation
        self._loss = torch.full((head.members,), torch.inf)
        self._step = torch.zeros(head.members, dtype=torch.long)
        self._kept = [p.detach().clone() for p in head.parameters()]

    @torch.no_grad()
    def look(self, step: int) -> bool:
        """Keep what is better than before; whether any member was."""
        loss = self._validation.loss_of(self._head(self._validation.features)).mean(0)
        better = loss < self._loss
        self._loss = torch.where(better, loss, self._loss)
        self._step[better] = step
        for kept, now in zip(self._kept, self._head.parameters(), strict=True):
            kept[better] = now[better]
        return bool(better.any())

    @torch.no_grad()
    def restore(self) -> list[int]:
        """Put the kept parameters back; returns each member's step."""
        for kept, now in zip(self._kept, self._head.parameters(), strict=True):
            now.copy_(kept)
        return self._step.tolist()


def fit_members(
    head: EnsembleHead,
    features: Float[Tensor, "batch feature"],
    loss_of: Loss,
    descent: Descent,
    generator: torch.Generator,
    validation: Validation | None = None,
) -> list[int]:
    """Minimise each member's mean loss over its own bootstrap of the items, in place.

    With `validation` each member keeps the parameters of its best look, and training stops after
    `descent.patience` looks at which no member was better. Returns each member's step.
    """
    with torch.no_grad():
        items, members = loss_of(head(features)).shape
    counts = torch.ones(items, members)
    if descent.bootstrap:
        draws = torch.randint(items, (members, items), generator=generator)
        counts = torch.stack([torch.bincount(d, minlength=items) for d in draws], 1)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=descent.learning_rate, weight_decay=descent.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, descent.steps)
    best = None if validation is None else _Best(head, validation)
    worse = 0
    for step in range(1, descent.steps + 1):
        loss = (counts * loss_of(head(features))).sum() / items
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if best is not None and (step % CHECK_EVERY == 0 or step == descent.steps):
            worse = 0 if best.look(step) else worse + 1
            if worse == descent.patience:
                break
    return [descent.steps] * members if best is None else best.restore()
