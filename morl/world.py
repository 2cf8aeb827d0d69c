"""Rebuild the embedded world: its base pipeline, and the proxies learned on that model's images."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from morl.diffusion.families import decode, family_of
from morl.diffusion.loading import SHAPES, load_pipeline
from morl.diffusion.prompts import Conditioning, PromptCache
from morl.diffusion.rollout import initial_latents, sample
from morl.diffusion.shapes import train_base
from morl.randomness import generator
from rewards.encoders import Encoder
from rewards.learned.labels import LEAST, Split
from rewards.learned.settings import RewardTrainingError
from rewards.shapes.captions import train_prompts
from rewards.shapes.labelled import labelled
from rewards.shapes.labels import collect_labels
from rewards.shapes.proxies import ASSETS as PROXIES
from rewards.shapes.train import train_proxies

SAMPLES = 2000
BATCH = 100
STEPS = 10
GUIDANCES = (1.0, 2.0)  # labelled images should cover what training and users will see


def train_world(out: str | Path, seed: int = 0, *, install: bool = False) -> Path:
    """Train base model and proxies into `out`; `install` copies them over the packaged assets.

    Resumable: the base model continues where it stopped. About an hour on two CPU cores.
    """
    folder = Path(out)
    pipeline = train_base(folder / "base", seed)
    prompts = train_prompts(SAMPLES, seed)
    images = sample_base(str(pipeline), prompts, seed)
    proxies = train_proxies(folder / "proxies", seed, images, prompts)
    if install:
        for source, target in ((pipeline, SHAPES), (Path(proxies), PROXIES)):
            shutil.copytree(source, target, dirs_exist_ok=True)
    return folder


def world_labels(
    kind: str,
    encoder: Encoder,
    images: int,
    pairs: int,
    held_out: float,
    seed: int,
    renders: float = 0.4,
) -> Split:
    """Have new samples of the base model labelled: `kind` is one of `WORLD_TASKS`.

    images, pairs: of all three parts together, `held_out` of them for validation and test; renders:
    the share of distorted renders in place of samples, as the shipped proxies had it. Raises
    RewardTrainingError for fewer images than the parts need.
    """
    part = round(held_out / 2 * images)
    if part < LEAST or images - 2 * part < LEAST:
        raise RewardTrainingError(
            f"images: validation, test and training need {LEAST} each at least; got {images} "
            f"images with held_out {held_out:g}"
        )
    prompts = train_prompts(images, seed)
    samples = sample_base(str(SHAPES), prompts, seed)
    draw = generator(seed, 0, 0, "world labels")
    order = torch.randperm(images, generator=draw)  # batches of samples differ in guidance
    found = []
    for start, end in pairwise((0, part, 2 * part, images)):
        rows, asked = order[start:end], max(1, round(pairs * (end - start) / images))
        asked_for = [prompts[row] for row in rows.tolist()]
        answers = collect_labels(samples[rows], asked_for, renders, asked, draw)
        found.append(labelled(kind, answers, encoder))
    validation, test, train = found
    return Split(train, validation, test)


def sample_base(
    model: str, prompts: Sequence[str], seed: int
) -> Float[Tensor, "image 3 height width"]:
    """Images of the base model, half of the batches at each guidance scale."""
    pipe = load_pipeline(model)
    encode = PromptCache(pipe, family_of(pipe))
    images = []
    for number, start in enumerate(tqdm(range(0, len(prompts), BATCH), desc="base samples")):
        conditioning = encode(prompts[start : start + BATCH])
        guidance = GUIDANCES[number % len(GUIDANCES)]
        noise = generator(seed, start, 0, "base samples")
        final = base_latents(pipe, conditioning, noise, guidance, STEPS)
        with torch.no_grad():
            images.append(decode(pipe, final))
    return torch.cat(images)


def base_latents(
    pipe: DiffusionPipeline,
    conditioning: Conditioning,
    noise: torch.Generator,
    guidance: float,
    steps: int,
) -> Float[Tensor, "batch channel height width"]:
    """Finished latents of a pipeline without an adapter, one a prompt, from noise of `noise`."""
    family = family_of(pipe)
    count = len(conditioning)
    rollout = sample(
        pipe,
        family,
        conditioning,
        torch.zeros(count, 1),
        latents=initial_latents(pipe, family, count, noise),
        steps=steps,
        guidance=guidance,
        record=False,
    )
    return rollout.final
