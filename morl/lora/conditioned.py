"""The weight-conditioned LoRA of one denoiser: injected, bound to weights, switched off, merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from peft.tuners.lora.layer import Conv2d, Linear
from torch import Tensor, nn

from morl.errors import ConfigError, IntegrityError, WeightError
from morl.lora.binding import Binding
from morl.lora.gates import Gates, make_gates
from morl.lora.injection import ADAPTER, add_layers
from morl.lora.layer import GatedLayer
from morl.lora.plain import load_beside, read_plain, start_from
from morl.lora.settings import AdapterConfig
from rewards.budgets import Budget

GATES = "morl_gates"  # the submodule of the denoiser that holds the core
LISTED = 5  # names shown of a longer list


class ConditionedAdapter:
    """Delta W(w) = strength * alpha / rank * B C(w) A in the chosen layers of one denoiser.

    Weights are bound for a stretch of code (`bind`); every denoiser call inside computes all gates
    at once, in the gradient mode of that call. Row i of a denoiser batch belongs to sample
    i % len(weights): [unconditional..., conditional...] under guidance, and one row of weights
    serves any batch. All parameters are fp32, whatever the denoiser's dtype.

    Where `budgets` slide, a row is (w, t): their positions (`rewards.budgets.bound_at`) stand
    behind the weight vector. A row of weights alone stands for the bounds in `usual`, the
    strictest unless it is set.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        objectives: Sequence[str],
        config: AdapterConfig,
        layers: Sequence[GatedLayer],
        gates: Gates,
        budgets: Sequence[Budget] = (),
    ) -> None:
        self.denoiser = denoiser
        self.objectives = tuple(objectives)
        self.config = config
        self.layers = tuple(layers)
        self.gates = gates
        self.budgets = tuple(budgets)
        self.usual = {budget.name: budget.strictest for budget in self.budgets}
        self._binding = Binding(denoiser, self.layers, gates)
        self._originals: list[Tensor] = []

    @classmethod
    def inject(
        cls,
        denoiser: nn.Module,
        objectives: Sequence[str],
        config: AdapterConfig,
        *,
        budgets: Sequence[Budget] = (),
        seed: int = 0,
        pipe: DiffusionPipeline | None = None,
    ) -> ConditionedAdapter:
        """Wrap the target layers of a diffusers denoiser; it then equals what it was, bit for bit.

        All other parameters are frozen. LoRAs that are active already stay active and belong to
        the reference. objectives: names in the order of the weight vector; budgets: the bounds that
        slide, in the order of their constraints; seed: of A (and an mlp's trunk); pipe: the
        pipeline that owns the denoiser, needed to read `init_from` and `beside` with its loader.
        Raises ConfigError for settings that cannot work, a second adapter, or fused LoRAs.
        """
        unfit = (*config.problems(len(objectives)), *config.budget_problems(len(budgets)))
        problems = [f"adapter.{problem}" for problem in unfit]
        if len(set(objectives)) != len(objectives) or not objectives:
            problems.append(f"objectives must be different names, at least one; got {objectives}")
        if pipe is None and (config.init_from or config.beside):
            problems.append("adapter.init_from and adapter.beside are read by the loader of `pipe`")
        if problems:
            raise ConfigError(problems)
        source = None
        if pipe is not None and config.init_from:
            source = read_plain(pipe, denoiser, config.init_from)
        if pipe is not None and config.beside:
            load_beside(pipe, denoiser, config.beside)
        generator = torch.Generator().manual_seed(seed)
        layers = add_layers(denoiser, config, generator)
        gates = make_gates(
            config.core,
            len(objectives),
            len(layers),
            config.rank,
            budgets=len(budgets),
            # A LoRA that is continued must start as it is at every weight.
            specialisation=0.0 if config.init_from else config.specialisation,
            generator=generator,
        )
        denoiser.add_module(GATES, gates.to(layers[0].down.device))
        if source is not None:
            start_from(layers, source, str(config.init_from))
        adapter = cls(denoiser, objectives, config, layers, gates, budgets)
        adapter.strength = config.strength
        return adapter

    @contextmanager
    def bind(self, weights: Float[Tensor, "*batch condition"]) -> Iterator[None]:
        """Let every denoiser call inside use `weights`, [K] or [B,K]; the innermost binding counts.

        Or (w, t), [K + budgets] or [B,K + budgets]. Raises WeightError for another number of
        objectives and, at the call, for a batch that is no multiple of len(weights); ConfigError
        while merged, as the weights would not count.
        """
        with self._binding.scope(self._rows(weights)):
            yield

    def set_weights(self, weights: Float[Tensor, "*batch condition"]) -> None:
        """Change what is bound until the innermost `bind` ends, or for good outside of any."""
        self._binding.rows = self._rows(weights)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Switch the adapter off: the denoiser is the reference, bit for bit."""
        self._refuse_merged()
        with self._binding.scope(None):
            yield

    @property
    def strength(self) -> float:
        """The factor rho on the whole update; training assumes the configured one."""
        return self.layers[0].scaling * self.config.rank / self.config.alpha

    @strength.setter
    def strength(self, value: float) -> None:
        self._refuse_merged()
        for layer in self.layers:
            layer.module.set_scale(ADAPTER, value)

    def layer_gates(self, weights: Float[Tensor, " condition"]) -> Float[Tensor, "layer rank"]:
        """Return C(w), or C(w, t), of every layer at one weight vector, without gradients."""
        widths = (len(self.objectives), len(self.objectives) + len(self.budgets))
        if weights.ndim != 1 or len(weights) not in widths:
            raise WeightError(
                f"one weight vector of {len(self.objectives)} entries "
                f"({', '.join(self.objectives)}) is needed; got {list(weights.shape)}"
            )
        with torch.no_grad():
            gates: Tensor = self.gates(self.completed(weights[None]).to(self.layers[0].down))[0]
        return gates

    def completed(
        self, rows: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch complete_condition"]:
        """Rows of weights alone with the positions of `usual` behind; others as they are."""
        if rows.shape[1] != len(self.objectives) or not self.budgets:
            return rows
        usual = rows.new_tensor([b.position(self.usual[b.name]) for b in self.budgets])
        return torch.cat([rows, usual.expand(len(rows), -1)], dim=1)

    def merge(self, weights: Float[Tensor, " condition"]) -> None:
        """Write the update at one weight vector, and active plain LoRAs, into the base weights.

        The denoiser then runs at its bare speed; `unmerge` brings back the base bit for bit, from
        a copy of the adapted layers' weights kept meanwhile. Raises ConfigError if merged already,
        or if the base is quantised.
        """
        self._refuse_merged()
        if any(type(layer.module) not in (Linear, Conv2d) for layer in self.layers):
            raise ConfigError(
                "the base is quantised, and an update would be rounded away in it: export the LoRA "
                "at these weights, or load the base without base.quantize"
            )
        for layer, gate in zip(self.layers, self.layer_gates(weights), strict=True):
            base = layer.module.get_base_layer().weight
            self._originals.append(base.data)
            base.data = base.data.clone()
            layer.merged_gate = gate
            # Every active LoRA, because a merged layer skips those that are not.
            layer.module.merge()

    def unmerge(self) -> None:
        """Undo `merge`; raises ConfigError if nothing is merged."""
        if not self._originals:
            raise ConfigError("nothing is merged; `merge(weights)` comes first")
        for layer, original in zip(self.layers, self._originals, strict=True):
            if layer.module.merged:
                layer.module.unmerge()
            layer.module.get_base_layer().weight.data = original
            layer.merged_gate = None
        self._originals.clear()

    def enable_gradient_checkpointing(self) -> None:
        """Recompute blocks in the backward, each with the weights of its own forward."""
        enable: Any = self.denoiser.enable_gradient_checkpointing
        enable(gradient_checkpointing_func=self._binding.checkpointed)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every trained parameter under its name in files, in a fixed order."""
        for layer in self.layers:
            yield f"{layer.path}.lora_A.weight", layer.down
            yield f"{layer.path}.lora_B.weight", layer.up
        for name, parameter in self.gates.named_parameters():
            yield f"gates.{name}", parameter

    def parameters(self) -> list[nn.Parameter]:
        """Return every trained parameter, in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the trained parameters themselves, detached."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters; raises IntegrityError unless names and shapes match."""
        own = dict(self.named_parameters())
        missing, strange = own.keys() - state.keys(), state.keys() - own.keys()
        wrong = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
        if missing or strange or wrong:
            raise IntegrityError(
                f"the state does not fit this adapter ({len(own)} tensors): "
                f"missing {_some(missing)}; unknown {_some(strange)}; other shape {_some(wrong)}"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    @contextmanager
    def using(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Run with other parameter values, such as an average or an older policy's.

        Tensors are exchanged, not copied, so a graph recorded outside stays valid; run no backward
        of a forward made outside while inside.
        """
        own = [(parameter, values[name]) for name, parameter in self.named_parameters()]
        before = [parameter.data for parameter, _ in own]
        try:
            for parameter, value in own:
                parameter.data = value.to(parameter)
            yield
        finally:
            for (parameter, _), data in zip(own, before, strict=True):
                parameter.data = data

    def remove(self) -> None:
        """Take the adapter off the denoiser, which is then as before `inject`."""
        if self._originals:
            self.unmerge()
        self._binding.remove()
        delattr(self.denoiser, GATES)
        model: Any = self.denoiser
        if set(model.peft_config) == {ADAPTER}:
            model.unload_lora()
        else:
            model.delete_adapters(ADAPTER)

    def _rows(self, weights: Tensor) -> Float[Tensor, "batch condition"]:
        self._refuse_merged()
        rows = weights[None] if weights.ndim == 1 else weights
        count, slides = len(self.objectives), len(self.budgets)
        if rows.ndim != 2 or rows.shape[1] not in (count, count + slides) or not len(rows):
            further = f" or [batch, {count + slides}] with budgets" if slides else ""
            raise WeightError(
                f"`weights` must have shape [batch, {count}]{further} "
                f"({', '.join(self.objectives)}); got {list(weights.shape)}"
            )
        return self.completed(rows).to(self.layers[0].down)

    def _refuse_merged(self) -> None:
        merged = [layer.path for layer in self.layers if layer.module.merged]
        if merged:
            raise ConfigError(
                f"{len(merged)} of {len(self.layers)} layers are merged, where neither weights nor "
                "strength count: call `adapter.unmerge()` (or `pipe.unfuse_lora()`) first"
            )


def _some(names: Iterable[str]) -> str:
    """Show a few names of a list that may be long."""
    listed = sorted(names)
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more or "none"
