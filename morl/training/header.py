"""What an adapter file says of itself."""

from __future__ import annotations

from morl.lora.store import AdapterHeader, digest_of
from morl.training.assemble import Assembly
from rewards.calibration import Calibration


def adapter_header(parts: Assembly, calibration: Calibration) -> AdapterHeader:
    """Objectives and budgets in order, base model, calibration, sampler and trained region."""
    config = parts.config
    low, high = config.weights.bounds(config.names)
    beside = config.adapter.beside
    sampling: dict[str, float] = {"steps": config.base.steps, "guidance": config.base.guidance}
    if config.base.size is not None:
        sampling["size"] = config.base.size
    return AdapterHeader(
        objectives=config.names,
        config=config.adapter,
        base=parts.identity,
        calibration=calibration.to_dict(),
        region={"low": low, "high": high},
        sampling=sampling,
        beside_sha256=None if beside is None else digest_of(beside),
        budgets=parts.adapter.budgets,
        notes={"objective_sha256": parts.objective.digest},
    )
