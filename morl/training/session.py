"""One training run from start, or from its last checkpoint, to the finished adapter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from morl.algorithms.facts import facts_of
from morl.config.check import require
from morl.config.guidance import GuidanceNote, guidance_mismatch
from morl.config.tree import Config
from morl.lora.ema import AdapterEMA
from morl.lora.store import ADAPTER_FILE, save_adapter
from morl.prompts import load_prompts
from morl.training.assemble import Assembly, assemble, fit_calibration
from morl.training.best_feasible import BestFeasible
from morl.training.callbacks import KeepRun, LogMetrics, Strips
from morl.training.checkpoint import Checkpoint, load_checkpoint
from morl.training.collect import Parts
from morl.training.data import BatchPlan
from morl.training.guard import Guard
from morl.training.handling import Handling
from morl.training.header import adapter_header
from morl.training.module import AlignmentModule, OptimiserSettings
from morl.training.processes import first_process
from morl.training.regimes import collector_for
from morl.training.run import RunDirectory
from morl.training.signals import Stopped, stop_on_signals
from morl.training.state import read_calibration, read_statistics, restore, write_base
from morl.training.utility import TrainingUtility
from morl.weights import das_dennis
from rewards.calibration import Calibration
from rewards.multipliers import controller, per_vertex, radial, shared

IMPLICIT_PARTITIONS = 3
"""An implicit multiplier is a surface over the weight vectors with multiples of a third."""


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    allow_config_change: bool = False,
) -> Path:
    """Train the adapter of `config` into `out` and return the adapter's file.

    Raises ConfigError before anything loads; `Stopped` after a signal, once the step is finished
    and saved. A finished run that is resumed does nothing. Warns where the front will be judged at
    another guidance than the adapter learns at.
    """
    require(config)
    if first_process() and (mismatch := guidance_mismatch(config)):
        warnings.warn(mismatch, GuidanceNote, stacklevel=2)
    run = RunDirectory(out)
    with (
        _opened(run, config, command, resume, allow_config_change),
        stop_on_signals() as stop,
    ):
        checkpoint = load_checkpoint(run) if resume else None
        if checkpoint is not None and _finished(run, config, checkpoint):
            return run.path / ADAPTER_FILE
        parts = assemble(config)
        prompts = load_prompts(config.prompts.train, "train", config.training.seed)
        if checkpoint is None:
            calibration = calibrate(run, parts, prompts)
            first = 0
        else:
            calibration = Calibration.from_dict(checkpoint.state["calibration"])
            first = checkpoint.step
        module = build_module(parts, prompts, calibration)
        guard = Guard(run, parts, module, prompts) if config.guard.every else None
        if checkpoint is not None:
            restore(module, checkpoint, guard)
        elif guard is not None:
            guard.begin()
        if first_process():
            run.metrics.truncate_after(first)
            if guard is not None:
                guard.book.truncate_after(first)
        watching = [] if guard is None else [guard]
        best = BestFeasible(run, parts, module, calibration)
        keep = KeepRun(run, stop, module, calibration, config, best, guard)
        looking = [LogMetrics(run, module, config), Strips(run, parts, module, config)]
        callbacks = [*looking, *watching, keep]
        if guard is None or not guard.stopped:
            fit(config, module, callbacks, run.path, first)
        if not first_process():
            return run.path / ADAPTER_FILE
        if stop:
            raise Stopped(
                f"stopped and saved at step {keep.step}; continue with --resume", stop.exit_code
            )
        run.write_json("ledger.json", parts.ledger.to_dict())
        with module.ema.applied(parts.adapter):  # last: it makes the run a finished one
            save_adapter(run.path / ADAPTER_FILE, parts.adapter, adapter_header(parts, calibration))
    return run.path / ADAPTER_FILE


def _opened(
    run: RunDirectory, config: Config, command: str, resume: bool, allow_config_change: bool
) -> AbstractContextManager[None]:
    if not first_process():
        return nullcontext()
    return run.training(
        config, command=command, resume=resume, allow_config_change=allow_config_change
    )


def calibrate(run: RunDirectory, parts: Assembly, prompts: Sequence[str]) -> Calibration:
    """What the run needs to know of its base model's rewards; also fills `parts.bound.statistics`.

    The first process measures it and writes it down before it starts the others, which read it.
    Raises DataError in another process that was started before.
    """
    if first_process():
        calibration = fit_calibration(parts, prompts, parts.config.training.seed)
        write_base(run, calibration, parts.bound.statistics)
        return calibration
    parts.bound.statistics = read_statistics(run)
    return read_calibration(run)


def _finished(run: RunDirectory, config: Config, checkpoint: Checkpoint) -> bool:
    stopped = checkpoint.state.get("guard", {}).get("stopped", False)
    done = checkpoint.step >= config.training.steps or stopped
    return done and (run.path / ADAPTER_FILE).is_file()


def build_module(
    parts: Assembly, prompts: Sequence[str], calibration: Calibration
) -> AlignmentModule:
    """Join algorithm, collector, objective and adapter into the Lightning module."""
    config = parts.config
    facts = facts_of(config.algorithm.name)
    algorithm = _attribute(facts.source)(config.algorithm)
    utility = _utility(parts, calibration)
    collector = collector_for(
        facts.regime, algorithm, Parts(parts.sampler, parts.bound, utility, parts.ledger)
    )
    low, high = config.weights.bounds(config.names)
    plan = BatchPlan(
        prompts=prompts,
        objectives=len(config.names),
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        group_size=config.algorithm.group_size,
        weights_per_prompt=config.algorithm.weights_per_prompt,
        vertex=config.weights.vertex,
        edge=config.weights.edge,
        vertices_first=round(config.weights.vertices_first * config.training.steps),
        low=low,
        high=high,
        budgets=len(parts.objective.budgets),
        budget_ends=config.weights.budget_ends,
    )
    optimiser = OptimiserSettings(
        learning_rate=config.training.learning_rate,
        warmup=config.training.warmup,
        steps=config.training.steps,
        decay=config.training.decay,
        weight_decay=config.training.weight_decay,
        grad_clip=config.training.grad_clip,
    )
    ema = AdapterEMA(parts.adapter, config.training.ema)
    return AlignmentModule(parts.adapter, collector, plan, utility, optimiser, ema)


def _utility(parts: Assembly, calibration: Calibration) -> TrainingUtility:
    """Scalarisation, and the multipliers of the constraints where there are any."""
    settings, names = parts.config.objective, parts.config.names
    dependence = shared()
    if settings.multiplier_of_weights == "per_vertex":
        dependence = per_vertex(len(names))
    elif settings.multiplier_of_weights == "implicit":
        dependence = radial(das_dennis(len(names), IMPLICIT_PARTITIONS))
    if parts.objective.budgets:
        dependence = dependence.over_budgets()
    duals = None
    if parts.objective.constraints:
        duals = controller(
            settings.multiplier,
            dependence.parameters * len(parts.objective.constraints),
            rate=settings.dual_learning_rate,
            proportional=settings.multiplier_proportional,
            derivative=settings.multiplier_derivative,
            ema=settings.multiplier_ema,
            cap=settings.multiplier_cap,
            start=settings.multiplier_start,
        )
    handling = Handling(
        dependence, parts.bound.limits, settings.multiplier_warmup, settings.utility_weight
    )
    return TrainingUtility(
        parts.objective,
        calibration,
        duals,
        handling,
        normalize=settings.normalize,
        tail=settings.tail,
        aggregation=settings.aggregation,
    )


def fit(
    config: Config,
    module: AlignmentModule,
    callbacks: Sequence[Callback],
    log_dir: Path,
    first: int = 0,
) -> None:
    """Run Lightning over the steps from `first`; it logs to `log_dir` and keeps no checkpoints."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Steps are numbers made in place: there is nothing for loader workers to do.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # The base model stays in eval mode on purpose: sampling and replay must agree.
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
        # Lightning 2.6 asks torch 2.15's pytree a question that is about to be renamed.
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        # base.compile: dynamo looks at `.grad` of the gates, which are no leaves.
        warnings.filterwarnings("ignore", ".*grad attribute of a Tensor that is not a leaf.*")
        trainer = Trainer(
            accelerator="cpu" if config.training.accelerator == "cpu" else "auto",
            devices=config.training.devices,
            strategy="ddp" if config.training.devices > 1 else "auto",
            max_epochs=1,
            logger=TensorBoardLogger(log_dir, name="tensorboard", version=""),
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            callbacks=[TQDMProgressBar(refresh_rate=1), *callbacks],
        )
        steps: Any = range(first, config.training.steps)
        trainer.fit(module, DataLoader(steps, batch_size=None))


def _attribute(source: str) -> Any:
    module, _, name = source.partition(":")
    return getattr(import_module(module), name)
