"""Pictures with a known right answer: damaged renders, and nonsense that should score low."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.shapes.captions import PromptAttributes, write
from rewards.shapes.distortions import blur
from rewards.shapes.render import (
    BACKGROUND_RGB,
    COLOR_RGB,
    IMAGE_SIZE,
    figure_geometry,
    figure_mask,
    render,
    sample_scenes,
)
from rewards.shapes.scenes import Scene, combinations

OPPOSITE = {"center": "left", "left": "right", "right": "left", "top": "bottom", "bottom": "top"}

Images = Float[Tensor, "batch 3 height width"]


def random_scenes(n: int, seed: int) -> list[Scene]:
    """Scenes of all combinations, train and held out."""
    return sample_scenes(torch.Generator().manual_seed(seed), n, combinations())


def full_prompts(scenes: list[Scene]) -> list[str]:
    """A prompt that names everything in the scene, the mark too."""
    generator = torch.Generator().manual_seed(0)
    return [
        write(
            PromptAttributes(s.shape, s.color, s.background, s.position, s.size, s.mark), generator
        )
        for s in scenes
    ]


def damaged(images: Images, seed: int) -> dict[str, Images]:
    """The renders as they are, shifted by (-2, +3) pixels, blurred, and with pixel noise."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return {
        "clean": images,
        "shifted (-2, +3) px": images.roll((3, -2), (2, 3)),
        "blurred, 1 px": blur(images, 1.0),
        "noisy, 0.05": (images + 0.05 * noise).clamp(0, 1),
    }


def nonsense(scenes: list[Scene], seed: int) -> dict[str, Images]:
    """What no prompt asks for, made from scenes that fit the prompts otherwise."""
    builders: dict[str, Callable[[list[Scene], int], Images]] = {
        "blank": _blank,
        "noise": _noise,
        "checkerboard": _checkerboard,
        "half shape": _half,
        "two shapes": _two,
    }
    return {name: build(scenes, seed) for name, build in builders.items()}


def _blank(scenes: list[Scene], seed: int) -> Images:
    return render([replace(s, scale=1e-3, mark=False) for s in scenes])


def _noise(scenes: list[Scene], seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(scenes), 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def _checkerboard(scenes: list[Scene], seed: int) -> Images:
    """Fields of 4 to 12 pixels in the scene's two colours."""
    axis = torch.arange(IMAGE_SIZE)
    pictures = []
    for number, scene in enumerate(scenes):
        side = 4 + number % 9
        field = (axis[:, None] // side + axis[None] // side) % 2
        pair = torch.tensor([COLOR_RGB[scene.color], BACKGROUND_RGB[scene.background]])
        pictures.append(pair[field].permute(2, 0, 1))
    return torch.stack(pictures)


def _half(scenes: list[Scene], seed: int) -> Images:
    """The left half of every other figure is missing, the upper half of the others."""
    centre, _ = figure_geometry(scenes)
    axis = torch.arange(IMAGE_SIZE) + 0.5
    left = (axis[None, None, :] < centre[:, :1, None]).expand(-1, IMAGE_SIZE, -1)
    upper = (axis[None, :, None] < centre[:, 1:, None]).expand(-1, -1, IMAGE_SIZE)
    odd = (torch.arange(len(scenes)) % 2 == 1)[:, None, None]
    missing = torch.where(odd, upper, left)[:, None]
    empty = render([replace(s, scale=1e-3) for s in scenes])
    return torch.where(missing, empty, render(scenes))


def _two(scenes: list[Scene], seed: int) -> Images:
    """A second, random figure of the same size at another place."""
    others = [
        replace(o, position=OPPOSITE[s.position], size=s.size)
        for s, o in zip(scenes, random_scenes(len(scenes), seed + 1), strict=True)
    ]
    images = render(scenes)
    colors = torch.tensor([COLOR_RGB[o.color] for o in others])[:, :, None, None]
    return torch.lerp(images, colors.expand_as(images), figure_mask(others)[:, None])
