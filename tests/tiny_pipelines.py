"""Tiny, randomly initialised pipelines of every supported family, built in the process."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

TOKENS = 24
TEXT = 16  # width of every text encoder


def clip_tokenizer() -> CLIPTokenizer:
    characters = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(f"{c}</w>" for c in characters)]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


def clip_config(tokenizer: CLIPTokenizer, width: int = TEXT) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def vae(channels: int = 4) -> AutoencoderKL:
    """Factor 2 between pixels and latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
    )


def unet(cross_attention: int, **options: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention,
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    )


def ddim(**options: object) -> DDIMScheduler:
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "timestep_spacing": "trailing",
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**settings, **options})


def stable_diffusion(prediction: str = "epsilon") -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(TEXT, use_linear_projection=prediction == "v_prediction"),
        scheduler=ddim(prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> StableDiffusionPipeline:
    """What 768-pixel SD 2 differs in: v-prediction and linear projections around attention."""
    return stable_diffusion("v_prediction")


def stable_diffusion_xl(second: int = TEXT) -> StableDiffusionXLPipeline:
    """second: width of the second text encoder, the larger one in the published model."""
    tokenizer = clip_tokenizer()
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer, second)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(
            TEXT + second,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + second,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=ddim(),
        add_watermarker=False,
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    tokenizer = clip_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=2 * TEXT,
            pooled_projection_dim=2 * TEXT,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        text_encoder=CLIPTextModelWithProjection(clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer)),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


T5_PIECES = [
    *((word, 0.0) for word in ("<pad>", "</s>", "<unk>")),
    *((letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,"),
]
T5_SIZES = {
    "vocab_size": len(T5_PIECES),
    "d_model": TEXT,
    "d_kv": 8,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
}


def t5_tokenizer() -> T5Tokenizer:
    return T5Tokenizer(vocab=T5_PIECES, extra_ids=0, model_max_length=TOKENS)


def flux() -> FluxPipeline:
    tokenizer = clip_tokenizer()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(T5Config(**T5_SIZES)),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            pooled_projection_dim=TEXT,
            axes_dims_rope=(4, 6, 6),
            guidance_embeds=True,
        ),
    )
    pipe.default_sample_size = 8
    return pipe


def sana() -> SanaPipeline:
    """Factor 4 between pixels and latents: the pipeline wants multiples of 32 pixels."""
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "a": 4, "red": 5, "star": 6, "ring": 7}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    # As Gemma's own: without it an empty prompt would be all padding.
    plain.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=TEXT,
        intermediate_size=2 * TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    side = {
        "block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "block_out_channels": (8, 8, 8),
        "layers_per_block": (1, 1, 1),
        "qkv_multiscales": ((), (), (5,)),
    }
    return SanaPipeline(
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>"
        ),
        text_encoder=Gemma2Model(config),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            upsample_block_type="interpolate",
            downsample_block_type="stride_conv",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
            **{f"encoder_{name}": value for name, value in side.items()},
            **{f"decoder_{name}": value for name, value in side.items()},
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=TEXT,
            sample_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def auraflow() -> AuraFlowPipeline:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    with torch.no_grad():  # as initialised its gates are nearly shut, and no block counts
        for name, parameter in transformer.named_parameters():
            if name.endswith("norm1.linear.weight"):
                parameter.mul_(40)
    return AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=UMT5EncoderModel(UMT5Config(**T5_SIZES)),
        vae=vae(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd": stable_diffusion,
    "sd2": stable_diffusion_2,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "sana": sana,
    "auraflow": auraflow,
}


def build(name: str) -> DiffusionPipeline:
    """A frozen tiny pipeline, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = BUILDERS[name]()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
