"""One adapted layer: peft's variant mechanism with a gate on the rank-r activation.

peft marks the base class of its variants as private; nothing else in the package touches it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora.layer import Conv2d, LoraLayer, LoraVariant
from torch import Tensor

from morl.errors import ConfigError, WeightError

Gate = Float[Tensor, "rows rank"] | None
"""One row a sample of the denoiser batch; no rows: nothing is bound; None: switched off."""


class GatedLayer(LoraVariant):
    """y = base(x) + scaling * B (g * A x), with its own g for every sample.

    A, B and `scaling` (strength * alpha / rank) are those of the peft layer; g is `gate`, set for
    each denoiser call by the adapter that owns this layer. peft's merge and unmerge come here too,
    so that no path exists on which the gate is skipped.
    """

    def __init__(self, path: str, module: LoraLayer, adapter: str) -> None:
        self.path = path
        self.module = module
        self.adapter = adapter
        self.convolution = isinstance(module, Conv2d)
        self.unbound: Tensor = torch.empty(0, module.r[adapter])
        self.gate: Gate = self.unbound
        self.merged_gate: Float[Tensor, " rank"] | None = None

    @property
    def down(self) -> torch.nn.Parameter:
        """A: [r, in], or [r, in, height, width]."""
        weight: torch.nn.Parameter = self.module.lora_A[self.adapter].weight
        return weight

    @property
    def up(self) -> torch.nn.Parameter:
        """B: [out, r], or [out, r, 1, 1]."""
        weight: torch.nn.Parameter = self.module.lora_B[self.adapter].weight
        return weight

    @property
    def scaling(self) -> float:
        """Strength * alpha / rank; diffusers' `set_adapters` and attention scale change it too."""
        return float(self.module.scaling[self.adapter])

    def forward(
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """Add the gated update to the base layer's `result`; called by peft."""
        gate = self.gate
        if gate is None:
            return result
        if gate.shape[0] != x.shape[0]:
            raise self._misfit(x)
        hidden = module.lora_A[active_adapter](x)
        if self.convolution:
            hidden = hidden * gate[:, :, None, None]
        else:
            hidden = hidden * gate.view(gate.shape[0], *[1] * (hidden.ndim - 2), gate.shape[1])
        update = module.lora_B[active_adapter](hidden)
        # One pass over the output instead of two: the factor rides on the addition.
        return torch.add(result, update, alpha=module.scaling[active_adapter])

    def delta(self, gate: Float[Tensor, " rank"]) -> Tensor:
        """Return scaling * B diag(g) A in the shape of the base weight, in fp32."""
        down, up = self.down.detach(), self.up.detach()
        product = (up.flatten(1) * gate) @ down.flatten(1)
        return self.scaling * product.view(up.shape[0], *down.shape[1:])

    def merge_safe(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return the base weight with the update at the stated weights; called by peft."""
        if self.merged_gate is None:
            raise ConfigError(
                "this LoRA depends on a weight vector, so it cannot be fused without one: call "
                "`adapter.merge(weights)`, or export it at the weights and fuse that file"
            )
        return orig_weight + self.delta(self.merged_gate).to(orig_weight.dtype)

    def merge_unsafe(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        """Add the update at the stated weights to the base weight in place; called by peft."""
        orig_weight.data = self.merge_safe(module, active_adapter, orig_weight.data)

    def unmerge(self, module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return the base weight without the merged update, up to rounding; called by peft."""
        if self.merged_gate is None:
            raise ConfigError(f"{self.path}: no weights are merged")
        return orig_weight.detach() - self.delta(self.merged_gate).to(orig_weight.dtype)

    def supports_lora_conversion(self) -> bool:
        """Say no: peft's own conversion would drop the gates; `morl.lora.collapse` keeps them."""
        return False

    def _misfit(self, x: Tensor) -> WeightError:
        bound = 0 if self.gate is None else len(self.gate)
        if bound == 0:
            return WeightError(
                "no weights are bound: run the denoiser inside `with adapter.bind(weights)` (or "
                "`adapter.disabled()` for the base model); for gradient checkpointing call "
                "`adapter.enable_gradient_checkpointing()`, which binds them again in the backward"
            )
        return WeightError(
            f"{self.path}: its input has {x.shape[0]} rows where the denoiser batch has {bound}; a "
            "layer that splits or joins samples cannot be adapted"
        )
