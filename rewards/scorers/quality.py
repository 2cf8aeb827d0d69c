"""Rewards without a network: file size and image statistics, for tutorials and as constraints."""

from __future__ import annotations

import io
from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewards.facts_table import FACTS
from rewards.reward import ImageBatch, Reward, Scores

Images = Float[Tensor, "batch 3 height width"]
Values = Float[Tensor, " batch"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG
JPEG_QUALITY = 95
# A hundredth of an 8-bit step, squared: below it a spread is no colour and gets a finite gradient.
FLAT = 1e-9


def jpeg_compressibility(images: Images) -> Values:
    """Minus the size of each image as a JPEG file of quality 95, in kB of 1,000 bytes.

    `images` in [0, 1]; what lies outside is clipped. No gradient. The size depends on the
    resolution: compare images of one size only.
    Source: the compressibility reward of DDPO, arXiv 2305.13301.
    """
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu()
    sizes = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image.numpy()).save(file, format="JPEG", quality=JPEG_QUALITY)
        sizes.append(file.tell())
    return -torch.tensor(sizes, dtype=torch.float32, device=images.device) / 1000


def colorfulness(images: Images) -> Values:
    """Spread and strength of the opponent colours.

    M = sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)
    rg = R - G,  yb = (R + G) / 2 - B

    R, G, B: channels of `images` in [0, 1]; the published scale is 255 times larger, and there 0
    is grey and 109 extremely colourful. At most sqrt(1.25) sqrt(1 + 0.3^2) = 1.168: variance and
    squared mean add up to the mean of rg^2 + yb^2, which no colour takes above 1.25.
    Source: Hasler and Suesstrunk, Measuring colourfulness in natural images, SPIE 5007, 2003.
    """
    red, green, blue = images.flatten(2).unbind(dim=1)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)
    strength = red_green.mean(dim=1).square() + yellow_blue.mean(dim=1).square()
    return _root(spread) + 0.3 * _root(strength)


def saturation(images: Images) -> Values:
    """Mean over pixels of (max - min) / max of the channels, in [0, 1].

    Pixels darker than one 8-bit step count as less: their hue is rounding, and their gradient
    would grow without bound.
    """
    high, low = images.amax(dim=1), images.amin(dim=1)
    return ((high - low) / high.clamp(min=1 / 255)).flatten(1).mean(dim=1)


def brightness(images: Images) -> Values:
    """Mean luma, 0.299 R + 0.587 G + 0.114 B, in [0, 1]."""
    return _luma(images).flatten(1).mean(dim=1)


def contrast(images: Images) -> Values:
    """Standard deviation of the luma over pixels, in [0, 0.5].

    Source: RMS contrast of Peli, J. Opt. Soc. Am. A 7, 1990.
    """
    return _root(_luma(images).flatten(1).var(dim=1, correction=0))


def sharpness(images: Images) -> Values:
    """Mean absolute 4-neighbour Laplacian of the luma, borders left out, in [0, 4].

    Noise counts as sharp. Needs at least 3 x 3 pixels.
    """
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    edges = F.conv2d(_luma(images)[:, None], kernel[None, None])
    return edges.abs().flatten(1).mean(dim=1)


def _luma(images: Images) -> Float[Tensor, "batch height width"]:
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))


def _root(squares: Values) -> Values:
    """Square root, continued as a line below `FLAT`: 0 at 0, and a finite gradient there."""
    line = squares / FLAT**0.5
    return torch.where(squares > FLAT, squares.clamp(min=FLAT).sqrt(), line)


class ImageStatistic(Reward):
    """A closed form on pixels, computed on the images' own device; no prompt plays a part."""

    def __init__(self, device: str = "cpu") -> None:
        del device  # there is nothing to place

    def score(self, batch: ImageBatch) -> Scores:
        """Measure every image."""
        return Scores.of(self.measure(batch.images))

    @staticmethod
    @abstractmethod
    def measure(images: Images) -> Values:
        """The closed form itself."""


class JpegCompressibility(ImageStatistic):
    """Minus the file size."""

    facts = FACTS["jpeg_compressibility"]
    measure = staticmethod(jpeg_compressibility)


class Colorfulness(ImageStatistic):
    """Spread and strength of the opponent colours."""

    facts = FACTS["colorfulness"]
    measure = staticmethod(colorfulness)


class Saturation(ImageStatistic):
    """Mean HSV saturation."""

    facts = FACTS["saturation"]
    measure = staticmethod(saturation)


class Brightness(ImageStatistic):
    """Mean luma."""

    facts = FACTS["brightness"]
    measure = staticmethod(brightness)


class Contrast(ImageStatistic):
    """Spread of the luma."""

    facts = FACTS["contrast"]
    measure = staticmethod(contrast)


class Sharpness(ImageStatistic):
    """Strength of edges."""

    facts = FACTS["sharpness"]
    measure = staticmethod(sharpness)
