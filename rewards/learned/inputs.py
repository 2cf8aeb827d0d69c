"""What a learned head reads: features of an encoder that other rewards share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rewards.encoders import Encoder, TextTower, encoder_of
from rewards.errors import nearest
from rewards.features import ENCODERS
from rewards.learned.card import WORLD_ENCODER
from rewards.learned.settings import RewardTrainingError
from rewards.reward import ImageBatch

KNOWN_ENCODERS = (WORLD_ENCODER, *ENCODERS)
PROBE_SIZE = 64  # what the embedded world's encoder takes; others resize
# Half precision and another resampling move features by a few percent; other weights, by far more.
MOST_DEPARTURE = 0.1


def encoder_called(name: str, device: str = "cpu") -> Encoder:
    """The shared encoder of that name; RewardTrainingError, with the nearest, for another name."""
    if name not in KNOWN_ENCODERS:
        raise RewardTrainingError(
            f"encoder: no encoder of one vector an image is called {name!r}; "
            f"{nearest(name, KNOWN_ENCODERS)}"
        )
    if name == WORLD_ENCODER:
        from rewards.shapes.scorers import shipped

        return shipped(device).encoder
    return encoder_of(name, device)


def head_inputs(
    encoder: Encoder, batch: ImageBatch, reads_prompt: bool
) -> Float[Tensor, "batch feature"]:
    """Image features, with gradients where the images require them.

    With prompts: [x, t, e * t], e and t the unit embeddings of image and prompt, e the first
    features of x: the sum of the last part is their cosine, so that an affine head can read it.
    """
    image = encoder.image_features(batch)
    if not reads_prompt:
        return image
    text = F.normalize(encoder.text_features(batch.prompts).to(image), dim=1)
    embedding = F.normalize(image[:, : text.shape[1]], dim=1)
    return torch.cat([image, text, embedding * text], dim=1)


def require_prompts(encoder: Encoder, reads_prompt: bool) -> None:
    """RewardTrainingError where prompts are to be read and the encoder cannot."""
    if reads_prompt and not isinstance(encoder.tower, TextTower):
        raise RewardTrainingError(
            f"reads_prompt: encoder {encoder.name!r} reads images alone; take one with a text tower"
        )


@torch.no_grad()
def fingerprint(encoder: Encoder) -> Float[Tensor, " feature"]:
    """Features of one fixed picture: the same weights give the same, whatever their file is."""
    ramp = torch.linspace(0, 1, PROBE_SIZE)
    x, y = ramp.expand(PROBE_SIZE, -1), ramp[:, None].expand(-1, PROBE_SIZE)
    inside = ((x - 0.4).square() + (y - 0.6).square() < 0.06).float()
    picture = torch.stack([0.2 + 0.6 * inside, 0.9 - 0.5 * x, 0.3 + 0.4 * y * (1 - inside)])
    return encoder.image_features(ImageBatch(picture[None], [""]))[0].cpu()


def departure(found: Float[Tensor, " feature"], known: Float[Tensor, " feature"]) -> float:
    """Relative distance of two fingerprints; infinite where their lengths differ."""
    if found.shape != known.shape:
        return float("inf")
    return ((found - known).norm() / known.norm().clamp(min=1e-12)).item()
