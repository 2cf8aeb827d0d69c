"""Keep the adapter of the best step that held every constraint, and say which cannot be held."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from morl.lora.store import save_adapter
from morl.training.assemble import Assembly
from morl.training.feasibility import PATIENCE
from morl.training.header import adapter_header
from morl.training.module import AlignmentModule
from morl.training.run import RunDirectory
from rewards.calibration import Calibration

BEST_FILE = "best_feasible.safetensors"
BEST_STEP_FILE = "best_feasible.json"


class InfeasibleWarning(UserWarning):
    """A multiplier is at its cap and stays there: its constraint cannot be met."""


class BestFeasible:
    """Watches a run's `Feasibility` after each update; the file is written with each checkpoint.

    A run without constraints keeps nothing. What was kept since the last checkpoint is lost with a
    process that is killed, and found again when the run is resumed from that checkpoint.
    """

    def __init__(
        self,
        run: RunDirectory,
        parts: Assembly,
        module: AlignmentModule,
        calibration: Calibration,
    ) -> None:
        self.run = run
        self.parts = parts
        self.module = module
        self.calibration = calibration
        self._kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def observe(self) -> None:
        """Keep the averaged adapter if this step is the best one; report what is stuck, once."""
        feasibility = self.module.utility.feasibility
        if feasibility is None:
            return
        if feasibility.improved:
            self._kept = self.module.ema.snapshot(), feasibility.best()
        stuck = feasibility.newly_stuck()
        step = feasibility.best_step
        kept = f"the best feasible step so far is {step}" if step else "no step was feasible so far"
        for j in stuck:
            constraint = self.parts.objective.constraints[j]
            warnings.warn(
                f"{constraint} looks infeasible: its multiplier has been at "
                f"objective.multiplier_cap = {self.parts.config.objective.multiplier_cap:g} for "
                f"{PATIENCE} updates and the running violation is "
                f"{feasibility.violations[j]:+.4g}; {kept}; relax it, raise the cap, or train "
                "longer",
                InfeasibleWarning,
                stacklevel=2,
            )

    def write(self) -> None:
        """Write what was kept since the last call, with the step it is of."""
        if self._kept is None:
            return
        adapter, best = self._kept
        with self.parts.adapter.using(adapter):
            header = adapter_header(self.parts, self.calibration)
            save_adapter(self.run.path / BEST_FILE, self.parts.adapter, header)
        self.run.write_json(BEST_STEP_FILE, best)
        self._kept = None
