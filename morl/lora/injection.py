"""Puts an untrained LoRA into a denoiser: which layers, their first values, what is frozen."""

from __future__ import annotations

import math
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Conv2d, Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from morl.errors import ConfigError
from morl.lora.layer import GatedLayer
from morl.lora.plain import several_adapters
from morl.lora.settings import AdapterConfig
from morl.lora.targets import target_layers

ADAPTER = "morl"  # peft's name of the adapter in every layer
# peft's layers on a quantised base that know its variants, by name: their packages are optional.
QUANTISED = ("TorchaoLoraLinear", "Linear4bit")


def add_layers(
    denoiser: nn.Module, config: AdapterConfig, generator: torch.Generator
) -> list[GatedLayer]:
    """Wrap the target layers, A random and B = 0, and freeze everything else.

    LoRAs that were active stay active. A ~ U(-1, 1) / sqrt(fan-in), as in peft, drawn from
    `generator`; torch's global generator is left as it was. Raises ConfigError for targets that do
    not exist, an adapter of ours that is there already, or LoRAs that are fused.
    """
    wrapped = [m for m in denoiser.modules() if isinstance(m, BaseTunerLayer)]
    active = list(dict.fromkeys(name for m in wrapped for name in m.active_adapters))
    if ADAPTER in {name for m in wrapped for name in m.r}:
        raise ConfigError("this denoiser has a conditioned adapter already; `remove()` it first")
    if any(m.merged for m in wrapped):
        raise ConfigError(
            "a LoRA is fused into this denoiser, and peft would skip ours; call "
            "`pipe.unfuse_lora()` first"
        )
    paths = target_layers(denoiser, config.targets)
    model: Any = denoiser
    lora = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=paths, init_lora_weights=False
    )
    with torch.random.fork_rng(devices=[]), several_adapters():
        model.add_adapter(lora, ADAPTER)
    model.set_adapter([*active, ADAPTER])
    denoiser.requires_grad_(False)
    modules = dict(denoiser.named_modules())
    layers = [_layer(path, modules[path]) for path in paths]
    for layer in layers:
        _initialise(layer, generator)
    return layers


def _layer(path: str, module: nn.Module) -> GatedLayer:
    known = isinstance(module, Linear | Conv2d) or type(module).__name__ in QUANTISED
    if not known or not isinstance(module, LoraLayer):
        raise ConfigError(
            f"adapter.targets: peft wraps {path} as {type(module).__name__}, which has no gates; "
            f"only Linear and Conv2d layers can be adapted, plain or as {', '.join(QUANTISED)}"
        )
    layer = GatedLayer(path, module, ADAPTER)
    module.lora_variant[ADAPTER] = layer
    return layer


def _initialise(layer: GatedLayer, generator: torch.Generator) -> None:
    for parameter in (layer.down, layer.up):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    bound = 1 / math.sqrt(math.prod(layer.down.shape[1:]))
    drawn = torch.empty(layer.down.shape).uniform_(-bound, bound, generator=generator)
    with torch.no_grad():
        layer.down.copy_(drawn)
        layer.up.zero_()
