"""What sets of images are compared by: an encoder of the registry, or a local Inception."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewards.checkpoints import CHECKPOINTS, CheckpointError
from rewards.encoders import encoder_of
from rewards.errors import nearest
from rewards.pixels import to_bytes
from rewards.reward import ImageBatch

Images = Float[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch feature"]

CMMD_ENCODER = "clip_vit_l_14_336"
INCEPTION_SIZE = 299
_TOWERS = ("rewards.scorers.clip_tower:", "rewards.scorers.siglip_tower:")
# Those whose image features are one vector an image.
ENCODERS = tuple(name for name, row in CHECKPOINTS.items() if row.source.startswith(_TOWERS))


class FeatureExtractor(Protocol):
    """One vector an image; an encoder, or anything of a user's own."""

    def __call__(self, images: Images) -> Features:
        """Features of images in [0, 1], without gradient."""


class EncoderFeatures:
    """Image features of an encoder of `ENCODERS`, as it is configured, not normalised."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        if name not in ENCODERS:
            raise CheckpointError(
                f"no encoder of images is called {name!r}; {nearest(name, ENCODERS)}"
            )
        self.encoder = encoder_of(name, device)

    @torch.no_grad()
    def __call__(self, images: Images) -> Features:
        return self.encoder.image_features(ImageBatch(images, [""] * len(images))).cpu()


class InceptionFeatures:
    """The 2,048 pooled features of the Inception that FID and KID were defined with.

    path: the TorchScript file `inception-2015-12-05.pt` of StyleGAN's authors. TorchScript is a
    program: open no file that you would not run. Images are resized as by clean-fid (arXiv
    2104.11222): channel by channel in floating point by PIL, bicubic, to 299 x 299, clipped to
    0 .. 255 and not rounded; then x -> (x - 128) / 128. Raises CheckpointError for another file.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        if not path.is_file():
            raise CheckpointError(f"no such file: {path}")
        try:
            network = torch.jit.load(str(path), map_location=device).eval()
            self._layers = network.layers
        except (RuntimeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is no TorchScript Inception: {error}") from error
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Images) -> Features:
        pixels = torch.stack([_resized(image) for image in to_bytes(images)])
        found: Tensor = self._layers((pixels.to(self._device) - 128) / 128)
        return found.flatten(1).float().cpu()


def _resized(image: np.ndarray) -> Float[Tensor, "3 299 299"]:
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC))
        for channel in image.astype(np.float32).transpose(2, 0, 1)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255)
