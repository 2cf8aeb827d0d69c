"""How good is an image? Compose rewards, evaluate them together, hold them to bounds.

>>> from rewards import R, maximize
>>> objective = maximize(look=0.5 * R("contrast") + R("colorfulness") / 100, tidy=-R("sharpness"))
>>> print(objective.subject_to(R("saturation") <= 0.6))
maximize
  look = 0.5 * contrast + colorfulness / 100
  tidy = -sharpness
subject to
  mean saturation <= 0.6
by linear(on='mean')

Names are imported when first used: listing and composing rewards costs no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.bound import baseline as baseline
    from rewards.budgets import budget as budget
    from rewards.calibration import Calibration as Calibration
    from rewards.compose import R as R
    from rewards.compose import ensemble as ensemble
    from rewards.compose import max_ as max_
    from rewards.compose import min_ as min_
    from rewards.compose import rank as rank
    from rewards.compose import where as where
    from rewards.evaluate import BoundObjective as BoundObjective
    from rewards.facts import RewardFacts as RewardFacts
    from rewards.objective import Objective as Objective
    from rewards.objective import maximize as maximize
    from rewards.panel import Panel as Panel
    from rewards.panel import RewardTable as RewardTable
    from rewards.prompt_classes import prompt_class as prompt_class
    from rewards.registry import available as available
    from rewards.registry import build as build
    from rewards.registry import register as register
    from rewards.reward import ImageBatch as ImageBatch
    from rewards.reward import Reward as Reward
    from rewards.reward import Scores as Scores
    from rewards.statistic import mean as mean
    from rewards.statistic import quantile as quantile
    from rewards.user_functions import pointwise as pointwise

# No submodule may have one of these names: importing it would replace the name.
_HOME = {
    "BoundObjective": "evaluate",
    "Calibration": "calibration",
    "ImageBatch": "reward",
    "Objective": "objective",
    "Panel": "panel",
    "R": "compose",
    "Reward": "reward",
    "RewardFacts": "facts",
    "RewardTable": "panel",
    "Scores": "reward",
    "available": "registry",
    "baseline": "bound",
    "budget": "budgets",
    "build": "registry",
    "ensemble": "compose",
    "max_": "compose",
    "maximize": "objective",
    "mean": "statistic",
    "min_": "compose",
    "pointwise": "user_functions",
    "prompt_class": "prompt_classes",
    "quantile": "statistic",
    "rank": "compose",
    "register": "registry",
    "where": "compose",
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
