"""The stages of training the embedded base model: autoencoder, reading, denoising."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from morl.diffusion.shapes_fit import Schedule, fit
from morl.diffusion.shapes_text import Reader, reading_labels, reading_loss, tokenize
from morl.diffusion.shapes_unet import TIMESTEPS, build_scheduler, denoising_loss
from morl.diffusion.shapes_vae import WHOLE_SHARE, training_crops, vae_loss
from rewards.shapes.captions import caption
from rewards.shapes.scenes import Scene

EMPTY_CAPTIONS = 0.1  # share of empty captions, what guidance needs


@dataclass(frozen=True)
class Budget:
    """How much of everything; the defaults take about 40 minutes on two CPU cores.

    images: scenes drawn; vae_steps of vae_batch crops (a third as many whole images at the end);
    text_steps of text_batch captions; unet_steps of unet_batch latents. More of these did not help:
    after 5,500 the model drew 92 % of the shapes, and little was left to align.
    """

    images: int = 16_000
    vae_steps: int = 2_000
    vae_batch: int = 48
    text_steps: int = 200
    text_batch: int = 64
    unet_steps: int = 3_000
    unet_batch: int = 48

    def scaled(self, factor: float) -> "Budget":
        """The same with `factor` times the steps, at least one of each."""
        if factor <= 0:
            raise ValueError(f"`budget_scale` must be > 0; got {factor}.")
        steps = {
            field: max(1, round(factor * count))
            for field, count in (
                ("vae_steps", self.vae_steps),
                ("text_steps", self.text_steps),
                ("unet_steps", self.unet_steps),
            )
        }
        return replace(self, **steps)


def fit_vae(
    vae: AutoencoderKL,
    images: Tensor,
    scenes: Sequence[Scene],
    plan: Budget,
    state: Path,
    seed: int,
    stop_after: int | None = None,
) -> bool:
    """Train the autoencoder on crops, then on whole images; returns whether it is finished."""
    whole_from = round((1 - WHOLE_SHARE) * plan.vae_steps)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        if step < whole_from:
            batch = training_crops(images, scenes, plan.vae_batch, generator)
        else:
            count = max(1, plan.vae_batch // 3)
            batch = images[torch.randint(len(images), (count,), generator=generator)]
        scaled = (2 * batch - 1).to(vae.device, memory_format=torch.channels_last)
        return vae_loss(vae, scaled, generator)

    schedule = Schedule(plan.vae_steps, learning_rate=4e-3, warmup=50, average=0.99)
    return fit("vae", vae, loss, schedule, state, seed, stop_after)


def fit_reader(
    reader: Reader,
    tokenizer: CLIPTokenizer,
    scenes: Sequence[Scene],
    plan: Budget,
    state: Path,
    seed: int,
    stop_after: int | None = None,
) -> bool:
    """Teach the text encoder to parse captions; returns whether it is finished."""
    device = reader.questions.weight.device

    def loss(step: int, generator: torch.Generator) -> Tensor:
        _, prompts = _draw_captions(scenes, plan.text_batch, generator)
        token_ids, labels = tokenize(tokenizer, prompts), reading_labels(prompts)
        return reading_loss(reader, token_ids.to(device), labels.to(device))

    schedule = Schedule(plan.text_steps, learning_rate=2e-3, warmup=20, average=0.9)
    return fit("text", reader, loss, schedule, state, seed, stop_after)


def fit_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    latents: tuple[Tensor, Tensor],
    scenes: Sequence[Scene],
    plan: Budget,
    state: Path,
    seed: int,
    stop_after: int | None = None,
) -> bool:
    """Train the U-Net on samples of the posteriors (mean, std); returns whether finished."""
    scheduler = build_scheduler()
    mean, std = latents

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows, prompts = _draw_captions(scenes, plan.unet_batch, generator)
        spread = torch.randn(mean[rows].shape, generator=generator).to(mean.device)
        sample = (mean[rows] + std[rows] * spread).to(unet.device)
        noise = torch.randn(sample.shape, generator=generator).to(unet.device)
        timesteps = torch.randint(TIMESTEPS, (len(sample),), generator=generator).to(unet.device)
        with torch.no_grad():
            context = text_encoder(tokenize(tokenizer, prompts).to(unet.device))[0]
        return denoising_loss(unet, scheduler, sample, context, noise, timesteps)

    schedule = Schedule(plan.unet_steps, 1.5e-3, warmup=50, average=0.998, memory=0.99)
    return fit("unet", unet, loss, schedule, state, seed, stop_after)


def _draw_captions(
    scenes: Sequence[Scene], count: int, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    rows = torch.randint(len(scenes), (count,), generator=generator)
    captions = [caption(scenes[row], generator) for row in rows.tolist()]
    empty = torch.rand(count, generator=generator) < EMPTY_CAPTIONS
    return rows, ["" if drop else text for text, drop in zip(captions, empty, strict=True)]
