"""Does the constraint of a run of the embedded world take darkness, or marks that are asked for?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

import morl
from morl.diffusion.families import decode, family_of
from morl.diffusion.loading import load_pipeline
from morl.diffusion.prompts import PromptCache
from morl.inference import Slider
from morl.prompts import load_prompts
from morl.world import GUIDANCES, STEPS, base_latents
from rewards.images import to_images
from rewards.shapes.captions import parse
from rewards.shapes.gold import attributes_of
from rewards.shapes.scenes import BACKGROUNDS

Images = Float[Tensor, "image 3 height width"]
IMAGES = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory of `morl train shapes`")
    given = parser.parse_args()
    prompts = [(prompt, parse(prompt)) for prompt in load_prompts("shapes", "held_out", 0)]
    dark = [p for p, named in prompts if named.background == "dark" and not named.asks_mark]
    asked = [p for p, named in prompts if named.asks_mark]
    dark, asked = dark[:IMAGES], asked[:IMAGES]
    print(
        "| adapter at | dark background | mark on dark, unasked | mark, asked |\n|---|---|---|---|"
    )
    pipe = load_pipeline()
    print(line("base model", *(from_base(pipe, part) for part in (dark, asked))), flush=True)
    slider = morl.load(given.run)
    names = slider.names
    for weights in [*({name: 1.0} for name in names), dict.fromkeys(names, 1 / len(names))]:
        pictures = (drawn(slider, part, weights) for part in (dark, asked))
        print(line(" ".join(weights), *pictures), flush=True)


def line(title: str, dark: Images, asked: Images) -> str:
    """One row: shares of the images for dark prompts, and of those for prompts with a mark."""
    seen, wanted = attributes_of(dark), attributes_of(asked)
    shares = (seen.background == BACKGROUNDS.index("dark"), seen.mark > 0.5, wanted.mark > 0.5)
    return f"| {title} | " + " | ".join(f"{share.float().mean():.2f}" for share in shares) + " |"


@torch.no_grad()
def from_base(pipe: DiffusionPipeline, prompts: Sequence[str]) -> Images:
    """One image a prompt from the base model, at the guidance and steps of the recipe."""
    conditioning = PromptCache(pipe, family_of(pipe))(prompts)
    noise = torch.Generator().manual_seed(0)
    return decode(pipe, base_latents(pipe, conditioning, noise, GUIDANCES[0], STEPS))


def drawn(slider: Slider, prompts: Sequence[str], weights: Mapping[str, float]) -> Images:
    """One image a prompt from the adapter, as a user draws it."""
    return to_images(slider.generate(prompts, dict(weights), seed=list(range(len(prompts)))))


if __name__ == "__main__":
    main()
