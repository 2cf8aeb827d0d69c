"""Random weights in the key layouts that authors published, small enough for a test."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from rewards.convert import convert

State = dict[str, Tensor]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "red", "blue", "cat", "dog", "##s", "two", "birds", "on", "wire", ","]
EYE, BERT, LAYERS = 64, 128, 2


class Draw:
    """Random matrices and layer normalisations, reproducibly."""

    def __init__(self, seed: int, scale: float = 0.2) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.scale = scale

    def __call__(self, *shape: int, scale: float | None = None) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * (scale or self.scale)

    def linear(self, name: str, out: int, into: int) -> State:
        return {f"{name}.weight": self(out, into), f"{name}.bias": self(out)}

    def norm(self, name: str, width: int) -> State:
        return {f"{name}.weight": 1 + self(width, scale=0.1), f"{name}.bias": self(width)}


def image_reward(seed: int = 11) -> State:
    """ImageReward.pt with two layers a side, 32 pixels in patches of 16, and a small vocabulary."""
    draw, eye, text = Draw(seed), "blip.visual_encoder.", "blip.text_encoder."
    state = {
        eye + "cls_token": draw(1, 1, EYE),
        eye + "pos_embed": draw(1, 5, EYE),
        eye + "patch_embed.proj.weight": draw(EYE, 3, 16, 16),
        eye + "patch_embed.proj.bias": draw(EYE),
        **draw.norm(eye + "norm", EYE),
        text + "embeddings.word_embeddings.weight": draw(len(WORDS) + 2, BERT),
        text + "embeddings.position_embeddings.weight": draw(40, BERT),
        text + "embeddings.position_ids": torch.arange(40)[None],
        **draw.norm(text + "embeddings.LayerNorm", BERT),
        **draw.linear("blip.vision_proj", 16, EYE),
        **draw.linear("blip.text_proj", 16, BERT),
    }
    for i in range(LAYERS):
        block, layer = f"{eye}blocks.{i}.", f"{text}encoder.layer.{i}."
        state |= draw.norm(block + "norm1", EYE) | draw.norm(block + "norm2", EYE)
        state |= draw.linear(block + "attn.qkv", 3 * EYE, EYE)
        state |= draw.linear(block + "attn.proj", EYE, EYE)
        state |= draw.linear(block + "mlp.fc1", 2 * EYE, EYE)
        state |= draw.linear(block + "mlp.fc2", EYE, 2 * EYE)
        for part, width in (("attention", BERT), ("crossattention", EYE)):
            state |= draw.linear(f"{layer}{part}.self.query", BERT, BERT)
            state |= draw.linear(f"{layer}{part}.self.key", BERT, width)
            state |= draw.linear(f"{layer}{part}.self.value", BERT, width)
            state |= draw.linear(f"{layer}{part}.output.dense", BERT, BERT)
            state |= draw.norm(f"{layer}{part}.output.LayerNorm", BERT)
        state |= draw.linear(layer + "intermediate.dense", 2 * BERT, BERT)
        state |= draw.linear(layer + "output.dense", BERT, 2 * BERT)
        state |= draw.norm(layer + "output.LayerNorm", BERT)
    sizes = [BERT, 96, 32, 16, 8, 1]
    for number, into, out in zip((0, 2, 4, 6, 7), sizes[:-1], sizes[1:], strict=True):
        state |= draw.linear(f"mlp.layers.{number}", out, into)
    return state


def write_image_reward(folder: Path) -> Path:
    """The file as its authors publish it, with BERT's vocabulary beside; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(image_reward(), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder / "ImageReward.pt"


