"""What sets of images are compared by: image features of the registry's encoders."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.checkpoints import CHECKPOINTS, CheckpointError
from rewards.encoders import encoder_of
from rewards.errors import nearest
from rewards.reward import ImageBatch

INCEPTION, CMMD_ENCODER = "inception_v3_fid", "clip_vit_l_14_336"
# Their image features are one vector an image; those of others are patches or words.
_TOWERS = (
    "rewards.scorers.clip_tower:",
    "rewards.scorers.siglip_tower:",
    "rewards.scorers.inception_tower:",
)
ENCODERS = tuple(name for name, row in CHECKPOINTS.items() if row.source.startswith(_TOWERS))


class SetFeatures:
    """Image features of an encoder as it is configured, not normalised, on the CPU."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        if name not in ENCODERS:
            hint = nearest(name, ENCODERS)
            raise CheckpointError(f"no encoder of one vector an image is called {name!r}; {hint}")
        self.encoder = encoder_of(name, device)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        return self.encoder.image_features(ImageBatch(images, [""] * len(images))).cpu()
