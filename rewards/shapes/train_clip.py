"""Train the embedded world's CLIP contrastively on distorted renders and their captions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from rewards.shapes.captions import PromptAttributes, caption, parse, write
from rewards.shapes.clip import QUALITY_WORDS, ClipConfig, ShapesClip
from rewards.shapes.distortions import KINDS, distort
from rewards.shapes.render import render, sample_scenes
from rewards.shapes.scenes import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES, Scene

VOCABULARIES = {
    "shape": SHAPES,
    "color": COLORS,
    "background": BACKGROUNDS,
    "position": POSITIONS,
    "size": SIZES,
}
# Shares of captions that say what is wrong with the picture; that name the mark where there is
# one (people do so less often, but then a model this small never learns the word); and of wrong
# captions that add a mark where there is none.
QUALITY_NAMED, MARK_NAMED, MARK_ADDED = 0.5, 0.6, 0.3
DISTORTED = 0.25  # probability of each kind of distortion
SHAPE_EXTRA = 2  # the hardest attribute is changed this many times more often


@dataclass(frozen=True)
class ClipTraining:
    """How the CLIP is trained; the defaults took seven minutes on two CPU cores."""

    steps: int = 800
    batch_size: int = 128
    pool: int = 16000
    """Distorted renders prepared beforehand; captions are written anew at every use."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 50
    reach: float = 1.5
    """L2 length of the perturbation that each picture is trained under; it grows from 0 over the
    first half. Without it, what raises a reward fastest is a texture that nobody sees."""


@dataclass(frozen=True)
class Pictures:
    """Distorted renders as bytes, and which of `KINDS` each has visibly."""

    images: UInt8[Tensor, "batch 3 height width"]
    kinds: Bool[Tensor, "batch kind"]


