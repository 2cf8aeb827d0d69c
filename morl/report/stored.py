"""The stored study: fronts that were measured once, for a run's own front to be seen against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from morl.config.write import departures

STORED_FILE = "stored_front.json"
FORMAT = 1
# These neither change what a recipe trains nor how its front is measured.
_INCIDENTAL = ("seed", "checkpoint_every", "sample_every", "accelerator", "devices")


@dataclass(frozen=True)
class StoredMethod:
    """Mean rewards of one method at its weight vectors, over training seeds, in raw units.

    weights, mean, low, high [N][K]: low and high are 95 % over seeds and prompts.
    """

    name: str
    seeds: tuple[int, ...]
    weights: list[list[float]]
    mean: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


@dataclass(frozen=True)
class StoredFront:
    """The study in the space of the held-out measures. recipe: digest of what was trained."""

    names: tuple[str, ...]
    recipe: str
    methods: tuple[StoredMethod, ...]

    def to_json(self) -> str:
        """Return the form that `from_json` reads; raises ValueError for NaN and infinities."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> StoredFront:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        methods = tuple(
            StoredMethod(**{**method, "seeds": tuple(method["seeds"])})
            for method in values["methods"]
        )
        return cls(tuple(values["names"]), values["recipe"], methods)


def read_stored(names: Sequence[str]) -> StoredFront | None:
    """The packaged study, or None where there is none or it is of other objectives."""
    file = files("morl.report") / STORED_FILE
    if not file.is_file():
        return None
    stored = StoredFront.from_json(file.read_text(encoding="utf-8"))
    return stored if stored.names == tuple(names) else None


def recipe_digest(settings: Mapping[str, Any]) -> str:
    """Which recipe a resolved configuration is, as plain values, whatever its seed and device."""
    chosen = departures(settings)
    chosen["training"] = {k: v for k, v in chosen["training"].items() if k not in _INCIDENTAL}
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()
