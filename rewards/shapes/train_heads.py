"""Fit the proxies' heads to few, noisy labels, each member of an ensemble on its own bootstrap."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from rewards.shapes.annotators import FLIP_RATE, Population, flag, prefer, rate, recruit
from rewards.shapes.clip import ShapesClip
from rewards.shapes.distortions import distort
from rewards.shapes.fit import explain
from rewards.shapes.gold import aesthetic_features, preference_features
from rewards.shapes.heads import AgreementHead, EnsembleHead
from rewards.shapes.proxies import HeadSizes, Proxies, build_heads
from rewards.shapes.render import render, sample_scenes
from rewards.shapes.train_clip import (
    contrastive_loss,
    fits,
    picture_pool,
    scene_attributes,
    text_attributes,
    true_and_false_captions,
)

ANNOTATORS = 40
AGREEMENT_SCALE = 20.0  # inverse temperature of the agreement members' contrastive loss


@dataclass(frozen=True)
class HeadTraining:
    """How many labels there are and how they are fitted; few on purpose, a proxy can be beaten."""

    labelled: int = 600
    """Images with a rating and an unsafe label each."""
    pairs: int = 1000
    """Comparisons among the labelled images."""
    held_out: int = 600
    """Further images with an unsafe label, which calibrate its probability."""
    renders: float = 0.2
    """Share of distorted renders in the labelled images; the rest are base-model samples."""
    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 0.3
    pictures: int = 4000
    """Distorted renders with captions that train the agreement members."""
    agreement_batch: int = 96
    sizes: HeadSizes = field(default_factory=HeadSizes)


@dataclass(frozen=True)
class Labels:
    """What annotators said: a rating and a flag an image, and choices between images."""

    ratings: Float[Tensor, " batch"]
    unsafe: Bool[Tensor, " batch"]
    first: Int[Tensor, " pair"]
    second: Int[Tensor, " pair"]
    chosen: Bool[Tensor, " pair"]


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
    heads = build_heads(training.sizes, clip.config.embed_dim, seed)
    regressors = {name: head for name, head in heads.items() if isinstance(head, EnsembleHead)}
    agreement = heads["alignment"]
    assert isinstance(agreement, AgreementHead)

    chosen = torch.randperm(len(images), generator=generator)[:needed]
    pool = _with_renders(images[chosen], training.renders, generator)
    labels = collect_labels(pool, training.pairs, recruit(ANNOTATORS, generator), generator)
    features, base = encode_images(clip, pool), encode_images(clip, images)
    seen, unseen = slice(0, training.labelled), slice(training.labelled, None)
    for head in regressors.values():
        head.standardise(features[seen])

    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "aesthetic": lambda s: (s - labels.ratings[seen, None]).square(),
        "preference": lambda s: choice_loss(s[labels.first], s[labels.second], labels.chosen),
        "unsafe": lambda s: flag_loss(s, labels.unsafe[seen]),
    }
    for name in tqdm(losses, desc="proxy heads"):
        fit_members(regressors[name], features[seen], losses[name], training, generator)
    fit_agreement(agreement, clip, training, generator)

    with torch.no_grad():
        logits = regressors["unsafe"](features[unseen])
        platt = fit_platt(logits, labels.unsafe[unseen])
        scores = {name: head(base) for name, head in regressors.items()}
        scores["alignment"] = agreement(base, clip.encode_text(list(prompts)))
    return Proxies(
        clip,
        heads.eval().requires_grad_(False),
        training.sizes,
        {name: values.mean(0) for name, values in scores.items()},
        {name: values.std(0) for name, values in scores.items()},
        platt,
    )


def collect_labels(
    images: Float[Tensor, "batch 3 height width"],
    pairs: int,
    people: Population,
    generator: torch.Generator,
) -> Labels:
    """Every image rated and flagged, random pairs of its first half compared."""
    truth = explain(images)
    half = len(images) // 2
    first = torch.randint(half, (pairs,), generator=generator)
    second = (first + torch.randint(1, half, (pairs,), generator=generator)) % half
    taste = preference_features(truth)
    return Labels(
        rate(aesthetic_features(truth), people, generator),
        flag(truth.mark, generator),
        first,
        second,
        prefer(taste[first], taste[second], people, generator),
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


def fit_agreement(
    head: AgreementHead, clip: ShapesClip, training: HeadTraining, generator: torch.Generator
) -> None:
    """Train the agreement members contrastively, each on a bootstrap of pictures, in place."""
    scenes, pictures = picture_pool(training.pictures, generator)
    texts, wrong = true_and_false_captions(scenes, pictures.kinds, generator)
    shown, named = scene_attributes(scenes), text_attributes([*texts, *wrong])
    image = encode_images(clip, pictures.images.float() / 255)
    with torch.no_grad():
        text = torch.cat([clip.encode_text(part) for part in _parts([*texts, *wrong], 500)])
    n, members = len(scenes), head.image.shape[0]
    own = torch.randint(n, (members, n), generator=generator)
    optimizer = torch.optim.AdamW(head.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    scale = torch.tensor(AGREEMENT_SCALE)
    for _ in tqdm(range(training.steps), desc="agreement members", mininterval=5):
        batch = torch.randint(n, (members, training.agreement_batch), generator=generator)
        rows = own.gather(1, batch)
        captions = torch.cat([rows, rows + n], 1)
        x, t = head.project(image[rows], text[captions])
        loss = torch.stack(
            [
                contrastive_loss(x[m], t[m], fits(shown[rows[m]], named[captions[m]]), scale)
                for m in range(members)
            ]
        ).sum()
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
    """Slope and offset that make the members' mean probability fit held-out labels."""
    log_slope = torch.zeros((), requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_slope, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        p = torch.sigmoid(log_slope.exp() * logits + offset).mean(1)
        q = FLIP_RATE + (1 - 2 * FLIP_RATE) * p
        loss = -torch.where(flagged, q, 1 - q).log().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return math.exp(log_slope.item()), offset.item()


@torch.no_grad()
def encode_images(
    clip: ShapesClip, images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch feature"]:
    """Image features, 256 at a time."""
    return torch.cat([clip.encode_image(part) for part in images.split(256)])


def _with_renders(
    images: Float[Tensor, "batch 3 height width"], share: float, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Replace a share of the images, at random places, by distorted renders."""
    rows = torch.randperm(len(images), generator=generator)[: round(share * len(images))]
    mixed = images.clone()
    mixed[rows] = distort(render(sample_scenes(generator, len(rows))), generator).images
    return mixed


def _parts(texts: Sequence[str], size: int) -> list[list[str]]:
    return [list(texts[i : i + size]) for i in range(0, len(texts), size)]
