"""How good is an image? Compose rewards, evaluate them together, hold them to bounds.

Names are imported when first used: listing and composing rewards costs no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.calibration import Calibration as Calibration
    from rewards.evaluate import BoundObjective as BoundObjective
    from rewards.expression import R as R
    from rewards.expression import ensemble as ensemble
    from rewards.expression import max_ as max_
    from rewards.expression import min_ as min_
    from rewards.objective import Objective as Objective
    from rewards.objective import maximize as maximize
    from rewards.panel import Panel as Panel
    from rewards.panel import RewardTable as RewardTable
    from rewards.registry import available as available
    from rewards.registry import build as build
    from rewards.registry import register as register
    from rewards.reward import ImageBatch as ImageBatch
    from rewards.reward import Reward as Reward
    from rewards.reward import Scores as Scores

_HOME = {
    "BoundObjective": "evaluate",
    "Calibration": "calibration",
    "ImageBatch": "reward",
    "Objective": "objective",
    "Panel": "panel",
    "R": "expression",
    "Reward": "reward",
    "RewardTable": "panel",
    "Scores": "reward",
    "available": "registry",
    "build": "registry",
    "ensemble": "expression",
    "max_": "expression",
    "maximize": "objective",
    "min_": "expression",
    "register": "registry",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rewards' has no attribute {name!r}")
    value = getattr(import_module(f"rewards.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
