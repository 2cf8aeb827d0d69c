"""Names and shapes of published weights, turned into the one layout that we read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rewards.checkpoints import CheckpointError

State = dict[str, Tensor]
Renaming = Callable[[str], str | None]
"""From a published name to ours; None leaves the tensor out."""

# Width of one attention head where it is not 64: the image side of ViT-H/14.
_HEAD_WIDTH = {1280: 80}
_CLIP_HEAD_WIDTH = 64
_LAYER = r"resblocks\.(\d+)\."
# open_clip's parts of a transformer layer and transformers' names of them.
_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
# Stored as features @ matrix by open_clip, as matrix @ features by transformers.
_TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def renamed(state: State, table: Mapping[str, Renaming], model: str) -> State:
    """The tensors under our names, each by the first row that its name begins with.

    Raises CheckpointError naming a tensor that no row fits.
    """
    converted: State = {}
    for name, tensor in state.items():
        rename = next((row for start, row in table.items() if name.startswith(start)), None)
        if rename is None:
            raise CheckpointError(f"tensor {name!r} has no place in {model}")
        if (ours := rename(name)) is not None:
            converted[ours] = tensor
    return converted


def dropped(name: str) -> None:
    """What no score reads."""


def replacing(start: str, ours: str) -> Renaming:
    """Another beginning instead of `start`."""
    return lambda name: ours + name.removeprefix(start)


def without_positions(state: State) -> State:
    """Drop the buffer of positions that old transformers files hold: it is a plain range."""
    return {key: t for key, t in state.items() if not key.endswith("embeddings.position_ids")}


def alexnet_trunk(state: State) -> State:
    """The convolutions of torchvision's AlexNet, without its classifier."""
    start = "features."
    return {key.removeprefix(start): t for key, t in state.items() if key.startswith(start)}


def lpips_channels(state: State, look: int) -> Tensor:
    """The weights of the channels at one look of LPIPS, stored as a convolution of one pixel."""
    return state[f"lin{look}.model.1.weight"].flatten()


def open_clip_to_transformers(state: State) -> State:
    """Weights of an open_clip ViT CLIP under transformers' names (CLIPModel).

    Query, key and value are stored as one matrix, in that order; projections are transposed.
    Raises CheckpointError naming a tensor that has no place; `attn_mask` is computed, not stored.
    """
    converted: State = {}
    for key, tensor in state.items():
        if key == "attn_mask":
            continue
        if key in _WHOLE:
            converted[_WHOLE[key]] = tensor
        elif key in _TRANSPOSED:
            converted[_TRANSPOSED[key]] = tensor.T
        else:
            converted.update(_layer(key, tensor))
    return converted


def _layer(key: str, tensor: Tensor) -> State:
    side = "vision_model" if key.startswith("visual.") else "text_model"
    found = re.fullmatch(rf"(?:visual\.)?transformer\.{_LAYER}(.+?)[._](weight|bias)", key)
    if found:
        index, part, kind = found.groups()
        start = f"{side}.encoder.layers.{index}."
        if part in _PARTS:
            return {f"{start}{_PARTS[part]}.{kind}": tensor}
        if part == "attn.in_proj":
            thirds = zip("qkv", tensor.chunk(3), strict=True)
            return {f"{start}self_attn.{letter}_proj.{kind}": third for letter, third in thirds}
    raise CheckpointError(f"tensor {key!r} has no place in a CLIP with ViT image side")


def open_clip_config(state: State) -> dict[str, Any]:
    """What transformers' CLIPConfig needs, read off the shapes; GELU is exact in open_clip."""
    patch, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    side = round((positions.shape[0] - 1) ** 0.5)
    text = state["positional_embedding"]
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": state["visual.proj"].shape[1],
        "vision_config": {
            **_transformer(state, "visual.transformer."),
            "image_size": side * patch.shape[2],
            "patch_size": patch.shape[2],
        },
        "text_config": {
            **_transformer(state, "transformer."),
            "vocab_size": state["token_embedding.weight"].shape[0],
            "max_position_embeddings": text.shape[0],
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
    }


def _transformer(state: State, start: str) -> dict[str, Any]:
    hidden, width = state[start + "resblocks.0.mlp.c_fc.weight"].shape
    layers = {found[1] for key in state if (found := re.match(re.escape(start) + _LAYER, key))}
    return clip_transformer(width, hidden, len(layers))


def clip_transformer(width: int, hidden: int, layers: int) -> dict[str, Any]:
    """One side of a CLIP of the open_clip family, whose heads follow from its width."""
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD_WIDTH.get(width, _CLIP_HEAD_WIDTH),
        "hidden_act": "gelu",
    }


def collapsed(state: State) -> State:
    """The affine map that linear layers *without activations between them* amount to.

    w = W_n ... W_1,  b = W_n (... (W_2 b_1 + b_2)) + b_n

    Layers are taken in the order of the number in their names; computed in float64. LAION's
    improved aesthetic head is such a stack, with dropout between its layers. Raises
    CheckpointError where the shapes do not chain or do not end in one number.
    """
    names = [key.removesuffix("weight") for key, t in state.items() if key.endswith("weight")]
    order = sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    if not order:
        raise CheckpointError("a head needs at least one tensor called ...weight")
    width = state[order[0] + "weight"].shape[1]
    matrix, offset = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for name in order:
        weight, bias = state[name + "weight"].double(), state[name + "bias"].double()
        if weight.shape[1] != len(matrix):
            raise CheckpointError(
                f"{name}weight takes {weight.shape[1]} numbers and gets {len(matrix)}"
            )
        matrix, offset = weight @ matrix, weight @ offset + bias
    if len(matrix) != 1:
        raise CheckpointError(f"a head must end in one number; this one ends in {len(matrix)}")
    return {"weight": matrix.float(), "bias": offset.float()}
