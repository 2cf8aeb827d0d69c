"""One JSON file a batch of runs, good only for the recipe that it names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.overoptimization import learners, policies, runs
from experiments.overoptimization.arms import Arm
from experiments.overoptimization.proxies import Case
from experiments.overoptimization.runs import Curves, Method
from morl.errors import DataError
from morl.training.durable import replace_durably

RESULTS = Path(__file__).parent / "results"
DIGITS = 4
Look = Float[np.ndarray, "run look"]


@dataclass(frozen=True)
class Stored:
    """The curves of a batch as arrays [R,L], the base first, and what the guard did."""

    cases: tuple[Case, ...]
    updates: tuple[int, ...]
    proxy: Look
    chosen: Look
    measured: Look
    kl: Look
    alarms: tuple[dict[str, Any], ...]

    @property
    def gold(self) -> Look:
        """Mean over both halves of the judged samples."""
        return (self.chosen + self.measured) / 2


def recipe(cases: Sequence[Case], arm: Arm, method: Method, updates: int) -> dict[str, Any]:
    """All that the numbers depend on and that a reader may want to change."""
    made = {
        "cases": [asdict(case) for case in cases],
        "arm": asdict(arm),
        "method": method,
        "updates": updates,
        "learning_rate": runs.LEARNING_RATE[method],
        "every": runs.EVERY,
        "batch": [runs.GROUPS, runs.GROUP_SIZE],
        "judged": runs.JUDGED,
        "fit": [learners.FIT_STEPS, learners.FIT_BATCH, learners.FIT_RATE, learners.FIT_DECAY],
        "members": learners.MEMBERS,
        "features": policies.FEATURES,
    }
    return dict(json.loads(json.dumps(made)))  # as it will be read back


def fresh(path: Path, made: dict[str, Any]) -> bool:
    """Whether a file holds results of this recipe; one of another recipe will be replaced."""
    return path.is_file() and json.loads(path.read_bytes())["recipe"] == made


def write(path: Path, made: dict[str, Any], curves: Curves) -> None:
    """Keep the curves, whole or not at all."""
    names = ("proxy", "chosen", "measured", "kl")
    rows = {name: getattr(curves, name).T.double().numpy().round(DIGITS) for name in names}
    content = {
        "recipe": made,
        "marks": curves.updates,
        **{name: values.tolist() for name, values in rows.items()},
        "alarms": [asdict(alarm) for alarm in curves.alarms],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, (json.dumps(content, allow_nan=False) + "\n").encode())


def read(path: Path) -> Stored:
    """Raises DataError, naming the command, where the batch has not been run."""
    if not path.is_file():
        raise DataError(f"{path} is missing: run the study first (see its README)")
    content = json.loads(path.read_bytes())
    proxy, chosen, measured, kl = (
        np.array(content[name]) for name in ("proxy", "chosen", "measured", "kl")
    )
    return Stored(
        tuple(Case(**case) for case in content["recipe"]["cases"]),
        tuple(content["marks"]),
        proxy,
        chosen,
        measured,
        kl,
        tuple(content["alarms"]),
    )
