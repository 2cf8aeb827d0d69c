"""Fit the proxies' heads to few, noisy labels, each member of an ensemble on its own bootstrap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from rewards.learned.fit import Descent, fit_members
from rewards.learned.head import EnsembleHead
from rewards.learned.losses import choice_loss, fit_platt, flag_loss
from rewards.shapes.annotators import FLIP_RATE
from rewards.shapes.clip import ShapesClip
from rewards.shapes.heads import AgreementHead
from rewards.shapes.labels import collect_labels
from rewards.shapes.proxies import HeadSizes, Proxies, build_heads
from rewards.shapes.train_agreement import AgreementTraining, fit_agreement
from rewards.shapes.train_clip import encode_images, encode_texts


@dataclass(frozen=True)
class HeadTraining:
    """How many labels there are and how they are fitted; few on purpose, a proxy can be beaten."""

    labelled: int = 1600
    """Images with a rating, an unsafe label and two match ratings each."""
    pairs: int = 10_000
    """Comparisons among the labelled images."""
    held_out: int = 400
    """Further images with an unsafe label, which calibrate its probability."""
    renders: float = 0.4
    """Share of distorted renders in the labelled images; the rest are base-model samples."""
    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 2.0
    agreement: AgreementTraining = field(default_factory=AgreementTraining)
    sizes: HeadSizes = field(default_factory=HeadSizes)


def train_heads(
    clip: ShapesClip,
    images: Float[Tensor, "batch 3 height width"],
    prompts: Sequence[str],
    seed: int,
    training: HeadTraining | None = None,
) -> Proxies:
    """Have base-model samples (and some distorted renders) labelled, and fit the heads to that.

    images, prompts: base-model samples, at least labelled + held_out of them; the statistics that
    make members comparable are taken on them. Everything random follows from `seed`.
    """
    training = training or HeadTraining()
    needed = training.labelled + training.held_out
    if len(images) < needed or len(prompts) != len(images):
        raise ValueError(
            f"`images` must hold at least {needed} base-model samples, each with its prompt; "
            f"got {len(images)} images and {len(prompts)} prompts."
        )
    generator = torch.Generator().manual_seed(seed)
    clip = clip.eval()
    heads = build_heads(training.sizes, clip, seed)
    regressors = {name: head for name, head in heads.items() if isinstance(head, EnsembleHead)}
    agreement = heads["alignment"]
    assert isinstance(agreement, AgreementHead)

    order = torch.randperm(len(images), generator=generator)[:needed].tolist()
    seen, unseen = order[: training.labelled], order[training.labelled :]
    share = training.renders
    labels, check = (
        collect_labels(images[rows], [prompts[i] for i in rows], share, pairs, generator)
        for rows, pairs in ((seen, training.pairs), (unseen, 1))
    )
    features = encode_images(clip, labels.images)
    for head in regressors.values():
        head.standardise(features)
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "aesthetic": lambda s: (s - labels.ratings[:, None]).square(),
        "preference": lambda s: choice_loss(s[labels.first], s[labels.second], labels.chosen),
        "unsafe": lambda s: flag_loss(s, labels.unsafe, FLIP_RATE),
    }
    descent = Descent(training.steps, training.learning_rate, training.weight_decay)
    for name in tqdm(losses, desc="proxy heads"):
        fit_members(regressors[name], features, losses[name], descent, generator)
    fit_agreement(agreement, clip, labels, training.agreement, generator)

    base = encode_images(clip, images)
    with torch.no_grad():
        logits = regressors["unsafe"](encode_images(clip, check.images))
        scores = {name: head(base) for name, head in regressors.items()}
        scores["alignment"] = agreement(base, encode_texts(clip, prompts))
    return Proxies(
        clip,
        heads.eval().requires_grad_(False),
        training.sizes,
        {name: values.mean(0) for name, values in scores.items()},
        {name: values.std(0) for name, values in scores.items()},
        fit_platt(logits, check.unsafe, FLIP_RATE),
    )
