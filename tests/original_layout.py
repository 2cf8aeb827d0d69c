"""A pipeline's tensors under their authors' names: the single files that model sites publish."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "self_attn": "attn",
}


def write_single_file(pipe: DiffusionPipeline, path: Path, without: str = "nothing") -> Path:
    """Save SD 1.5 or SDXL in one file; `without`: leave out tensors whose name holds this."""
    tensors = {f"model.diffusion_model.{n}": t for n, t in _unet(pipe.unet)}
    tensors |= {f"first_stage_model.{n}": t for n, t in _vae(pipe.vae)}
    if "text_encoder_2" in pipe.components:
        tensors |= _clip(pipe.text_encoder, "conditioner.embedders.0.transformer")
        tensors |= _open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model")
    else:
        tensors |= _clip(pipe.text_encoder, "cond_stage_model.transformer")
    kept = {n: t.contiguous().clone() for n, t in tensors.items() if without not in n}
    save_file(kept, path)
    return path


def _unet(unet: nn.Module) -> Iterator[tuple[str, Tensor]]:
    each = unet.config.layers_per_block + 1
    for name, tensor in unet.state_dict().items():
        path, _, kind = name.rpartition(".")
        if path in UNET_ENDS:
            yield f"{UNET_ENDS[path]}.{kind}", tensor
            continue
        if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", path):
            part, number = found[1], int(found[2])
            place = f"middle_block.{2 * number if part == 'resnets' else 1}"
        else:
            found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", path)
            side, level, part, number = found[1], int(found[2]), found[3], int(found[4])
            place = _place(unet, side, level, part, number, each)
        rest = "op" if part == "downsamplers" else found[found.lastindex]
        if part == "resnets":
            rest = RESNET[rest]
        yield f"{place}.{rest}.{kind}", tensor


def _place(unet: nn.Module, side: str, level: int, part: str, number: int, each: int) -> str:
    """Blocks are numbered through; each holds a resnet, perhaps attention, perhaps a scale."""
    if side == "down":
        block = 1 + level * each + (each - 1 if part == "downsamplers" else number)
        return f"input_blocks.{block}.{1 if part == 'attentions' else 0}"
    block = level * each + (each - 1 if part == "upsamplers" else number)
    attended = "CrossAttn" in unet.config.up_block_types[level]
    inner = {"resnets": 0, "attentions": 1, "upsamplers": 1 + attended}[part]
    return f"output_blocks.{block}.{inner}"


def _vae(vae: nn.Module) -> Iterator[tuple[str, Tensor]]:
    last = len(vae.config.up_block_types) - 1
    for name, tensor in vae.state_dict().items():
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)",
            lambda m: f"up.{last - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}",
            name,
        )
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if found := re.match(r"(.*)mid_block\.attentions\.0\.(.*)\.(\w+)$", name):
            name = f"{found[1]}mid.attn_1.{ATTENTION[found[2]]}.{found[3]}"
            if found[3] == "weight" and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]  # attention was written with 1 x 1 convolutions
        yield name, tensor


def _clip(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The same names as in transformers, below `text_model`."""
    return {
        f"{prefix}.text_model.{n.removeprefix('text_model.')}": t
        for n, t in model.state_dict().items()
    }


def _open_clip(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """One matrix holds the projections to queries, keys and values, in this order."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    joined = {n: t for n, t in renamed.items() if not re.search(r"attn\.[qkv]_proj", n)}
    for name in [n for n in renamed if ".attn.q_proj." in n]:
        rows = [renamed[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
        joined[name.replace("q_proj.", "in_proj_")] = torch.cat(rows)
    joined["text_projection"] = joined.pop("text_projection.weight").T
    return {f"{prefix}.{name}": tensor for name, tensor in joined.items()}
