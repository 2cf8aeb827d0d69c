"""One weight-conditioned LoRA for a whole Pareto front of image rewards.

>>> import morl
>>> "torch" in morl.__dict__  # names are imported when they are first used
False
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morl.config import Config, load_config
    from morl.inference import Slider, load
    from morl.report import write_report
    from morl.training.evaluate import evaluate_run
    from morl.training.session import train
    from morl.weights import das_dennis, edge_path, parse_weights

_HOME = {
    "Config": "morl.config",
    "Slider": "morl.inference",
    "das_dennis": "morl.weights",
    "edge_path": "morl.weights",
    "evaluate_run": "morl.training.evaluate",
    "load": "morl.inference",
    "load_config": "morl.config",
    "parse_weights": "morl.weights",
    "train": "morl.training.session",
    "write_report": "morl.report",
}
__all__ = [
    "Config",
    "Slider",
    "das_dennis",
    "edge_path",
    "evaluate_run",
    "load",
    "load_config",
    "parse_weights",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'morl' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _require_our_rewards() -> None:
    """Refuse another package called `rewards`: its functions would fail far from the cause."""
    home = Path(__file__).resolve().parents[1]
    found = find_spec("rewards")
    places = list(found.submodule_search_locations or []) if found else []
    if not any(Path(place).resolve().parent == home for place in places):
        raise ImportError(
            f"`rewards` must be the package that comes with morl, in {home}; found "
            f"{places or (found.origin if found else 'nothing')}: another package of that name "
            "comes first on the path; uninstall it, or use a virtual environment of its own"
        )


_require_our_rewards()
