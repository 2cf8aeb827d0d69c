"""What happens around the steps: log, image strips, checkpoint, stop on request."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from morl.config.tree import Config
from morl.prompts import load_prompts
from morl.randomness import generator
from morl.training.assemble import Assembly
from morl.training.best_feasible import BestFeasible
from morl.training.checkpoint import save_checkpoint
from morl.training.guard import Guard
from morl.training.module import AlignmentModule
from morl.training.run import RunDirectory
from morl.training.signals import StopRequest
from morl.training.state import collect_state
from morl.training.strips import save_strip
from morl.weights import edge_path
from rewards.calibration import Calibration

STRIP_POINTS = 7
SHOWN_IN_BAR = ("reward/", "uncertainty/", "violation/", "multiplier/", "kl", "images_per_second")


class LogMetrics(Callback):
    """Writes metrics.jsonl after every step."""

    def __init__(self, run: RunDirectory, module: AlignmentModule, config: Config) -> None:
        self.run = run
        self.module = module
        self.config = config
        self._started = time.monotonic()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = int(batch) + 1
        seconds = time.monotonic() - self._started
        images = self.config.training.batch_size * trainer.world_size
        metrics = {
            **self.module.metrics,
            "seconds": seconds,
            "images": step * images,
            "images_per_second": images / seconds,
        }
        for name, value in metrics.items():
            pl_module.log(name, value, prog_bar=name.startswith(SHOWN_IN_BAR), batch_size=1)
        if trainer.is_global_zero:
            self.run.metrics.append(step, metrics)


class Strips(Callback):
    """Saves image strips along each edge of the simplex, at prompts and noise that never change."""

    def __init__(
        self, run: RunDirectory, parts: Assembly, module: AlignmentModule, config: Config
    ) -> None:
        self.run = run
        self.parts = parts
        self.module = module
        self.config = config
        self.prompts = load_prompts(config.prompts.held_out, "held_out", config.training.seed)

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = int(batch) + 1
        last = step == self.config.training.steps
        if not trainer.is_global_zero or (step % self.config.training.sample_every and not last):
            return
        with self.module.ema.applied(self.parts.adapter):
            self._save(step)

    def _save(self, step: int) -> None:
        names = self.config.names
        edges = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
        for number, (i, j) in enumerate(edges):
            weights = edge_path(len(names), i, j, STRIP_POINTS)
            sampler = self.parts.sampler
            noise = sampler.noise(1, generator(self.config.training.seed, 0, 0, f"strip {number}"))
            prompt = self.prompts[number % len(self.prompts)]
            final = sampler.sample(
                [prompt] * STRIP_POINTS, weights, noise.expand(STRIP_POINTS, -1, -1, -1)
            )
            save_strip(self.run, step, names[i], names[j], prompt, weights, sampler.decode(final))


class KeepRun(Callback):
    """Writes checkpoints when due, and obeys stop requests.

    It must come last: a step is done once its checkpoint is there, and whatever else belongs to
    the step would be lost with a process that is killed in between.
    """

    def __init__(
        self,
        run: RunDirectory,
        stop: StopRequest,
        module: AlignmentModule,
        calibration: Calibration,
        config: Config,
        best: BestFeasible,
        guard: Guard | None = None,
    ) -> None:
        self.run = run
        self.stop = stop
        self.best = best
        self.module = module
        self.calibration = calibration
        self.config = config
        self.guard = guard
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning's own SIGTERM handler would end the run in mid-step, with exit code 0.
        self.stop.listen()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.step = int(batch) + 1
        stopping = trainer.strategy.reduce_boolean_decision(bool(self.stop), all=False)
        due = self.step % self.config.training.checkpoint_every == 0
        last = self.step == self.config.training.steps or trainer.should_stop
        if trainer.is_global_zero:
            self.best.observe()
        if trainer.is_global_zero and (due or stopping or last):
            self.best.write()
            state = collect_state(self.module, self.calibration, self.guard)
            save_checkpoint(self.run, self.step, *state)
        if stopping:
            trainer.should_stop = True
