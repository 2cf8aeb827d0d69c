"""Which weights a denoiser call uses: bound for a block of code, made into gates at the call."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from morl.errors import WeightError
from morl.lora.gates import Gates
from morl.lora.layer import Gate, GatedLayer


class Binding:
    """The one mutable state of an adapter: `rows` [B,K + budgets], None while off, no rows unbound.

    All gates of a call are computed at its start, in its own gradient mode, because a sampler may
    bind without gradients and switch them on for its last steps. They are taken away at its end,
    so that nothing of it can reach a later call.
    """

    def __init__(self, denoiser: nn.Module, layers: Sequence[GatedLayer], gates: Gates) -> None:
        self._layers = layers
        self._gates = gates
        self._input = next(iter(inspect.signature(denoiser.forward).parameters))
        self.rows: Float[Tensor, "batch condition"] | None = torch.empty(0, 0)
        self._hooks = (
            denoiser.register_forward_pre_hook(self._before_call, with_kwargs=True),
            denoiser.register_forward_hook(self._after_call, always_call=True),
        )

    @contextmanager
    def scope(self, rows: Float[Tensor, "batch condition"] | None) -> Iterator[None]:
        """Bind `rows` until the block ends, then what was bound before."""
        before, self.rows = self.rows, rows
        try:
            yield
        finally:
            self.rows = before

    def remove(self) -> None:
        """Take the hooks off the denoiser."""
        for hook in self._hooks:
            hook.remove()

    def checkpointed(self, block: nn.Module, *args: Any) -> Any:
        """Run a block so that its recomputation sees the gates of this call (non-reentrant)."""
        gates = [layer.gate for layer in self._layers]

        def run(*inputs: Any) -> Any:
            outside = [layer.gate for layer in self._layers]
            self._set(gates)
            try:
                return block(*inputs)
            finally:
                self._set(outside)

        return checkpoint(run, *args, use_reentrant=False)

    def _before_call(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self.rows is None:
            self._set([None] * len(self._layers))
            return
        if len(self.rows) == 0:
            return  # a layer that is reached says so; a merged denoiser needs no weights
        batch = len(args[0] if args else kwargs[self._input])
        copies, rest = divmod(batch, len(self.rows))
        if rest:
            raise WeightError(
                f"the denoiser batch of {batch} rows is no multiple of the {len(self.rows)} bound "
                "weight vectors; bind one for each sample, or a single one for all"
            )
        # bf16 would leave three digits of the weights.
        with torch.autocast(self.rows.device.type, enabled=False):
            gates = self._gates(self.rows.repeat(copies, 1))
        # One node of the graph for all layers: slices would each add a full-sized gradient.
        self._set(gates.unbind(1))

    def _after_call(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._set([layer.unbound for layer in self._layers])

    def _set(self, gates: Sequence[Gate]) -> None:
        for layer, gate in zip(self._layers, gates, strict=True):
            layer.gate = gate
