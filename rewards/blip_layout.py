"""ImageReward's published tensors under transformers' names of BLIP, with its head as one map."""

from __future__ import annotations

import re
from typing import Any

from rewards.checkpoints import CheckpointError
from rewards.layouts import (
    Renaming,
    State,
    collapsed,
    dropped,
    renamed,
    replacing,
    without_positions,
)

_HEAD_WIDTH = 64
_EYE, _READER, _MLP = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
_WHOLE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_PARTS = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _of_eye(key: str) -> str:
    inner = key.removeprefix(_EYE)
    if inner in _WHOLE:
        return "vision_model." + _WHOLE[inner]
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", inner)
    if not found or found[2] not in _PARTS:
        raise CheckpointError(f"tensor {key!r} has no place in ImageReward's image side")
    return f"vision_model.encoder.layers.{found[1]}.{_PARTS[found[2]]}.{found[3]}"


_TABLE: dict[str, Renaming] = {
    # Trained for retrieval; no score reads them.
    "blip.vision_proj.": dropped,
    "blip.text_proj.": dropped,
    _EYE: _of_eye,
    _READER: replacing("blip.", ""),
    _MLP: replacing("", ""),
}


def image_reward_to_transformers(state: State) -> State:
    """Weights of ImageReward: `vision_model`, `text_encoder` (BlipTextModel) and an affine `head`.

    The five layers of its MLP have no activation between them and are stored as the one map that
    they amount to. Raises CheckpointError naming a tensor that has no place.
    """
    converted = renamed(without_positions(state), _TABLE, "ImageReward")
    mlp = {name: converted.pop(name) for name in list(converted) if name.startswith(_MLP)}
    head = collapsed(mlp)
    return {**converted, "head.weight": head["weight"], "head.bias": head["bias"]}


def image_reward_config(state: State) -> dict[str, Any]:
    """What transformers' BlipConfig needs, read off the shapes; GELU is exact on both sides."""
    patch = state[_EYE + "patch_embed.proj.weight"]
    side = round((state[_EYE + "pos_embed"].shape[1] - 1) ** 0.5)
    words = state[_READER + "embeddings.word_embeddings.weight"]
    return {
        "model_type": "blip",
        "vision_config": {
            **_widths(state[_EYE + "blocks.0.mlp.fc1.weight"].shape),
            "num_hidden_layers": _layers(state, _EYE + "blocks."),
            "image_size": side * patch.shape[2],
            "patch_size": patch.shape[2],
            "layer_norm_eps": 1e-6,
        },
        "text_config": {
            **_widths(state[_READER + "encoder.layer.0.intermediate.dense.weight"].shape),
            "num_hidden_layers": _layers(state, _READER + "encoder.layer."),
            "vocab_size": words.shape[0],
            "max_position_embeddings": state[
                _READER + "embeddings.position_embeddings.weight"
            ].shape[0],
            "layer_norm_eps": 1e-12,
            # In transformers' BLIP this alone gives a layer its cross-attention.
            "is_decoder": True,
        },
    }


def _widths(inner: tuple[int, ...]) -> dict[str, Any]:
    hidden, width = inner
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_attention_heads": width // _HEAD_WIDTH,
        "hidden_act": "gelu",
    }


def _layers(state: State, start: str) -> int:
    found = (re.match(re.escape(start) + r"(\d+)\.", key) for key in state)
    return len({match[1] for match in found if match})
