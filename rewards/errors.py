"""Errors of the reward side, and the nearest-name hint that every message uses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RewardError(Exception):
    """Anything the `rewards` package refuses; the message names field, value, rule and remedy."""

    def __str__(self) -> str:
        # KeyError would print the message quoted; a person reads this one.
        return str(self.args[0]) if self.args else ""


class UnknownRewardError(RewardError, KeyError):
    """No reward has that name."""


class ExpressionError(RewardError, ValueError):
    """A composite reward that means nothing: wrong direction, unknown call, missing leaf."""


class CalibrationError(RewardError, ValueError):
    """Calibration statistics that are missing, not finite or of the wrong length."""


class RewardFault(RewardError, RuntimeError):
    """A scorer raised, or returned NaN, the wrong length or the wrong shape."""


class MissingExtraError(RewardError, ImportError):
    """An optional dependency is absent; the message names the extra to install."""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return the hint that ends an unknown-name message.

    >>> nearest("asthetic", ["aesthetic", "alignment"])
    "nearest: 'aesthetic'; known: aesthetic, alignment"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    listed = "known: " + (", ".join(names) if names else "none")
    return f"nearest: {', '.join(map(repr, close))}; {listed}" if close else listed
