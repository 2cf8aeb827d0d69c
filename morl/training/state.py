"""What a checkpoint holds of a run, and how a run takes it up again, bit for bit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from morl.training.checkpoint import Checkpoint
from morl.training.module import AlignmentModule
from morl.training.state_tree import join, split
from rewards.calibration import Calibration


def collect_state(
    module: AlignmentModule, calibration: Calibration
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by group, and plain values: everything that the next step depends on.

    Random numbers are not among them: every draw is a function of (seed, step, rank, purpose).
    """
    moments, skeleton = split(module.optimizers().state_dict())
    duals = module.utility.duals
    groups = {
        "adapter": module.adapter.state_dict(),
        "ema": module.ema.state_dict(),
        "optimizer": moments,
        "means": module.utility.means.state_dict(),
        "collector": module.collector.state_dict(),
        "multipliers": {} if duals is None else duals.state_dict(),
    }
    state = {
        "optimizer": skeleton,
        "calibration": calibration.to_dict(),
        "ledger": module.collector.ledger.to_dict(),
    }
    return {name: group for name, group in groups.items() if group}, state


def restore(module: AlignmentModule, checkpoint: Checkpoint) -> int:
    """Load a checkpoint into a freshly built module; returns the next step.

    The optimiser exists only once Lightning has set it up: its state waits in the module.
    """
    tensors = checkpoint.tensors
    module.adapter.load_state_dict(tensors["adapter"])
    module.ema.load_state_dict(tensors["ema"])
    module.utility.means.load_state_dict(tensors["means"])
    module.collector.load_state_dict(tensors.get("collector", {}))
    if module.utility.duals is not None:
        module.utility.duals.load_state_dict(tensors["multipliers"])
    module.collector.ledger.load_dict(checkpoint.state["ledger"])
    module.optimiser_state = join(tensors["optimizer"], checkpoint.state["optimizer"])
    return checkpoint.step
