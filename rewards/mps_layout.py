"""Tensors of MPS as re-hosted, under transformers' names of CLIP and ours of the cross model."""

from __future__ import annotations

import re
from typing import Any

import torch

from rewards.checkpoints import CheckpointError
from rewards.layouts import (
    Renaming,
    State,
    clip_transformer,
    renamed,
    replacing,
    without_positions,
)

ROTARY_BASE = 10_000
_HOST, _CLIP, _CROSS = "mps.", "model.", "cross_model.layers."
_FREQUENCIES = "rotary_emb.inv_freq"
# Which of the two blocks of a layer, and its part, against our names.
_PARTS = {
    "0.fn.norm": "look.norm",
    "0.fn.to_q": "look.to_q",
    "0.fn.to_kv": "look.to_kv",
    "0.fn.to_out": "look.to_out",
    "0.fn.ff.0": "look.ff_in",
    "0.fn.ff.2": "look.ff_out",
    "1.fn.norm": "mix.norm",
    "1.fn.fused_attn_ff_proj": "mix.fused",
    "1.fn.attn_out": "mix.to_out",
    "1.fn.ff_out.1": "mix.ff_out",
}


def _of_cross(key: str) -> str:
    found = re.fullmatch(r"(\d+)\.(.+)\.(weight|bias)", key.removeprefix(_CROSS))
    if not found or found[2] not in _PARTS:
        raise CheckpointError(f"tensor {key!r} has no place in the cross model of MPS")
    return f"{_CROSS}{found[1]}.{_PARTS[found[2]]}.{found[3]}"


_TABLE: dict[str, Renaming] = {_CROSS: _of_cross, _CLIP: replacing(_CLIP, "")}


def mps_to_transformers(state: State) -> State:
    """Weights of MPS: those of a CLIPModel, and `cross_model`.

    Raises CheckpointError naming a tensor that has no place, or rotary frequencies that are not
    the ones which are computed.
    """
    learned: State = {}
    for name, tensor in without_positions(state).items():
        if name.endswith(_FREQUENCIES):
            _require_frequencies(name, tensor)
        else:
            learned[name.removeprefix(_HOST)] = tensor
    return renamed(learned, _TABLE, "MPS")


def _require_frequencies(name: str, found: torch.Tensor) -> None:
    expected = ROTARY_BASE ** -torch.linspace(0, 1, len(found) + 1)[:-1]
    # A file in half precision holds three digits.
    if not torch.allclose(found.float(), expected, rtol=2e-3, atol=1e-6):
        raise CheckpointError(f"{name} are not the rotary frequencies of base {ROTARY_BASE}")


def mps_config(state: State) -> dict[str, Any]:
    """What transformers' CLIPConfig needs, read off the shapes, and the cross model's depth."""
    named = mps_to_transformers(state)
    patch = named["vision_model.embeddings.patch_embedding.weight"]
    positions = named["vision_model.embeddings.position_embedding.weight"]
    side = round((positions.shape[0] - 1) ** 0.5)
    layers = {match[1] for key in named if (match := re.match(rf"{_CROSS}(\d+)\.", key))}
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": named["visual_projection.weight"].shape[0],
        "cross_layers": len(layers),
        "vision_config": {
            **_side(named, "vision_model."),
            "image_size": side * patch.shape[2],
            "patch_size": patch.shape[2],
        },
        "text_config": {
            **_side(named, "text_model."),
            "vocab_size": named["text_model.embeddings.token_embedding.weight"].shape[0],
            "max_position_embeddings": named[
                "text_model.embeddings.position_embedding.weight"
            ].shape[0],
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
    }


def _side(state: State, start: str) -> dict[str, Any]:
    hidden, width = state[start + "encoder.layers.0.mlp.fc1.weight"].shape
    layer = re.compile(re.escape(start) + r"encoder\.layers\.(\d+)\.")
    layers = {match[1] for key in state if (match := layer.match(key))}
    return clip_transformer(width, hidden, len(layers))
