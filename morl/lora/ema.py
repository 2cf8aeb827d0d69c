"""A running average of the adapter's parameters, kept beside them and used to sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from morl.errors import ConfigError, IntegrityError
from morl.lora.conditioned import ConditionedAdapter


class AdapterEMA:
    """m <- decay * m + (1 - decay) * theta after every update; m starts at theta.

    decay in [0, 1): 0 keeps no average (m is theta). There is no bias to correct, as the start is
    the model itself, only a lag of decay / (1 - decay) updates.
    """

    def __init__(self, adapter: ConditionedAdapter, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"training.ema must be at least 0 and below 1; got {decay}")
        self.decay = decay
        self._average = {name: value.clone() for name, value in adapter.state_dict().items()}

    @torch.no_grad()
    def update(self, adapter: ConditionedAdapter) -> None:
        """Take one step of the average."""
        for name, value in adapter.state_dict().items():
            self._average[name].lerp_(value, 1 - self.decay)

    @contextmanager
    def applied(self, adapter: ConditionedAdapter) -> Iterator[None]:
        """Let the adapter run with the average; its own parameters come back afterwards."""
        with adapter.using(self._average):
            yield

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average, under the adapter's own names."""
        return dict(self._average)

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the average, which later updates leave alone."""
        return {name: value.clone() for name, value in self._average.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the average; raises IntegrityError unless names and shapes are the same."""
        own = {name: value.shape for name, value in self._average.items()}
        if own != {name: value.shape for name, value in state.items()}:
            raise IntegrityError("the stored average is of another adapter (names or shapes)")
        for name, value in state.items():
            self._average[name].copy_(value)
