"""One batch of images through the pipeline's own call, at weights that may change with the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from morl.diffusion.families import Family, decode
from morl.diffusion.prompts import Conditioning
from morl.diffusion.rollout import initial_latents
from morl.lora.conditioned import ConditionedAdapter
from morl.randomness import generator


@dataclass(frozen=True)
class Settings:
    """steps >= 1; guidance >= 1, 1 being none; size: (height, width) in pixels, None: its own."""

    steps: int
    guidance: float
    size: tuple[int, int] | None


@torch.no_grad()
def draw(
    pipe: DiffusionPipeline,
    family: Family,
    adapter: ConditionedAdapter,
    conditioning: Conditioning,
    weights: Callable[[int], Float[Tensor, "rows objective"]],
    seeds: Sequence[int],
    settings: Settings,
) -> list[Image.Image]:
    """Draw one image for each prompt and seed with whatever scheduler the pipeline has.

    weights: of each step, counted from 0. All noise of an image comes from its seed.
    """
    noise = [
        initial_latents(pipe, family, 1, generator(seed, 0, 0, "latents"), settings.size)
        for seed in seeds
    ]
    embeddings = conditioning.arguments(family.groups(settings.guidance) == 2)
    # Not `pipe.dtype`, which is the autoencoder's where that one is kept in fp32.
    latents = torch.cat(noise).to(embeddings["prompt_embeds"].dtype)
    height, width = latents.shape[-2:]

    def next_weights(_pipe: Any, step: int, _timestep: Any, _state: Any) -> dict[str, Any]:
        if step + 1 < settings.steps:
            adapter.set_weights(weights(step + 1))
        return {}

    with adapter.bind(weights(0)):
        result = pipe(
            **embeddings,
            **family.call_arguments,
            latents=family.pack(latents),
            height=height * pipe.vae_scale_factor,
            width=width * pipe.vae_scale_factor,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            # Only samplers that draw noise on the way read these.
            generator=[generator(seed, 0, 0, "steps") for seed in seeds],
            callback_on_step_end=next_weights,
            output_type="latent",
            return_dict=False,
        )[0]
    images = decode(pipe, family.unpack(result, height, width))
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in pixels]
