"""Guidance in training and afterwards are two settings; a difference is said, with both numbers."""

from __future__ import annotations

from morl.config.tree import Config


class GuidanceNote(UserWarning):
    """Images are drawn or judged at another guidance than the adapter learned at."""


def judged_guidance(config: Config) -> float:
    """The guidance scale at which the front is measured."""
    given = config.evaluation.guidance
    return config.base.guidance if given is None else given


def guidance_mismatch(config: Config) -> str | None:
    """Say that a run is judged at another guidance than it trains at; None where it is not."""
    trained, judged = config.base.guidance, judged_guidance(config)
    if trained == judged:
        return None
    return (
        f"trains at guidance {trained:g} and is judged at {judged:g}: the front is that of another "
        "sampler than the one that learned"
    )
