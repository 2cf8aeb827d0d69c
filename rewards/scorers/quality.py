"""Rewards without a network: file size and colour statistics, for tutorials and as constraints."""

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

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
JPEG_QUALITY = 95
TINY = 1e-8  # keeps gradients of square roots and quotients finite on grey images


class _Statistic(Reward):
    """A closed form on pixels; the device is that of the images."""

    def __init__(self, device: str = "cpu") -> None:
        del device  # there is nothing to place

    def score(self, batch: ImageBatch) -> Scores:
        return Scores.of(self._values(batch.images))

    @abstractmethod
    def _values(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, " batch"]: ...


class JpegCompressibility(Reward):
    """Minus the size in kB (1,000 bytes) as a JPEG file of quality 95.

    The reward of DDPO, arXiv 2305.13301, section 6.1. Not differentiable.
    """

    facts = FACTS["jpeg_compressibility"]

    def __init__(self, device: str = "cpu") -> None:
        del device  # PIL runs on the CPU

    def score(self, batch: ImageBatch) -> Scores:
        pixels = (batch.images.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        sizes = [_jpeg_bytes(image.numpy()) for image in pixels.cpu()]
        return Scores.of(-torch.tensor(sizes, dtype=torch.float32) / 1000)


class Colorfulness(_Statistic):
    """Strength and spread of the opponent colours.

    M = sqrt(var rg + var yb) + 0.3 sqrt(mean^2 rg + mean^2 yb),  rg = R - G,  yb = (R + G)/2 - B

    for R, G, B in [0, 1] (the published scale is 255 times larger).
    Source: Hasler and Suesstrunk, SPIE Human Vision and Electronic Imaging, 2003, eq. 1-3.
    """

    facts = FACTS["colorfulness"]

    def _values(self, images: Tensor) -> Tensor:
        red, green, blue = images.flatten(2).unbind(dim=1)
        red_green, yellow_blue = red - green, (red + green) / 2 - blue
        spread = red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)
        strength = red_green.mean(dim=1).square() + yellow_blue.mean(dim=1).square()
        return (spread + TINY).sqrt() + 0.3 * (strength + TINY).sqrt()


class Saturation(_Statistic):
    """Mean over pixels of (max - min) / max of the three channels, 0 for black."""

    facts = FACTS["saturation"]

    def _values(self, images: Tensor) -> Tensor:
        high, low = images.amax(dim=1), images.amin(dim=1)
        return ((high - low) / high.clamp(min=TINY)).flatten(1).mean(dim=1)


class Brightness(_Statistic):
    """Mean luma, 0.299 R + 0.587 G + 0.114 B."""

    facts = FACTS["brightness"]

    def _values(self, images: Tensor) -> Tensor:
        return _luma(images).flatten(1).mean(dim=1)


class Contrast(_Statistic):
    """Standard deviation of the luma over pixels (RMS contrast)."""

    facts = FACTS["contrast"]

    def _values(self, images: Tensor) -> Tensor:
        return (_luma(images).flatten(1).var(dim=1, correction=0) + TINY**2).sqrt()


class Sharpness(_Statistic):
    """Mean absolute value of the 4-neighbour Laplacian of the luma, borders left out."""

    facts = FACTS["sharpness"]

    def _values(self, images: Tensor) -> Tensor:
        kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        edges = F.conv2d(_luma(images)[:, None], kernel[None, None])
        return edges.abs().flatten(1).mean(dim=1)


def _luma(images: Tensor) -> Float[Tensor, "batch height width"]:
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))


def _jpeg_bytes(pixels: object) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY)  # type: ignore[arg-type]
    return buffer.tell()
