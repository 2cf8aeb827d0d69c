"""What imperfect images look like: blur, noise, warped outlines, foreign patches, colour casts."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

KINDS = ("blurry", "noisy", "warped", "messy")
"""The words that a caption may use for a distortion, in the order of `Distorted.kinds`."""

# Largest strengths. Blur: share of a 1.2 px Gaussian blur. Noise, cast: in units of the pixel
# range. Warp: pixels, enough to turn a small star into a blob. Patch: side in pixels.
BLUR_SIGMA, NOISE, WARP, CAST = 1.2, 0.10, 3.0, 0.06
PATCH = (6, 20)


@dataclass(frozen=True)
class Distorted:
    """Images after distortion, and which of `KINDS` each has visibly."""

    images: Float[Tensor, "batch 3 height width"]
    kinds: Bool[Tensor, "batch kind"]


def distort(
    images: Float[Tensor, "batch 3 height width"],
    generator: torch.Generator,
    probability: float = 0.3,
) -> Distorted:
    """Apply each kind of `KINDS` with the given probability, and always a slight colour cast.

    Strengths are uniform up to the constants of this file. probability: of each kind,
    independently, in [0, 1]. All random numbers come from `generator`.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"`probability` must be in [0, 1]; got {probability}.")
    n = images.shape[0]
    chosen = torch.rand(n, len(KINDS), generator=generator) < probability
    strength = torch.rand(n, len(KINDS), generator=generator) * chosen
    images = cast(images, CAST, generator)
    images = warp(images, WARP * strength[:, KINDS.index("warped")], generator)
    images = patch(images, chosen[:, KINDS.index("messy")], generator)
    images = images + strength[:, :1, None, None] * (blur(images, BLUR_SIGMA) - images)
    images = add_noise(images, NOISE * strength[:, KINDS.index("noisy")], generator)
    # Below a third of the range nobody would mention the distortion.
    visible = chosen & (strength > 1 / 3)
    visible[:, KINDS.index("messy")] = chosen[:, KINDS.index("messy")]
    return Distorted(images.clamp(0, 1), visible)


def blur(
    images: Float[Tensor, "batch channel height width"], sigma: float
) -> Float[Tensor, "batch channel height width"]:
    """Gaussian blur, separable, borders repeated; sigma in pixels, > 0."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.softmax(-0.5 * (offsets / sigma).square(), 0)
    channels = images.shape[1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel[:, None].expand(channels, 1, -1, 1), groups=channels)


def add_noise(
    images: Float[Tensor, "batch 3 height width"],
    std: Float[Tensor, " batch"],
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 height width"]:
    """Add half fine, half coarse (4 px) Gaussian noise; std: total, in pixel units."""
    n, _, height, width = images.shape
    fine = torch.randn(images.shape, generator=generator)
    coarse = torch.randn(n, 3, height // 4, width // 4, generator=generator)
    both = fine + F.interpolate(coarse, size=(height, width), mode="nearest")
    return images + std[:, None, None, None] * both / 2**0.5


def warp(
    images: Float[Tensor, "batch 3 height width"],
    amplitude: Float[Tensor, " batch"],
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 height width"]:
    """Displace pixels by a smooth random field; amplitude: its standard deviation in pixels."""
    n, _, height, width = images.shape
    field = torch.randn(n, 2, height // 8, width // 8, generator=generator)
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=False)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    grid = F.affine_grid(identity, [n, 1, height, width], align_corners=False)
    shift = field * amplitude[:, None, None, None] * 2 / width
    return F.grid_sample(
        images, grid + shift.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )


def patch(
    images: Float[Tensor, "batch 3 height width"],
    chosen: Bool[Tensor, " batch"],
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 height width"]:
    """Paste a random rectangle of the previous image of the batch into each chosen image."""
    n, _, height, width = images.shape
    side = torch.randint(PATCH[0], PATCH[1] + 1, (n, 2), generator=generator)
    corner = torch.rand(n, 2, generator=generator) * (torch.tensor([width, height]) - side)
    x, y = torch.arange(width)[None, None, :], torch.arange(height)[None, :, None]
    left, top = corner[:, 0, None, None], corner[:, 1, None, None]
    inside = (x >= left) & (x < left + side[:, 0, None, None])
    inside = inside & (y >= top) & (y < top + side[:, 1, None, None]) & chosen[:, None, None]
    return torch.where(inside[:, None], images.roll(1, 0), images)


def cast(
    images: Float[Tensor, "batch 3 height width"], amount: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Multiply and offset each colour channel by random amounts up to `amount`."""
    draw = 2 * torch.rand(2, images.shape[0], 3, 1, 1, generator=generator) - 1
    return images * (1 + amount * draw[0]) + amount / 2 * draw[1]
