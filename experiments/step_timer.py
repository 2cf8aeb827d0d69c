"""Time every step of a training, and something else after each: pairs on the same machine state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from experiments.interleaved import seconds


class StepTimer(Callback):
    """Seconds of each step, and of `after`, which runs with gradients once the step is done."""

    def __init__(self, after: Callable[[], object]) -> None:
        self.steps: list[float] = []
        self.others: list[float] = []
        self._after = after
        self._start = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.steps.append(time.perf_counter() - self._start)
        with torch.enable_grad():
            self.others.append(seconds(self._after))
