"""Labelled inputs of a head: ratings, choices between two images, or flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from rewards.learned.losses import choice_loss, flag_loss
from rewards.learned.settings import RewardTrainingError, Task

LEAST = 8  # labels of a part; fewer measure nothing


@dataclass(frozen=True)
class Labelled:
    """What people said of images, of which only the inputs of a head are kept.

    target: a rating in the labels' own units; 1 where an image is flagged, 0 elsewhere; 1 where
    `first` was chosen, 0 where `second` was. first: the row of `inputs` that each label is of,
    several labels of one image or none among them; second: for preference, the other row.
    """

    task: Task
    inputs: Float[Tensor, "image feature"]
    target: Float[Tensor, " item"]
    first: Int[Tensor, " item"]
    second: Int[Tensor, " item"] | None = None

    def __post_init__(self) -> None:
        if (self.second is None) != (self.task != "preference"):
            raise RewardTrainingError(
                f"labels: `second` belongs to preference alone; got the task {self.task}"
            )
        if not self.inputs.isfinite().all():
            raise RewardTrainingError("labels: the encoder's features hold NaN or infinity")
        if not self.target.isfinite().all():
            raise RewardTrainingError("labels: a target is NaN or infinite")
        if self.task != "regression" and not ((self.target == 0) | (self.target == 1)).all():
            raise RewardTrainingError(f"labels: a target of {self.task} is 0 or 1")

    def __len__(self) -> int:
        return len(self.target)

    @property
    def images(self) -> int:
        return len(self.inputs)

    def of_items(self, scores: Float[Tensor, "image ..."]) -> Float[Tensor, "item ..."]:
        """Scores of the items: of an image, or the margin of the first image of a choice."""
        if self.second is None:
            return scores[self.first]
        return scores[self.first] - scores[self.second]

    def losses(self, outputs: Float[Tensor, "image member"]) -> Float[Tensor, "item member"]:
        """Squared error, Bradley-Terry or cross-entropy of each item."""
        found, asked = self.of_items(outputs), self.target > 0.5
        match self.task:
            case "regression":
                return (found - self.target[:, None]).square()
            case "preference":
                return choice_loss(found, torch.zeros_like(found), asked)
            case "classification":
                return flag_loss(found, asked)
        assert_never(self.task)

    def balanced(
        self, scores: Float[Tensor, "item ..."]
    ) -> tuple[Float[Tensor, "label ..."], Bool[Tensor, " label"]]:
        """Logits and answers; a choice counts in both orders, since which is first means nothing.

        A file that names the chosen image first would else teach that the first one is chosen.
        """
        answers = self.target > 0.5
        if self.second is None:
            return scores, answers
        return torch.cat([scores, -scores]), torch.cat([answers, ~answers])


def with_noise(labels: Labelled, share: float, generator: torch.Generator) -> Labelled:
    """Flip a share of the answers; of ratings, exchange that share among each other."""
    rows = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    target = labels.target.clone()
    target[rows] = target[rows].roll(1) if labels.task == "regression" else 1 - target[rows]
    return replace(labels, target=target)


@dataclass(frozen=True)
class Split:
    """Labels that train, that choose the step and calibrate, and that only measure.

    No row of inputs stands in two parts. left_out: choices between images of different parts.
    """

    train: Labelled
    validation: Labelled
    test: Labelled
    left_out: int = 0

    @property
    def parts(self) -> dict[str, Labelled]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def mapped(self, change: Callable[[Labelled], Labelled]) -> Split:
        """The same split with every part changed."""
        train, validation, test = map(change, self.parts.values())
        return Split(train, validation, test, self.left_out)


def split(labels: Labelled, held_out: float, generator: torch.Generator) -> Split:
    """Set a share of the images apart at random, half for validation and half for the test.

    Images that choices connect stay together, so that no choice is lost, unless one such
    group holds more than half of the images: then every image is drawn on its own. Raises
    RewardTrainingError where a part has too few labels, or labels that are all the same.
    """
    group = _groups(labels)
    order = torch.randperm(int(group.max()) + 1, generator=generator)
    # How many images come before each group, in random order: cut where the shares are full.
    sizes = torch.bincount(group)[order]
    place = torch.empty_like(order)
    place[order] = sizes.cumsum(0) - sizes
    position = place[group] / labels.images
    part = (position >= held_out / 2).long() + (position >= held_out).long()
    found = {name: _part(labels, part == k) for k, name in enumerate(("validation", "test"))}
    train = _part(labels, part == 2)
    kept = len(train) + sum(map(len, found.values()))
    return require_usable(Split(train, **found, left_out=len(labels) - kept))


def require_usable(parts: Split) -> Split:
    """Raise RewardTrainingError where a part has too few labels, or labels that never differ."""
    for name, part in parts.parts.items():
        if len(part) < LEAST:
            raise RewardTrainingError(
                f"labels: the part {name!r} would hold {len(part)} of them, and {LEAST} is the "
                f"least; bring more labels, or another share `held_out`"
            )
        if part.task != "preference" and part.target.min() == part.target.max():
            raise RewardTrainingError(
                f"labels: all {len(part)} of the part {name!r} are {part.target[0].item():g}: "
                "there is nothing to tell apart"
            )
    return parts


def _groups(labels: Labelled) -> Int[Tensor, " image"]:
    alone = torch.arange(labels.images)
    if labels.second is None:
        return alone
    edges = (torch.ones(len(labels)).numpy(), (labels.first.numpy(), labels.second.numpy()))
    graph = coo_array(edges, shape=(labels.images, labels.images))
    group = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    return alone if 2 * int(torch.bincount(group).max()) > labels.images else group


def _part(labels: Labelled, chosen: Bool[Tensor, " image"]) -> Labelled:
    row = chosen.long().cumsum(0) - 1
    kept, second = chosen[labels.first], None
    if labels.second is not None:
        kept = kept & chosen[labels.second]
        second = row[labels.second[kept]]
    inputs, first = labels.inputs[chosen], row[labels.first[kept]]
    return Labelled(labels.task, inputs, labels.target[kept], first, second)
