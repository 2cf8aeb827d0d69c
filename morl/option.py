"""One documented, bounded setting: its meaning, unit, range and source travel with the field."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What a setting means and which values it takes.

    Numbers lie in [`low`, `high`]; `above` and `below` are the bounds that they may not reach.
    """

    meaning: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    source: str = ""

    def problem(self, value: object) -> str | None:
        """Return the rule that `value` breaks, or None. Only numbers have a range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        inside = self.low <= value <= self.high and self.above < value < self.below
        if math.isfinite(value) and inside:
            return None
        return f"must be {self.range()}; got {value}"

    def range(self) -> str:
        """Name the allowed numbers in words."""
        parts = [
            *([f"at least {self.low:g}"] if self.low > -math.inf else []),
            *([f"above {self.above:g}"] if self.above > -math.inf else []),
            *([f"at most {self.high:g}"] if self.high < math.inf else []),
            *([f"below {self.below:g}"] if self.below < math.inf else []),
        ]
        return " and ".join(parts) or "a finite number"


def option(
    default: T,
    meaning: str,
    *,
    unit: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    source: str = "",
) -> T:
    """Declare a dataclass field together with what `Option` says of it."""
    metadata = {"option": Option(meaning, unit, low, high, above, below, source)}
    # Typed as the default, as dataclasses.field is: the class body reads `steps: int = option(...)`
    if isinstance(default, dict | list):
        factory = functools.partial(copy.copy, default)  # one object for each configuration
        return cast("T", dataclasses.field(default_factory=factory, metadata=metadata))
    return dataclasses.field(default=default, metadata=metadata)


def option_of(field: dataclasses.Field[Any]) -> Option:
    """Return what a field declares; a plain field means nothing and takes anything."""
    declared = field.metadata.get("option")
    return declared if isinstance(declared, Option) else Option("")
