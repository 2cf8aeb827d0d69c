"""A prompt that is longer than a network reads is cut, counted, and said once. No torch."""

from __future__ import annotations

import warnings


class TruncatedPromptWarning(UserWarning):
    """A prompt is longer than a network reads; said once for each network, then counted."""


def say_truncated(
    name: str, prompt: str, found: int, most: int, earlier: int, unit: str = "tokens"
) -> None:
    """Warn at the first prompt that `name` cuts: `earlier` says how many it has cut before."""
    if not earlier:
        warnings.warn(
            f"{name} reads {most} {unit} of a prompt and cuts the rest; the first that is longer "
            f"has {found}: {prompt[:60]!r}... (said once, then counted in `truncated`)",
            TruncatedPromptWarning,
            stacklevel=3,
        )
