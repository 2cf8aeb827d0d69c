"""What a run spent, counted where it is spent: the basis of every comparison at equal compute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field


@dataclass
class Ledger:
    """Counts in images (one image through one network call = 1) and seconds by phase."""

    forwards: int = 0
    """Denoiser forwards without gradients, of the adapted network."""
    gradient_forwards: int = 0
    """Denoiser forwards that were differentiated."""
    backwards: int = 0
    """Denoiser backwards."""
    reference_forwards: int = 0
    """Denoiser forwards of the base or of the sampling adapter."""
    decodes: int = 0
    reward_calls: int = 0
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to the phase `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def load_dict(self, state: dict[str, object]) -> None:
        """Continue from a stored ledger, so that a resumed run counts everything it spent."""
        for name, value in state.items():
            setattr(self, name, dict(value) if isinstance(value, dict) else value)
