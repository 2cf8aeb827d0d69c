"""The one Lightning module: asks its collector for losses, steps the adapter, reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from morl.algorithms.aggregation import add_gradient, aggregate, jacobian_rows
from morl.algorithms.interface import LossOutput
from morl.errors import NumericalError, ResourceError
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.ema import AdapterEMA
from morl.randomness import generator
from morl.training.collect import Collector, Draws
from morl.training.data import BatchPlan, TrainingBatch
from morl.training.utility import TrainingUtility

SKIPS_BEFORE_STOP = 3


@dataclass(frozen=True)
class OptimiserSettings:
    """learning_rate > 0 after `warmup` steps; grad_clip: bound on the total gradient norm.

    The rate falls in a straight line over the last `decay` of `steps`, and would reach 0 after
    them.
    """

    learning_rate: float
    warmup: int
    steps: int
    decay: float
    weight_decay: float
    grad_clip: float

    def rate(self, step: int) -> float:
        """The learning rate of the update with this number, from 0."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        falling = self.decay * self.steps
        left = min(1.0, max(0.0, (self.steps - step) / falling)) if falling else 1.0
        return self.learning_rate * rising * left


class AlignmentModule(LightningModule):
    """Manual optimisation of the adapter's parameters; the step number comes with the batch."""

    def __init__(
        self,
        adapter: ConditionedAdapter,
        collector: Collector,
        plan: BatchPlan,
        utility: TrainingUtility,
        optimiser: OptimiserSettings,
        ema: AdapterEMA,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.denoiser = adapter.denoiser
        self.adapter = adapter
        self.collector = collector
        self.plan = plan
        self.utility = utility
        self.settings = optimiser
        self.ema = ema
        self.metrics: dict[str, float] = {}
        self.skipped_in_a_row = 0
        self._updated = False
        self._rows: Tensor | None = None
        """Gradients of the objectives so far in this update, where they are aggregated."""
        self.optimiser_state: dict[str, Any] | None = None
        """Optimiser state of a checkpoint, loaded as soon as Lightning has made the optimiser."""

    def on_fit_start(self) -> None:
        if self.optimiser_state is not None:
            self.optimiser.optimizer.load_state_dict(self.optimiser_state)

    @property
    def optimiser(self) -> LightningOptimizer:
        """The one optimiser, once Lightning has made it."""
        found = self.optimizers()
        if isinstance(found, list):
            raise TypeError(f"one optimiser is configured; Lightning returned {len(found)}")
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.adapter.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )

    def training_step(self, batch: int, batch_idx: int) -> None:
        while (metrics := self._attempt(batch)) is None:
            self._make_room()
        observation = self.collector.observation().gathered(self._all_ranks)
        metrics |= observation.summary(self.utility.objective)
        metrics |= self.utility.observe(observation)
        self.collector.after_update(batch)
        self.metrics = metrics

    def _attempt(self, batch: int) -> dict[str, float] | None:
        """Take one step; None if memory ran out and it can be tried again from its start.

        Its draws are functions of the step, so it would see the same images. Raises ResourceError
        where it would not be the same step: after an update, or on one of several ranks.
        """
        try:
            return self._learn(batch)
        except torch.OutOfMemoryError as error:
            if self._updated or self.trainer.world_size > 1:
                where = "after an update" if self._updated else "on one of several processes"
                raise ResourceError(
                    f"out of memory in the middle of a step, {where}, so it cannot be tried again: "
                    f"go on with --resume and a smaller training.micro_batch ({error})"
                ) from error
        # Outside of the handler: the exception holds on to everything that filled the memory.
        return None

    def _make_room(self) -> None:
        self.collector.sampler.micro.halve(self.plan.batch_size)
        self.optimiser.zero_grad(set_to_none=True)
        self._rows = None
        torch.cuda.empty_cache()

    def _learn(self, batch: int) -> dict[str, float]:
        """Take the updates of one step; return what they report."""
        self._updated = False
        questions = self.plan.batch(batch, self.global_rank, self.trainer.world_size)
        metrics: dict[str, float] = {}
        for micro in self.collector.collect(
            questions, Draws(self.plan.seed, batch, self.global_rank)
        ):
            with self._synchronised(micro.update):
                passes = self._backward(micro.output)
            self.collector.ledger.backwards += micro.gradient_samples * passes
            metrics.update({name: float(value) for name, value in micro.output.terms.items()})
            if micro.update:
                metrics |= self._aggregated(questions)
                metrics["grad_norm"] = self._update(batch)
                self._updated = True
        return metrics

    def _backward(self, output: LossOutput) -> int:
        """Accumulate the gradient, or that of each objective; returns how many passes it took."""
        if output.objectives is None:
            self.manual_backward(output.loss)
            return 1
        rows = jacobian_rows(output.objectives, self.adapter.parameters())
        self._rows = rows if self._rows is None else self._rows + rows
        if not output.loss.requires_grad:  # neither a constraint nor a pull to the base
            return len(rows)
        self.manual_backward(output.loss)
        return len(rows) + 1

    def _aggregated(self, questions: TrainingBatch) -> dict[str, float]:
        """Add the aggregate of the objectives' gradients to that of the rest, for the update."""
        if self._rows is None:
            return {}
        draws = generator(self.plan.seed, questions.step, self.global_rank, "aggregation")
        weights = self.utility.conditions.weights(questions.weights).mean(dim=0)
        gradient = aggregate(self.utility.aggregation, self._rows, weights, draws)
        plain = self._rows.sum(dim=0)
        add_gradient(self.adapter.parameters(), gradient)
        self._rows = None
        return {"aggregation_cosine": float(cosine_similarity(gradient, plain, dim=0))}

    def _update(self, step: int) -> float:
        optimiser = self.optimiser
        rate = self.settings.rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        norm = clip_grad_norm_(self.adapter.parameters(), self.settings.grad_clip)
        if torch.isfinite(norm):
            optimiser.step()
            self.ema.update(self.adapter)
            self.skipped_in_a_row = 0
        else:
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= SKIPS_BEFORE_STOP:
                raise NumericalError(
                    f"the gradient was not finite at {SKIPS_BEFORE_STOP} steps in a row, the last "
                    f"one step {step}: lower `training.learning_rate` (now "
                    f"{self.settings.learning_rate}) or check the rewards; the last checkpoint is "
                    "intact"
                )
        optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def _all_ranks(self, values: Tensor) -> Tensor:
        gathered = self.all_gather(values)
        if not isinstance(gathered, Tensor):
            raise TypeError(f"a tensor was gathered; got {type(gathered).__name__}")
        return gathered

    @contextmanager
    def _synchronised(self, update: bool) -> Iterator[None]:
        """Ranks exchange gradients once an update, not once a micro-batch."""
        model = self.trainer.model
        if isinstance(model, DistributedDataParallel) and not update:
            with model.no_sync():
                yield
        else:
            yield