def mps(clip: State, width: int = 128, seed: int = 13) -> State:
    """MPS as re-hosted: `clip` under `mps.model.`, a cross model of two layers beside it."""
    draw = Draw(seed, 0.1)
    state = {f"mps.model.{name}": tensor for name, tensor in clip.items()}
    for i in range(LAYERS):
        start = f"mps.cross_model.layers.{i}."
        state |= draw.norm(start + "0.fn.norm", width) | draw.norm(start + "1.fn.norm", width)
        state |= {
            start + "0.fn.to_q.weight": draw(width, width),
            start + "0.fn.to_kv.weight": draw(128, width),
            start + "0.fn.to_out.weight": draw(width, width),
            start + "0.fn.ff.0.weight": draw(8 * width, width),
            start + "0.fn.ff.2.weight": draw(width, 4 * width),
            start + "1.fn.rotary_emb.inv_freq": 10000 ** (-torch.arange(0, 64, 2) / 64),
            start + "1.fn.fused_attn_ff_proj.weight": draw(9 * width + 128, width),
            start + "1.fn.attn_out.weight": draw(width, width),
            start + "1.fn.ff_out.1.weight": draw(width, 4 * width),
        }
    return state


def write_safety_checker(clip: Path, folder: Path, seed: int = 17) -> None:
    """The checker as published, its image side that of the CLIP in folder `clip`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(clip / "model.safetensors")
    draw = Draw(seed)
    width = weights["visual_projection.weight"].shape[0]
    state = {
        f"vision_model.{name}": tensor
        for name, tensor in weights.items()
        if name.startswith("vision_model.")
    }
    state |= {
        "visual_projection.weight": weights["visual_projection.weight"],
        "concept_embeds": draw(17, width),
        "special_care_embeds": draw(3, width),
        # Where random features lie, so that some images are flagged and some not.
        "concept_embeds_weights": 0.07 + draw(17, scale=0.005),
        "special_care_embeds_weights": 0.01 + draw(3, scale=0.005),
    }
    save_file(state, folder / "model.safetensors")
    config = json.loads((clip / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["StableDiffusionSafetyChecker"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


WIDTH = {
    "clip_vit_l_14": 768,
    "clip_vit_b_32": 512,
    "clip_vit_b_16": 512,
    "open_clip_vit_h_14": 64,
    "pickscore_v1": 64,
    "hpsv2": 64,
    "hpsv2_1": 64,
}
SIZE = 28


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights large enough that different images and prompts give different features."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("logit_scale", "logit_bias")):
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            one = "norm" in name and name.endswith("weight")
            parameter.copy_(one + noise * (0.1 if "norm" in name else 0.2))
    return model


def tiny_clip(features: int, seed: int, act: str = "quick_gelu") -> CLIPModel:
    """A CLIP of two layers, 28 pixels in patches of 14, CLIP's own vocabulary and length."""
    side = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = CLIPConfig(
        vision_config={
            **side,
            "hidden_size": 64,
            "image_size": SIZE,
            "patch_size": 14,
            "hidden_act": act,
        },
        text_config={
            **side,
            "hidden_size": 64,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "hidden_act": act,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
        projection_dim=features,
    )
    return randomised(CLIPModel(config), seed).eval()


def tiny_siglip(folder: Path) -> None:
    """A SigLIP whose features have 1152 numbers, and a tokenizer of six words."""
    side = {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**side, "hidden_size": 64, "image_size": SIZE, "patch_size": 14},
        text_config={
            **side,
            "hidden_size": 64,
            "vocab_size": 8,
            "max_position_embeddings": 6,
            "projection_size": 64,
        },
    )
    randomised(SiglipModel(config), 5).save_pretrained(folder)
    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "blue": 4, "cat": 5, "dog": 6}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)


def write_home(home: Path, originals: Path) -> Path:
    """Write a tiny version of every checkpoint to `home`, as `$MORL_REWARDS_HOME`; return it.

    originals: an empty folder for the authors' files, which are converted.
    """
    for seed, (name, features) in enumerate(WIDTH.items()):
        act = "gelu" if "h_14" in name or "hps" in name or "pick" in name else "quick_gelu"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tiny_clip(features, seed, act).save_pretrained(home / name)
    tiny_siglip(home / "siglip_so400m_384")
    convert("image_reward", write_image_reward(originals), out=home / "image_reward")
    save_file(mps(tiny_clip(128, 12, "gelu").state_dict()), originals / "model.safetensors")
    convert("mps", originals / "model.safetensors", out=home / "mps")
    write_safety_checker(home / "clip_vit_l_14", home / "sd_safety_checker")
    return home
