"""Follow a proxy's gradient on the base model's latents, and watch the gold measure."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from morl.diffusion.families import decode
from rewards.registry import build
from rewards.reward import ImageBatch

OBJECTIVES = ("aesthetic", "alignment", "preference")


def ascend(
    pipe: DiffusionPipeline,
    latents: Float[Tensor, "batch channel height width"],
    prompts: list[str],
    objective: str,
    steps: int,
    learning_rate: float,
    pessimism: float,
    every: int,
) -> list[dict[str, float]]:
    """Adam on the latents for the mean of (proxy - pessimism * std); means by step.

    No model limits where the latents go: hacking is reached much sooner than in training.
    """
    proxy, gold = build(f"shapes_{objective}"), build(f"gold_{objective}")
    free = latents.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([free], lr=learning_rate)
    curve = []
    for step in range(steps + 1):
        images = decode(pipe, free)
        batch = ImageBatch(images.clamp(0, 1), prompts)
        scores = proxy.score(batch)
        std = scores.std if scores.std is not None else torch.zeros_like(scores.values)
        if step % every == 0:
            truth = gold.score(ImageBatch(images.detach().clamp(0, 1), prompts))
            curve.append(
                {
                    "step": float(step),
                    "proxy": scores.values.mean().item(),
                    "std": std.mean().item(),
                    "gold": truth.values.mean().item(),
                }
            )
        optimizer.zero_grad()
        (pessimism * std - scores.values).mean().backward()
        optimizer.step()
    return curve
