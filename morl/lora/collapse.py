"""At one weight vector the adapter is an ordinary LoRA: its factors, and the layouts tools read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from morl.errors import ConfigError
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.file import write_safetensors
from morl.lora.targets import NETWORKS, network_of

Layout = Literal["diffusers", "kohya"]

# sai_model_spec names of the architectures whose LoRAs are plain renamings.
ARCHITECTURES = {
    "StableDiffusionPipeline": "stable-diffusion-v1/lora",
    "StableDiffusionXLPipeline": "stable-diffusion-xl-v1-base/lora",
}


def collapse(
    adapter: ConditionedAdapter, weights: Float[Tensor, " condition"]
) -> dict[str, Tensor]:
    """Return the plain LoRA that the adapter is at one weight vector.

    A'(w) = strength * alpha / rank * C(w) A,  B' = B,  so Delta W(w) = B' A'(w)

    Keys are `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, of the adapter's own rank. The
    factor alpha / rank is part of A', so the file means the same to a reader that knows no alpha
    (alpha = rank). Raises WeightError unless `weights` is one vector of all objectives, with the
    positions of the budgets behind or at the adapter's usual ones.
    """
    gates = adapter.layer_gates(weights)
    lora: dict[str, Tensor] = {}
    for layer, gate in zip(adapter.layers, gates, strict=True):
        down = layer.down.detach()
        factor = (layer.scaling * gate).view(-1, *[1] * (down.ndim - 1))
        lora[f"{layer.path}.lora_A.weight"] = (factor * down).cpu()
        lora[f"{layer.path}.lora_B.weight"] = layer.up.detach().cpu().clone()
    return lora


def to_diffusers(lora: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Name the tensors as `pipe.load_lora_weights` does; ComfyUI reads the same file.

    prefix: "unet" or "transformer".
    """
    return {f"{prefix}.{name}": tensor for name, tensor in lora.items()}


def to_kohya(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of a U-Net's LoRA as kohya's scripts and A1111 do, each with its alpha.

    `a.b.lora_A.weight` becomes `lora_unet_a_b.lora_down.weight`; alpha is the rank.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in lora.items():
        path, factor, _ = name.rsplit(".", 2)
        layer = "lora_unet_" + path.replace(".", "_")
        if factor == "lora_A":
            named[f"{layer}.alpha"] = torch.tensor(float(tensor.shape[0]))
            named[f"{layer}.lora_down.weight"] = tensor
        else:
            named[f"{layer}.lora_up.weight"] = tensor
    return named


def export_lora(
    adapter: ConditionedAdapter,
    weights: Float[Tensor, " condition"],
    path: str | Path,
    layout: Layout = "diffusers",
    *,
    pipeline: str = "",
) -> Path:
    """Write the plain LoRA at one weight vector; the file names weights and budgets of it.

    pipeline: class name of the base, for kohya's own metadata. A LoRA that stood beside the
    adapter in training is not part of the file and is named in it. Raises ConfigError for a path
    that does not end in .safetensors, or kohya's layout for a network where it fuses layers.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        raise ConfigError(f"a LoRA is written as .safetensors; got {file.name!r}")
    network = network_of(adapter.denoiser)
    count = len(adapter.objectives)
    row = adapter.completed(weights[None])[0].tolist()
    metadata = {"morl_weights": json.dumps(dict(zip(adapter.objectives, row[:count], strict=True)))}
    if adapter.budgets:
        slid = zip(adapter.budgets, row[count:], strict=True)
        bounds = {b.name: float(f"{b.bound(at):.6g}") for b, at in slid}  # as precise as a row is
        metadata["morl_budgets"] = json.dumps(bounds)
    if adapter.config.beside:
        metadata["morl_beside"] = Path(adapter.config.beside).name
    lora = collapse(adapter, weights)
    match layout:
        case "diffusers":
            write_safetensors(file, to_diffusers(lora, network.prefix), metadata)
        case "kohya":
            if not network.kohya:
                able = ", ".join(name for name, row in NETWORKS.items() if row.kohya)
                raise ConfigError(
                    f"kohya's layout fuses the layers of {type(adapter.denoiser).__name__} (it is "
                    f"written for {able}); use format 'diffusers', which ComfyUI reads as well"
                )
            write_safetensors(file, to_kohya(lora), metadata | _kohya(adapter, pipeline, file.stem))
    return file


def _kohya(adapter: ConditionedAdapter, pipeline: str, title: str) -> dict[str, str]:
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapter.config.rank),
        "ss_network_alpha": str(float(adapter.config.rank)),
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
    }
    if pipeline in ARCHITECTURES:
        metadata["modelspec.architecture"] = ARCHITECTURES[pipeline]
    return metadata
