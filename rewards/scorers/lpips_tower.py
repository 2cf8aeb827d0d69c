"""LPIPS as coordinates: an image becomes one vector, and LPIPS is the squared distance of two."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import alexnet

from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.scorers.heads import load_head
from rewards.scorers.loading import load_state

# After which layers of AlexNet's trunk LPIPS looks: its five ReLUs, with their channels.
LOOKS = {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Of 31 pixels the first convolution leaves 7, the two poolings 3 and 1.
LEAST_SIDE = 31
EPS = 1e-10


class LpipsTower(nn.Module):
    """AlexNet's trunk with the published weights of every channel.

    d(x, y) = sum_l 1 / (H_l W_l) sum_hwc v_lc (x_lhwc - y_lhwc)^2 = |phi(x) - phi(y)|^2

    x_l: channels after the l-th ReLU, of length 1 at each place; v_l: weights, not negative;
    phi: all of sqrt(v_lc / (H_l W_l)) x_lhwc in one row. Images keep their size.
    Source: arXiv 1801.03924, version 0.1 of the authors' weights.
    """

    def __init__(self, trunk: nn.Sequential, weights: list[Tensor]) -> None:
        super().__init__()
        self.trunk = trunk
        # No parameters, so that no cast reaches them.
        self._roots = [weight.clamp(min=0).sqrt()[:, None, None] for weight in weights]

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """phi of images in [0, 1], in float32. Raises ValueError for images that are too small."""
        if min(images.shape[2:]) < LEAST_SIDE:
            raise ValueError(
                f"LPIPS reads images of {LEAST_SIDE} pixels a side and more; got "
                f"{images.shape[2]} x {images.shape[3]}"
            )
        first = next(self.trunk.parameters())
        shift, scale = (images.new_tensor(c)[:, None, None] for c in (SHIFT, SCALE))
        x = ((2 * images - 1 - shift) / scale).to(first.device, first.dtype)
        rows, roots = [], iter(self._roots)
        for number, layer in enumerate(self.trunk[: max(LOOKS) + 1]):
            x = layer(x)
            if number in LOOKS:
                seen = x.float()
                length = seen.square().sum(dim=1, keepdim=True).clamp(min=EPS**2).sqrt() + EPS
                places = seen.shape[2] * seen.shape[3]
                root = next(roots).to(seen.device) / places**0.5
                rows.append((root * seen / length).flatten(1))
        return torch.cat(rows, dim=1)


def lpips_alexnet(folder: Path, settings: EncoderSettings) -> LpipsTower:
    """The trunk of one folder, and the weights of the channels that come with the package.

    `settings.pixels` plays no part: nothing is resized.
    """
    del settings
    trunk = alexnet(weights=None).features
    for layer in trunk:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # what LPIPS looks at must outlive the next layer
    load_state(trunk, folder)
    head = load_head("lpips_diversity", {f"lin{i}" for i in range(len(LOOKS))})
    weights = [head[f"lin{i}"] for i in range(len(LOOKS))]
    if [len(weight) for weight in weights] != list(LOOKS.values()):
        raise CheckpointError(f"the head of LPIPS must have {list(LOOKS.values())} channels")
    return LpipsTower(trunk, weights)
