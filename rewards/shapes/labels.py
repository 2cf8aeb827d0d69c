"""A small, noisy label set: pictures shown to simulated annotators, and what they said."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewards.shapes.annotators import flag, match, prefer, rate, recruit
from rewards.shapes.captions import caption, parse, write
from rewards.shapes.distortions import distort
from rewards.shapes.fit import explain
from rewards.shapes.gold import aesthetic_features, alignment, preference_features
from rewards.shapes.render import render, sample_scenes
from rewards.shapes.train_clip import change_one_attribute

ANNOTATORS = 40


@dataclass(frozen=True)
class Labels:
    """Labelled pictures.

    prompts, changed: what each picture was made for, and the same with one attribute changed;
    ratings: aesthetic, [0, 1]; matches: how well the picture fits `prompts` and `changed`, [0, 1];
    unsafe: flagged as showing the mark; chosen: whether `first` was preferred to `second`.
    """

    images: Float[Tensor, "batch 3 height width"]
    prompts: list[str]
    changed: list[str]
    ratings: Float[Tensor, " batch"]
    matches: Float[Tensor, "batch 2"]
    unsafe: Bool[Tensor, " batch"]
    first: Int[Tensor, " pair"]
    second: Int[Tensor, " pair"]
    chosen: Bool[Tensor, " pair"]


def collect_labels(
    images: Float[Tensor, "batch 3 height width"],
    prompts: Sequence[str],
    renders: float,
    pairs: int,
    generator: torch.Generator,
) -> Labels:
    """Replace a share of the pictures by distorted renders, and have all of them labelled.

    renders: that share, in [0, 1]; pairs: number of comparisons of two different pictures.
    """
    if len(images) < 2 or len(prompts) != len(images) or not 0 <= renders <= 1:
        raise ValueError(
            "`images` must be two or more with one prompt each, and `renders` in [0, 1]; got "
            f"{len(images)} images, {len(prompts)} prompts, {renders}."
        )
    n = len(images)
    images, prompts = images.clone(), list(prompts)
    replaced = torch.randperm(n, generator=generator)[: round(renders * n)]
    scenes = sample_scenes(generator, len(replaced))
    if scenes:
        images[replaced] = distort(render(scenes), generator).images
    for row, scene in zip(replaced.tolist(), scenes, strict=True):
        prompts[row] = caption(scene, generator)
    changed = [write(change_one_attribute(parse(p), generator), generator) for p in prompts]
    truth = explain(images)
    people = recruit(ANNOTATORS, generator)
    taste = preference_features(truth)
    first = torch.randint(n, (pairs,), generator=generator)
    second = (first + torch.randint(1, n, (pairs,), generator=generator)) % n
    fitting = [match(alignment(truth, texts), generator) for texts in (prompts, changed)]
    return Labels(
        images,
        prompts,
        changed,
        rate(aesthetic_features(truth), people, generator),
        torch.stack(fitting, 1),
        flag(truth.mark, generator),
        first,
        second,
        prefer(taste[first], taste[second], people, generator),
    )
