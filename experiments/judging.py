"""How a study judges adapters: the same prompts and noise for all, and looks along the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from morl.config.tree import Config
from morl.fronts.front import Front
from morl.prompts import load_prompts
from morl.randomness import generator
from morl.training.assemble import Assembly, assemble
from morl.training.evaluate import ScoredGrid
from morl.training.judge import Judge, Scores, judge_of, score_images
from morl.training.ledger import Ledger
from morl.training.module import AlignmentModule

JUDGING_SEED = 0
"""Draws the prompts and noise that judge in the end."""
Grid = Float[Tensor, "point objective"]


@dataclass(frozen=True)
class Exam:
    """What every adapter of a study answers; what the base model scores is measured once.

    Row i of `asked` and of `noise` is one image at every weight vector, method and seed, so all
    differences are paired. groups [P]: number of each image's prompt; prompts: all that were drawn.
    """

    config: Config
    judge: Judge
    prompts: tuple[str, ...]
    asked: tuple[str, ...]
    noise: Tensor
    groups: tuple[int, ...]
    base: dict[str, Scores]

    @classmethod
    def of(
        cls,
        config: Config,
        part: Literal["train", "held_out"],
        seed: int,
        images: int,
        avoid: Collection[str] = (),
    ) -> Exam:
        """Draw prompts of that part and noise from `seed`, and score the base model on them.

        avoid: prompts that are left out.
        """
        parts = assemble(config)
        source = config.prompts.train if part == "train" else config.prompts.held_out
        left_out = frozenset(avoid)
        prompts = tuple(p for p in load_prompts(source, part, seed) if p not in left_out)
        asked = tuple(prompts[i % len(prompts)] for i in range(images))
        groups = tuple(i % len(prompts) for i in range(images))
        noise = parts.sampler.noise(images, generator(seed, 0, 0, "exam noise"))
        judge = judge_of(config, parts, ())
        with torch.no_grad():
            base = score_images(for_judging(parts), judge, asked, None, noise)
        training = replace(config.training, seed=seed)
        return cls(replace(config, training=training), judge, prompts, asked, noise, groups, base)

    def first(self, images: int) -> Exam:
        """The first questions alone, answered by the base model already."""
        base = {
            space: Scores(s.rewards[:images], s.costs[:images], s.cost_valid[:images])
            for space, s in self.base.items()
        }
        return replace(
            self,
            asked=self.asked[:images],
            noise=self.noise[:images],
            groups=self.groups[:images],
            base=base,
        )

    def fronts(self, parts_at: Sequence[Assembly], weights: Grid) -> dict[str, Front]:
        """The front in each space; point n is answered by `parts_at[n]` at `weights[n]`."""
        return self.grid(parts_at, weights).fronts(self.config)

    @torch.no_grad()
    def grid(self, parts_at: Sequence[Assembly], weights: Grid) -> ScoredGrid:
        """What every point scores, costs of constraints included."""
        points = [
            score_images(for_judging(parts), self.judge, self.asked, w, self.noise)
            for parts, w in zip(parts_at, weights, strict=True)
        ]
        return ScoredGrid(weights, self.base, points, self.groups)


def for_judging(parts: Assembly) -> Assembly:
    """The same with evaluation's sampler settings, and a ledger beside that of training."""
    base, evaluation, ledger = parts.config.base, parts.config.evaluation, Ledger()
    sampler = replace(
        parts.sampler,
        ledger=ledger,
        steps=base.steps if evaluation.steps is None else evaluation.steps,
        guidance=base.guidance if evaluation.guidance is None else evaluation.guidance,
    )
    return replace(parts, sampler=sampler, ledger=ledger)


class Look(Callback):
    """Calls `look(step)` after some updates, while the adapter runs with its average."""

    def __init__(
        self, module: AlignmentModule, steps: Collection[int], look: Callable[[int], None]
    ) -> None:
        self.module = module
        self.steps = frozenset(steps)
        self.look = look

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = int(batch) + 1
        if step in self.steps:
            with self.module.ema.applied(self.module.adapter):
                self.look(step)
