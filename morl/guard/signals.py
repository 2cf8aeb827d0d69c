"""What hacked rewards look like, as numbers: pure functions of scores and images."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LAYOUT = 8  # side to which images shrink where only their layout and colours are compared


def paired_drop(best: Float[Tensor, " image"], now: Float[Tensor, " image"]) -> float:
    """How far the mean fell, in standard errors of the paired difference; negative: it rose.

    z = mean(d) / (std(d) / sqrt(n)),  d_i = best_i - now_i

    best, now [n]: the same prompts and noise at two moments, n >= 2. 0 where nothing changed;
    infinite where every image fell by the same amount. As the best of several looks was chosen for
    its height, noise alone gives small positive values.
    """
    fall = (best - now).double()
    mean, error = float(fall.mean()), float(fall.std()) / math.sqrt(len(fall))
    if mean == 0:
        return 0.0
    return mean / error if error > 0 else math.copysign(math.inf, mean)


def group_distance(images: Float[Tensor, "prompt image 3 height width"]) -> float:
    """Mean squared difference between images of one prompt, of their colour layouts.

    Each image is averaged to 8 x 8 first, so that texture and noise count little; images in [0, 1],
    at least two a prompt. It asks no network, and misses whatever keeps the layout.
    """
    prompts, count = images.shape[:2]
    small = torch.nn.functional.adaptive_avg_pool2d(images.flatten(0, 1).float(), LAYOUT)
    # Twice the unbiased variance is the mean squared difference of two draws.
    return float(2 * small.reshape(prompts, count, -1).var(dim=1).mean())


def fine_detail(images: Float[Tensor, "batch 3 height width"]) -> float:
    """Share of the images' energy above half of the Nyquist frequency, mean colour left out.

    Grids, checkerboards and noise that a decoder leaves lie there. In [0, 1]; 0 for flat images.
    """
    grey = images.float().mean(dim=1)
    grey = grey - grey.mean(dim=(1, 2), keepdim=True)
    energy = torch.fft.rfft2(grey).abs().square()
    rows = torch.fft.fftfreq(grey.shape[1], device=grey.device).abs()
    columns = torch.fft.rfftfreq(grey.shape[2], device=grey.device)
    fine = torch.maximum(rows[:, None], columns[None]) > 0.25
    # A real transform stores the mirrored half of the spectrum once.
    once = (columns == 0) | (columns == 0.5)
    energy = energy * torch.where(once, 1.0, 2.0)
    whole = float(energy.sum())
    return float(energy[:, fine].sum()) / whole if whole > 0 else 0.0
