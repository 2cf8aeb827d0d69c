"""From images in [0, 1] to what an encoder reads: as its authors did it, or differentiably."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from rewards.errors import RewardError

Images = Float[Tensor, "batch 3 height width"]
Resized = Float[Tensor, "batch 3 rows columns"]
PixelMode = Literal["differentiable", "exact"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Half an 8-bit step: a flat white area, whose resized value rounds to a hair above 1, keeps its
# gradient, and what overshoots is cut where 8 bits would cut it.
SLACK = 0.5 / 255
# The shortest side becomes `size`: beyond this a sliver would turn into gigabytes.
LARGEST_ASPECT = 64


class PixelError(RewardError, ValueError):
    """Images that an encoder cannot read: too long, or a gradient asked of PIL."""


@dataclass(frozen=True)
class PixelPlan:
    """How one encoder resizes and normalises; the same in training and in judging.

    `fit` "crop": shortest side to `size`, bicubic, centre crop (CLIP). "squash": both sides to
    `size` (SigLIP). "pad": longest side to `size`, zeros around (HPSv2, whose authors resize the
    tensor and not the PIL image, so that `antialias` is theirs to choose; PIL always antialiases).
    `mode` "differentiable" resizes tensors, within 2/255 of PIL at worst. "exact" rounds to 8 bits
    and calls PIL itself, equal to the authors' code and without gradient. The mode is declared and
    never guessed from `requires_grad`: a judge must not see other pixels than training did.
    `margin`: odd crop margins are rounded half to even by torchvision, down by transformers.
    """

    size: int
    fit: Literal["crop", "squash", "pad"] = "crop"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    mode: PixelMode = "differentiable"
    antialias: bool = True
    margin: Literal["even", "down"] = "even"

    def __post_init__(self) -> None:
        if self.fit != "pad" and not self.antialias:
            raise PixelError("`antialias` false is for fit 'pad' alone: PIL always antialiases")

    def __call__(self, images: Images) -> Float[Tensor, "batch 3 size size"]:
        """Resize and normalise, in float32; PixelError where `mode` cannot give the gradient."""
        resized = self.resized(images.float())
        mean, std = (resized.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (resized - mean) / std

    def resized(self, images: Images) -> Float[Tensor, "batch 3 size size"]:
        """Images of `size` x `size` in [0, 1], before normalising."""
        height, width = images.shape[2:]
        if self.fit == "pad":
            images = _checked(images, self.mode)
            return _padded(images, self.size, self.antialias)
        target = (self.size, self.size)
        if self.fit == "crop":
            short = min(height, width)
            target = (int(self.size * height / short), int(self.size * width / short))
        return self._cropped(resized_to(images, target, self.mode))

    def _cropped(self, images: Images) -> Float[Tensor, "batch 3 size size"]:
        spare = [side - self.size for side in images.shape[2:]]
        top, left = (round(s / 2) if self.margin == "even" else s // 2 for s in spare)
        return images[:, :, top : top + self.size, left : left + self.size]


def resized_to(images: Images, target: tuple[int, int], mode: PixelMode) -> Resized:
    """Images of another height and width, bicubic, in [0, 1]; `mode` as in `PixelPlan`.

    Raises PixelError for slivers, and where `mode` cannot give the gradient.
    """
    images = _checked(images, mode)
    return _resize_by_pil(images, target) if mode == "exact" else _resize(images, target)


def _checked(images: Images, mode: PixelMode) -> Images:
    """The images that are resized: of 8 bits where PIL does it."""
    height, width = images.shape[2:]
    if max(height, width) > LARGEST_ASPECT * min(height, width):
        raise PixelError(
            f"`images` may be at most {LARGEST_ASPECT} times as long as wide; got "
            f"{height} x {width}"
        )
    if mode != "exact":
        return images
    if images.requires_grad and torch.is_grad_enabled():
        raise PixelError(
            "pixels 'exact' go through PIL and have no gradient; a reward gradient needs "
            "pixels 'differentiable' (the default) in the settings of this encoder"
        )
    return _from_bytes(to_bytes(images))


def to_bytes(images: Images) -> UInt8[np.ndarray, "batch height width 3"]:
    """Images as 8 bits a channel, rounded and clipped, without gradient."""
    scaled = (images.detach().float().clamp(0, 1) * 255).round().byte()
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def _from_bytes(pixels: UInt8[np.ndarray, "batch height width 3"]) -> Images:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _resize(images: Images, target: tuple[int, int]) -> Resized:
    """Antialiased bicubic in two passes, clipped in between, as PIL does on bytes.

    The width goes first, unless the height shrinks by more than twice as many pixels: clipping
    between the passes makes the order visible (up to 30/255 on black-and-white noise), and this is
    that of Pillow 13.
    """
    height, width = images.shape[2:]
    shrinks = height - target[0]
    tall = shrinks > 0 and shrinks > 2 * (width - target[1])
    between = (target[0], width) if tall else (height, target[1])
    for size in (between, target):
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
            images = images.clamp(-SLACK, 1 + SLACK)
    return images


def _resize_by_pil(images: Images, target: tuple[int, int]) -> Resized:
    height, width = target
    resized = [
        np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        for pixels in to_bytes(images)
    ]
    return _from_bytes(np.stack(resized))


def _padded(images: Images, size: int, antialias: bool) -> Float[Tensor, "batch 3 size size"]:
    """Longest side to `size`, bicubic without clipping; zeros around, the odd one at the end.

    Source: ResizeMaxSize of HPSv2. Departure: its square images of another shape than the largest
    side of `size` would not be padded at all and would break; here they are.
    """
    scale = size / max(images.shape[2:])
    height, width = (max(1, round(side * scale)) for side in images.shape[2:])
    if images.shape[2:] != (height, width):
        images = F.interpolate(
            images, (height, width), mode="bicubic", antialias=antialias, align_corners=False
        )
    down, right = size - height, size - width
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
