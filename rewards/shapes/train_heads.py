"""Fit the proxies' heads to few, noisy labels, each member of an ensemble on its own bootstrap."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from rewards.shapes.annotators import FLIP_RATE
from rewards.shapes.clip import ShapesClip
from rewards.shapes.heads import AgreementHead, EnsembleHead
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
        "unsafe": lambda s: flag_loss(s, labels.unsafe),
    }
    for name in tqdm(losses, desc="proxy heads"):
        fit_members(regressors[name], features, losses[name], training, generator)
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
        fit_platt(logits, check.unsafe),
    )


def fit_members(
    head: EnsembleHead,
    features: Float[Tensor, "batch feature"],
    loss_of: Callable[[Float[Tensor, "batch member"]], Float[Tensor, "item member"]],
    training: HeadTraining,
    generator: torch.Generator,
) -> None:
    """Minimise each member's mean loss over its own bootstrap of the items, in place."""
    with torch.no_grad():
        items, members = loss_of(head(features)).shape
    draws = torch.randint(items, (members, items), generator=generator)
    counts = torch.stack([torch.bincount(d, minlength=items) for d in draws], 1)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    for _ in range(training.steps):
        loss = (counts * loss_of(head(features))).sum() / items
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def choice_loss(
    first: Float[Tensor, "pair member"],
    second: Float[Tensor, "pair member"],
    chosen: Bool[Tensor, " pair"],
) -> Float[Tensor, "pair member"]:
    """Bradley-Terry: -log sigmoid(s_chosen - s_other).

    Source: arXiv 2203.02155, equation 1.
    """
    sign = torch.where(chosen, 1.0, -1.0)[:, None]
    return -F.logsigmoid(sign * (first - second))


def flag_loss(
    logits: Float[Tensor, "batch member"],
    flagged: Bool[Tensor, " batch"],
    slope: float | Float[Tensor, ""] = 1.0,
    offset: float | Float[Tensor, ""] = 0.0,
) -> Float[Tensor, "batch member"]:
    """Cross-entropy against labels of which a known share is flipped ("forward correction").

    -log q(label), q(1) = (1 - e) p + e (1 - p), p = sigmoid(slope * logit + offset)

    e: `FLIP_RATE`. Without it the probability of a clean image could not fall below e, and a
    bound near e could never be met. Source: arXiv 1609.03683, theorem 2.
    """
    p = torch.sigmoid(slope * logits + offset)
    q = FLIP_RATE + (1 - 2 * FLIP_RATE) * p
    return -torch.where(flagged[:, None], q, 1 - q).log()


@torch.enable_grad()
def fit_platt(
    logits: Float[Tensor, "batch member"], flagged: Bool[Tensor, " batch"]
) -> tuple[float, float]:
    """Slope and offset that make the members' mean probability fit held-out labels.

    The likeliest under log slope ~ N(0, 1) and offset ~ N(0, 4): labels that a threshold separates
    have no finite likeliest slope of their own. Source: Platt's scaling; priors are ours.
    """
    log_slope = torch.zeros((), requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_slope, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        p = torch.sigmoid(log_slope.exp() * logits + offset).mean(1)
        q = FLIP_RATE + (1 - 2 * FLIP_RATE) * p
        prior = log_slope.square() / 2 + offset.square() / 8
        loss = (prior - torch.where(flagged, q, 1 - q).log().sum()) / len(flagged)
        loss.backward()
        return loss

    optimizer.step(closure)
    return math.exp(log_slope.item()), offset.item()
