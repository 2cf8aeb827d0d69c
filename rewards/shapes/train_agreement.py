"""Fit the members that judge how well an image fits its prompt."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from rewards.shapes.clip import ShapesClip
from rewards.shapes.heads import AgreementHead
from rewards.shapes.labels import Labels
from rewards.shapes.train_clip import (
    contrastive_loss,
    encode_images,
    encode_texts,
    fits,
    picture_pool,
    scene_attributes,
    text_attributes,
    true_and_false_captions,
)

SCALE = 20.0  # inverse temperature of the contrastive loss


@dataclass(frozen=True)
class AgreementTraining:
    """How the agreement members are fitted."""

    pictures: int = 3000
    """Distorted renders with captions, for the contrastive loss."""
    steps: int = 300
    batch_size: int = 96
    learning_rate: float = 3e-3
    match_weight: float = 5.0
    """Weight of the annotators' match ratings beside the contrastive loss."""


@dataclass(frozen=True)
class _Captioned:
    """Frozen features of pictures and of a true and a false caption each, and their attributes."""

    image: Float[Tensor, "batch seen"]
    text: Float[Tensor, "caption feature"]
    shown: Int[Tensor, "batch attribute"]
    named: Int[Tensor, "caption attribute"]


def fit_agreement(
    head: AgreementHead,
    clip: ShapesClip,
    labels: Labels,
    training: AgreementTraining,
    generator: torch.Generator,
) -> None:
    """Train each member on its own bootstrap of pictures and of match ratings, in place.

    Loss: contrastive on captioned renders, which teaches what words mean, plus the squared error
    of the members' scores against the match ratings, which teaches how bad a bad picture is.
    """
    data = _captioned(clip, training.pictures, generator)
    rated = encode_images(clip, labels.images)
    asked = torch.stack([encode_texts(clip, texts) for texts in (labels.prompts, labels.changed)])
    members = head.scale.shape[0]
    own = torch.randint(len(data.image), (members, len(data.image)), generator=generator)
    own_rated = torch.randint(len(rated), (members, len(rated)), generator=generator)
    optimizer = torch.optim.AdamW(head.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    for _ in tqdm(range(training.steps), desc="agreement members", mininterval=5):
        batch = (members, training.batch_size)
        rows = own.gather(1, torch.randint(own.shape[1], batch, generator=generator))
        loss = _contrastive(head, data, rows)
        rows = own_rated.gather(1, torch.randint(own_rated.shape[1], batch, generator=generator))
        for which in range(2):
            x, t = head.project(rated[rows], asked[which][rows])
            scores = head.scale[:, None] * (x * t).sum(-1) + head.offset[:, None]
            errors = (scores - labels.matches[rows, which]).square().mean(1)
            loss = loss + training.match_weight * errors.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _contrastive(
    head: AgreementHead, data: _Captioned, rows: Int[Tensor, "member batch"]
) -> Float[Tensor, ""]:
    """Sum over members of the contrastive loss on each member's own rows."""
    captions = torch.cat([rows, rows + len(data.image)], 1)
    x, t = head.project(data.image[rows], data.text[captions])
    scale = torch.tensor(SCALE)
    losses = [
        contrastive_loss(x[m], t[m], fits(data.shown[rows[m]], data.named[captions[m]]), scale)
        for m in range(len(rows))
    ]
    return torch.stack(losses).sum()


def _captioned(clip: ShapesClip, n: int, generator: torch.Generator) -> _Captioned:
    scenes, pictures = picture_pool(n, generator)
    true, false = true_and_false_captions(scenes, pictures.kinds, generator)
    texts = [*true, *false]
    return _Captioned(
        encode_images(clip, pictures.images.float() / 255),
        encode_texts(clip, texts),
        scene_attributes(scenes),
        text_attributes(texts),
    )
