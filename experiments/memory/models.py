"""Published models by their configurations, on the meta device: sizes without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
FOUR = {"block_out_channels": (128, 256, 512, 512), "sample_size": 512}
CLIP_TOKENS, T5_TOKENS = 77, 512


@dataclass(frozen=True)
class Model:
    """The networks of one pipeline, and what one image's denoiser call is given."""

    denoiser: Any
    text_encoders: tuple[nn.Module, ...]
    vae: Any
    inputs: dict[str, Any]


def autoencoder(channels: int) -> AutoencoderKL:
    old = channels == 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        use_quant_conv=old,
        use_post_quant_conv=old,
        **FOUR,
    )


def sd15() -> Model:
    return Model(
        UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        (CLIPTextModel(CLIPTextConfig(**CLIP_L)),),
        autoencoder(4),
        {
            "sample": torch.empty(1, 4, 64, 64),
            "encoder_hidden_states": torch.empty(1, CLIP_TOKENS, 768),
        },
    )


def sdxl() -> Model:
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return Model(
        unet,
        (
            CLIPTextModel(CLIPTextConfig(**CLIP_L)),
            CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIG_G)),
        ),
        autoencoder(4),
        {
            "sample": torch.empty(1, 4, 128, 128),
            "encoder_hidden_states": torch.empty(1, CLIP_TOKENS, 2048),
            "added_cond_kwargs": {
                "text_embeds": torch.empty(1, 1280),
                "time_ids": torch.empty(1, 6),
            },
        },
    )


def sd35() -> Model:
    transformer = SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        caption_projection_dim=1536,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    return Model(
        transformer,
        (
            CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_L)),
            CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIG_G)),
            T5EncoderModel(T5Config(**T5_XXL)),
        ),
        autoencoder(16),
        {
            "hidden_states": torch.empty(1, 16, 128, 128),
            "encoder_hidden_states": torch.empty(1, CLIP_TOKENS + 256, 4096),
            "pooled_projections": torch.empty(1, 2048),
        },
    )


def flux() -> Model:
    tokens = 64 * 64
    return Model(
        FluxTransformer2DModel(guidance_embeds=True),
        (
            CLIPTextModel(CLIPTextConfig(**CLIP_L)),
            T5EncoderModel(T5Config(**T5_XXL)),
        ),
        autoencoder(16),
        {
            "hidden_states": torch.empty(1, tokens, 64),
            "encoder_hidden_states": torch.empty(1, T5_TOKENS, 4096),
            "pooled_projections": torch.empty(1, 768),
            "guidance": torch.empty(1),
            "img_ids": torch.empty(tokens, 3),
            "txt_ids": torch.empty(T5_TOKENS, 3),
        },
    )


BUILDERS = {"sd15": sd15, "sdxl": sdxl, "sd35": sd35, "flux": flux}


def build(name: str) -> Model:
    """Return a model on the meta device; nothing is allocated."""
    with torch.device("meta"):
        return BUILDERS[name]()
