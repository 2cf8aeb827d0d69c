"""Train the base model of the embedded world, a genuine Stable Diffusion pipeline, from nothing."""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from morl.diffusion.shapes_stages import Budget, fit_reader, fit_unet, fit_vae
from morl.diffusion.shapes_text import Reader, build_text_encoder, build_tokenizer
from morl.diffusion.shapes_unet import build_scheduler, build_unet
from morl.diffusion.shapes_vae import build_vae, encode_moments, standardize_latents
from rewards.shapes.captions import vocabulary
from rewards.shapes.render import render, sample_scenes


def train_base(
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    budget_scale: float = 1.0,
    device: str = "cpu",
    budget: Budget | None = None,
) -> Path:
    """Train autoencoder, text encoder and U-Net; return the folder of the finished pipeline.

    out_dir: gets `state/` (resumed from if it exists) and `pipeline/` (fp16 safetensors, loads
    with `StableDiffusionPipeline.from_pretrained`). budget_scale multiplies the steps.
    Raises IntegrityError if `state/` belongs to another seed or budget.
    """
    plan = (budget or Budget()).scaled(budget_scale)
    state = Path(out_dir) / "state"
    scenes = sample_scenes(torch.Generator().manual_seed(seed), plan.images)
    images = torch.cat([render(scenes[i : i + 500]) for i in range(0, len(scenes), 500)])
    vae = build_vae(seed, device)
    fit_vae(vae, images, scenes, plan, state, seed)
    moments = _cached_moments(vae, images, state / "moments.safetensors")
    del images  # 600 MB that the denoiser does not need
    latents = standardize_latents(vae, moments.to(device))
    tokenizer = build_tokenizer([*vocabulary(), ","])
    reader = Reader(build_text_encoder(tokenizer, seed)).to(device)
    fit_reader(reader, tokenizer, scenes, plan, state, seed)
    unet = build_unet(seed, device)
    fit_unet(unet, reader.text_encoder, tokenizer, latents, scenes, plan, state, seed)
    return save_pipeline(vae, tokenizer, reader.text_encoder, unet, Path(out_dir) / "pipeline")


def save_pipeline(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    folder: Path,
) -> Path:
    """Write the pipeline in fp16 with `checksums.json` (SHA-256 of every file)."""
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": build_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipeline = StableDiffusionPipeline(**parts)
    pipeline.to(torch.float16).to(memory_format=torch.contiguous_format)
    pipeline.save_pretrained(folder, safe_serialization=True)
    # vocab.json and merges.txt, which other programs read instead of tokenizer.json.
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "checksums.json"
    }
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n")
    return folder


def _cached_moments(vae: AutoencoderKL, images: Tensor, path: Path) -> Tensor:
    if not path.exists():
        partial = path.with_suffix(".partial")
        save_file({"moments": encode_moments(vae, images).cpu().contiguous()}, partial)
        os.replace(partial, path)
    return load_file(path)["moments"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train into a folder, or continue there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder for state and pipeline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="factor on all steps")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    print(train_base(given.out, given.seed, given.minutes_scale, given.device))


if __name__ == "__main__":
    main()
