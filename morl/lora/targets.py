"""Which layers of a denoiser are adapted, and what its LoRA files call it; one row a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from morl.errors import ConfigError
from rewards.errors import nearest

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# A transformer that reads text and image tokens together projects the text tokens separately.
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@dataclass(frozen=True)
class Network:
    """prefix: of its keys in a LoRA file; kohya: whether its keys there are plain renamings."""

    prefix: str
    presets: Mapping[str, tuple[str, ...]]
    kohya: bool = False


NETWORKS: Mapping[str, Network] = {
    "UNet2DConditionModel": Network(
        prefix="unet",
        presets={"attention": ATTENTION, "attention+conv": (*ATTENTION, "conv1", "conv2")},
        kohya=True,
    ),
    "SD3Transformer2DModel": Network("transformer", {"attention": JOINT_ATTENTION}),
    "FluxTransformer2DModel": Network("transformer", {"attention": JOINT_ATTENTION}),
    "SanaTransformer2DModel": Network("transformer", {"attention": ATTENTION}),
    "AuraFlowTransformer2DModel": Network("transformer", {"attention": JOINT_ATTENTION}),
}


def network_of(denoiser: nn.Module) -> Network:
    """Return what is known of a denoiser's class; raises ConfigError for an unknown one."""
    name = type(denoiser).__name__
    if name not in NETWORKS:
        raise ConfigError(
            f"denoiser class {name} is not known to the adapter; known: {', '.join(NETWORKS)}"
        )
    return NETWORKS[name]


def target_layers(denoiser: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """Return the paths of the layers that a preset or a list of name endings selects, in order.

    Only Linear and Conv2d layers without groups are selected. Raises ConfigError for an unknown
    preset, and for an ending that selects nothing.
    """
    endings = _endings(denoiser, targets)
    layers = _adaptable(denoiser)
    chosen = [path for path in layers if _matching(path, endings)]
    used = {ending for path in chosen for ending in _matching(path, endings)}
    unused = [ending for ending in endings if ending not in used]
    if unused:
        known = sorted({_ending(path) for path in layers})
        raise ConfigError(
            [
                f"adapter.targets: no layer of {type(denoiser).__name__} ends in {ending!r}; "
                f"{nearest(ending, known)}"
                for ending in unused
            ]
        )
    return chosen


def _endings(denoiser: nn.Module, targets: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(targets, str):
        if not targets:
            raise ConfigError("adapter.targets: an empty list adapts nothing")
        return tuple(targets)
    presets = network_of(denoiser).presets
    if targets not in presets:
        raise ConfigError(
            f"adapter.targets: {type(denoiser).__name__} has no preset {targets!r}, only "
            f"{', '.join(repr(name) for name in presets)}; a list gives name endings"
        )
    # An embedded or cut-down network may lack a whole kind of layer that the preset names.
    present = _adaptable(denoiser)
    return tuple(e for e in presets[targets] if any(_matching(path, (e,)) for path in present))


def _adaptable(denoiser: nn.Module) -> list[str]:
    """Paths of Linear and ungrouped Conv2d layers, plain or wrapped by another LoRA."""
    found: list[str] = []
    for path, module in denoiser.named_modules():
        if found and path.startswith(found[-1] + "."):
            continue  # inside a wrapped layer
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        plain = isinstance(layer, nn.Linear)
        if plain or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            found.append(path)
    return found


def _matching(path: str, endings: Sequence[str]) -> list[str]:
    return [ending for ending in endings if path == ending or path.endswith(f".{ending}")]


def _ending(path: str) -> str:
    """The last name of a path, with the one before it where that is only a number."""
    parts = path.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
