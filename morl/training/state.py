"""What a checkpoint holds of a run, and how a run takes it up again, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from morl.errors import DataError
from morl.training.checkpoint import Checkpoint
from morl.training.guard import Guard
from morl.training.module import AlignmentModule
from morl.training.run import RunDirectory
from morl.training.state_tree import join, split
from rewards.calibration import Calibration

BASE_FILE = "base.json"


def collect_state(
    module: AlignmentModule, calibration: Calibration, guard: Guard | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by group, and plain values: everything that the next step depends on.

    Random numbers are not among them: every draw is a function of (seed, step, rank, purpose).
    """
    moments, skeleton = split(module.optimiser.state_dict())
    duals, feasibility = module.utility.duals, module.utility.feasibility
    groups = {
        "adapter": module.adapter.state_dict(),
        "ema": module.ema.state_dict(),
        "optimizer": moments,
        "means": module.utility.means.state_dict(),
        "collector": module.collector.state_dict(),
        "multipliers": {} if duals is None else duals.state_dict(),
        "feasibility": {} if feasibility is None else feasibility.state_dict(),
    }
    state = {
        "optimizer": skeleton,
        "calibration": calibration.to_dict(),
        "statistics": module.collector.objective.statistics,
        "ledger": module.collector.ledger.to_dict(),
    }
    if guard is not None:
        watched = guard.state_dict()
        groups["guard"], state["guard"] = watched["tensors"], watched["plain"]
    return {name: group for name, group in groups.items() if group}, state


def write_base(
    run: RunDirectory, calibration: Calibration, statistics: Mapping[str, tuple[float, float]]
) -> None:
    """Keep what was learned of the base model, for every later evaluation of the run."""
    values = {"calibration": calibration.to_dict(), "statistics": statistics}
    run.write_json(BASE_FILE, values)


def read_statistics(run: RunDirectory) -> dict[str, tuple[float, float]]:
    """What `calibrated()` and `ensemble()` inside the run's expressions know of the base model."""
    stored = _read_base(run)["statistics"]
    return {name: (mean, std) for name, (mean, std) in stored.items()}


def read_calibration(run: RunDirectory) -> Calibration:
    """Mean and spread of each objective on the base model, as the run measured them."""
    return Calibration.from_dict(_read_base(run)["calibration"])


def _read_base(run: RunDirectory) -> dict[str, Any]:
    path = run.path / BASE_FILE
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; the first process of a run writes it before it starts the "
            "others: start with `morl train` alone, which starts `training.devices` of them"
        )
    values: dict[str, Any] = json.loads(path.read_bytes())
    return values


def restore(module: AlignmentModule, checkpoint: Checkpoint, guard: Guard | None = None) -> None:
    """Load a checkpoint into a freshly built module, and into its guard.

    The optimiser exists only once Lightning has set it up: its state waits in the module.
    """
    tensors = checkpoint.tensors
    module.adapter.load_state_dict(tensors["adapter"])
    module.ema.load_state_dict(tensors["ema"])
    module.utility.means.load_state_dict(tensors["means"])
    module.collector.load_state_dict(tensors.get("collector", {}))
    if module.utility.duals is not None:
        module.utility.duals.load_state_dict(tensors["multipliers"])
    # Checkpoints from before feasibility was watched have none; it is then watched from here on.
    if module.utility.feasibility is not None and "feasibility" in tensors:
        module.utility.feasibility.load_state_dict(tensors["feasibility"])
    module.collector.ledger.load_dict(checkpoint.state["ledger"])
    statistics = checkpoint.state["statistics"].items()
    module.collector.objective.statistics = {name: (mean, std) for name, (mean, std) in statistics}
    if guard is not None:
        guard.load_state_dict({"tensors": tensors["guard"], "plain": checkpoint.state["guard"]})
    # A guard that rolled back has left the optimiser without moments.
    module.optimiser_state = join(tensors.get("optimizer", {}), checkpoint.state["optimizer"])