def train_clip(seed: int, training: ClipTraining | None = None) -> ShapesClip:
    """A CLIP trained on scenes of the train split; the same seed gives the same model.

    Loss: softmax contrastive in both directions, where each picture also meets a caption of
    itself with one attribute changed, and captions that happen to fit a picture are no negatives.
    """
    training = training or ClipTraining()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # open_clip initialises from the global generator
    clip = ShapesClip(ClipConfig()).train()
    clip.model.to(memory_format=torch.channels_last)
    scenes, pictures = picture_pool(training.pool, generator)
    attributes = scene_attributes(scenes)
    optimizer = torch.optim.AdamW(
        clip.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: _rate(i, training))
    bar = tqdm(range(training.steps), desc="shapes CLIP", mininterval=5)
    for step in bar:
        rows = torch.randint(training.pool, (training.batch_size,), generator=generator)
        texts, changed = true_and_false_captions(
            [scenes[i] for i in rows], pictures.kinds[rows], generator
        )
        compatible = fits(attributes[rows], text_attributes(texts + changed))
        images = pictures.images[rows].float() / 255
        text = F.normalize(clip.encode_text(texts + changed), dim=-1)
        loss_of = partial(_picture_loss, clip, text, compatible)
        reach = training.reach * min(1.0, 2 * step / training.steps)
        loss = loss_of(hardest(clip, images, loss_of, reach, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            clip.model.logit_scale.clamp_(max=math.log(100))
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return clip.eval()


def _picture_loss(
    clip: ShapesClip,
    text: Float[Tensor, "caption feature"],
    compatible: Bool[Tensor, "batch caption"],
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, ""]:
    image = F.normalize(clip.embed_image(images), dim=-1)
    return contrastive_loss(image, text, compatible, clip.model.logit_scale.exp())


def hardest(
    clip: ShapesClip,
    images: Float[Tensor, "batch 3 height width"],
    loss_of: Callable[[Tensor], Tensor],
    reach: float,
    generator: torch.Generator,
) -> Float[Tensor, "batch 3 height width"]:
    """Images moved by at most `reach` (L2, each) to where the loss is larger.

    One gradient ascent from a random start; `clip` is in eval mode meanwhile, so that its running
    statistics see no such images twice. Source: arXiv 2001.03994, algorithm 3, in the L2 norm.
    """
    if reach <= 0:
        return images
    start = torch.randn(images.shape, generator=generator)
    moved = images + reach / 2 * _unit(start)
    moved.requires_grad_()
    clip.eval()
    (gradient,) = torch.autograd.grad(loss_of(moved), moved)
    clip.train()
    shift = moved.detach() + reach * _unit(gradient) - images
    length = shift.flatten(1).norm(dim=1).clamp(min=reach)[:, None, None, None]
    return (images + reach * shift / length).clamp(0, 1)


def _unit(directions: Float[Tensor, "batch 3 height width"]) -> Tensor:
    length = directions.flatten(1).norm(dim=1).clamp(min=1e-12)
    return directions / length[:, None, None, None]


@torch.no_grad()
def encode_images(
    clip: ShapesClip, images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch feature"]:
    """What heads read of images, without gradient, 256 at a time."""
    return torch.cat([clip.encode_image(part) for part in images.split(256)])


@torch.no_grad()
def encode_texts(clip: ShapesClip, texts: Sequence[str]) -> Float[Tensor, "batch feature"]:
    """Text features without gradient, 500 at a time."""
    parts = [list(texts[i : i + 500]) for i in range(0, len(texts), 500)]
    return torch.cat([clip.encode_text(part) for part in parts])


def contrastive_loss(
    image: Float[Tensor, "batch feature"],
    text: Float[Tensor, "caption feature"],
    compatible: Bool[Tensor, "batch caption"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with extra captions; caption i < B belongs to image i.

    1/2 mean_i [ -log softmax_j(s <x_i, t_j>)_i  -  log softmax_k(s <x_k, t_i>)_i ]

    x: `image` [B,D], t: `text` [C,D], C >= B, rows of length 1; s: `scale` > 0. A pair that is
    `compatible` but not (i, i) leaves the sums: it would be a false negative.
    Source: arXiv 2103.00020, figure 3.
    """
    n = image.shape[0]
    own = torch.eye(n, text.shape[0], dtype=torch.bool, device=image.device)
    logits = (scale * image @ text.T).masked_fill(compatible & ~own, -math.inf)
    target = torch.arange(n, device=image.device)
    forward = F.cross_entropy(logits, target)
    return (forward + F.cross_entropy(logits[:, :n].T, target)) / 2


def fits(
    scenes: Int[Tensor, "batch attribute"], texts: Int[Tensor, "caption attribute"]
) -> Bool[Tensor, "batch caption"]:
    """Whether everything that a caption names (-1: not named) is true of a scene."""
    named, shown = texts[None], scenes[:, None]
    return ((named == -1) | (named == shown)).all(-1)


def scene_attributes(scenes: Sequence[Scene]) -> Int[Tensor, "batch attribute"]:
    """Attributes of scenes as numbers, the mark (0 or 1) last."""
    rows = [
        [words.index(getattr(s, field)) for field, words in VOCABULARIES.items()] + [int(s.mark)]
        for s in scenes
    ]
    return torch.tensor(rows)


def text_attributes(texts: Sequence[str]) -> Int[Tensor, "caption attribute"]:
    """What texts name as numbers, -1 for what they leave open; the mark (1) last."""
    return torch.tensor([_named(parse(text)) for text in texts])


def _named(attributes: PromptAttributes) -> list[int]:
    *words, mark = astuple(attributes)
    pairs = zip(words, VOCABULARIES.values(), strict=True)
    return [known.index(w) if w else -1 for w, known in pairs] + [1 if mark else -1]


def picture_pool(n: int, generator: torch.Generator) -> tuple[list[Scene], Pictures]:
    """n scenes of the train split and their distorted renders as bytes (200 MB for 16,000)."""
    scenes = sample_scenes(generator, n)
    parts = [distort(render(scenes[i : i + 500]), generator, DISTORTED) for i in range(0, n, 500)]
    images = torch.cat([(255 * p.images).round().to(torch.uint8) for p in parts])
    return scenes, Pictures(images, torch.cat([p.kinds for p in parts]))


def true_and_false_captions(
    scenes: Sequence[Scene], kinds: Bool[Tensor, "batch kind"], generator: torch.Generator
) -> tuple[list[str], list[str]]:
    """A caption of each picture, and the same with one thing changed that makes it wrong."""
    draws = torch.rand(3, len(scenes), generator=generator).tolist()
    right, wrong = [], []
    for scene, kind, says, names, adds in zip(scenes, kinds.tolist(), *draws, strict=True):
        prefix = _quality(kind) if says < QUALITY_NAMED else ""
        marked = scene.mark and names < MARK_NAMED
        true = replace(parse(caption(scene, generator)), asks_mark=marked)
        adds_mark = not scene.mark and adds < MARK_ADDED
        false = (
            replace(true, asks_mark=True) if adds_mark else change_one_attribute(true, generator)
        )
        right.append(prefix + write(true, generator))
        wrong.append(prefix + write(false, generator))
    return right, wrong


def _quality(kinds: Sequence[bool]) -> str:
    words = [word for word, has in zip(KINDS, kinds, strict=True) if has]
    return ", ".join(words or QUALITY_WORDS[:1]) + ", "


def change_one_attribute(
    attributes: PromptAttributes, generator: torch.Generator
) -> PromptAttributes:
    """The same with one named attribute replaced by another word, the shape more often."""
    named = [f for f in VOCABULARIES if getattr(attributes, f) is not None]
    fields = [*named, *["shape"] * SHAPE_EXTRA]
    field = fields[int(torch.randint(len(fields), (), generator=generator))]
    others = [w for w in VOCABULARIES[field] if w != getattr(attributes, field)]
    other = others[int(torch.randint(len(others), (), generator=generator))]
    change: dict[str, Any] = {field: other}
    return replace(attributes, **change)


def _rate(step: int, training: ClipTraining) -> float:
    """Linear warm-up, then cosine to zero, as a factor on the learning rate."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    share = (step - training.warmup) / max(1, training.steps - training.warmup)
    return 0.5 * (1 + math.cos(math.pi * share))
