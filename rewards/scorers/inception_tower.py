"""The Inception that FID and KID were defined with, on torchvision's network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchvision.models.inception import Inception3

from rewards.encoder_settings import EncoderSettings
from rewards.pixels import to_bytes
from rewards.scorers.loading import load_state

SIZE = 299
CLASSES = 1008  # TensorFlow's, of which ImageNet's 1,000 are a part
Planes = Float[Tensor, "batch channel row column"]


class PoolBranch(nn.Module):
    """A block of torchvision with another pooling in its last branch."""

    def __init__(self, block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block = block
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        *branches, _ = self.block._forward(x)  # type: ignore[operator]
        return torch.cat([*branches, self.block.branch_pool(self.pool(x))], dim=1)  # type: ignore[operator]


def inner_mean(x: Tensor) -> Tensor:
    """Mean of 3 x 3 places, of those inside the image at its border."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """Maximum of 3 x 3 places."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


# TensorFlow's poolings, in the last block a maximum by what is said to be a mistake.
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), inner_mean),
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), inner_mean),
    "Mixed_7b": inner_mean,
    "Mixed_7c": maximum,
}


class InceptionTower(nn.Module):
    """2,048 means over places of the last block.

    Images are resized as by clean-fid (arXiv 2104.11222): channel by channel by PIL in floating
    point, bicubic, to 299 x 299, clipped to 0 .. 255 and not rounded; x -> (x - 128) / 128. There
    is no gradient: this judges sets and trains nothing.
    """

    def __init__(self, network: Inception3) -> None:
        super().__init__()
        network.fc = nn.Identity()
        for name, pool in POOLS.items():
            setattr(network, name, PoolBranch(getattr(network, name), pool))
        self.network = network.eval()

    @torch.no_grad()
    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Features of images in [0, 1], rounded to 8 bits first as files are."""
        first = next(self.network.parameters())
        pixels = torch.stack([resized(image) for image in to_bytes(images)])
        features: Tensor = self.network(((pixels - 128) / 128).to(first.device, first.dtype))
        return features


def resized(image: np.ndarray) -> Float[Tensor, "3 299 299"]:
    """One image of 8 bits [height, width, 3] at Inception's size, in 0 .. 255."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for channel in image.astype(np.float32).transpose(2, 0, 1)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255)


def inception_fid(folder: Path, settings: EncoderSettings) -> InceptionTower:
    """The network of one folder; CheckpointError for another or an incomplete one.

    `settings.pixels` plays no part: PIL resizes in any case.
    """
    del settings
    network = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
    # Counts batches in training; files from TensorFlow have none.
    load_state(network, folder, optional=("num_batches_tracked",))
    return InceptionTower(network)
