"""HPSv3's published tensors under transformers' names of Qwen2-VL, with its head beside."""

from __future__ import annotations

import re
from typing import Any

from rewards.layouts import Renaming, State, dropped, renamed, replacing

# Widths of one attention head, which no shape tells: of Qwen2 and of its image side.
_HEAD_WIDTH, _EYE_HEAD_WIDTH = 128, 80
_PATCH, _MERGE, _FRAMES = 14, 2, 2
# Shares of a text head's frequencies for time, height and width.
_SECTIONS = [16, 24, 24]

# Two generations of transformers wrote such files; nothing is generated, so words have no head.
_TABLE: dict[str, Renaming] = {
    "model.visual.": replacing("model.", ""),
    "model.language_model.": replacing("model.", ""),
    "model.": replacing("model.", "language_model."),
    "visual.": replacing("", ""),
    "rm_head.": replacing("", ""),
    "lm_head.": dropped,
}


def hpsv3_to_transformers(state: State) -> State:
    """Weights of a Qwen2VLModel and of `rm_head`; CheckpointError names one that has no place."""
    return renamed(state, _TABLE, "HPSv3")


def hpsv3_config(state: State) -> dict[str, Any]:
    """What transformers' Qwen2VLConfig needs, read off the shapes."""
    named = hpsv3_to_transformers(state)
    rows, width = named["language_model.embed_tokens.weight"].shape
    layer = "language_model.layers.0."
    eye = named["visual.patch_embed.proj.weight"].shape[0]
    return {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLModel"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": _layers(named, "visual.blocks."),
            "embed_dim": eye,
            "hidden_size": width,
            "mlp_ratio": named["visual.blocks.0.mlp.fc1.weight"].shape[0] // eye,
            "num_heads": eye // _EYE_HEAD_WIDTH,
            "patch_size": _PATCH,
            "spatial_merge_size": _MERGE,
            "temporal_patch_size": _FRAMES,
        },
        "text_config": {
            "model_type": "qwen2_vl_text",
            "vocab_size": rows,
            "hidden_size": width,
            "intermediate_size": named[layer + "mlp.gate_proj.weight"].shape[0],
            "num_hidden_layers": _layers(named, "language_model.layers."),
            "num_attention_heads": width // _HEAD_WIDTH,
            "num_key_value_heads": named[layer + "self_attn.k_proj.weight"].shape[0] // _HEAD_WIDTH,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": _SECTIONS,
            },
            "bos_token_id": None,
            "eos_token_id": None,
        },
    }


def _layers(state: State, start: str) -> int:
    found = (re.match(re.escape(start) + r"(\d+)\.", key) for key in state)
    return len({match[1] for match in found if match})
