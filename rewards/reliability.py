"""Does an uncertainty know where its reward is wrong? Asked of any images whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from rewards.learned.measures import correlation
from rewards.members import NoProtectionError
from rewards.reward import ImageBatch, Reward

NOMINAL = (0.5, 0.8, 0.9, 0.95)
WORST = 0.2  # share of the images whose errors count as large
_TINY = 1e-12
HEADER = ("images", "n", "error", "std", "AUROC", "rank r", "covered at 90 %", "std x")


@dataclass(frozen=True)
class Reliability:
    """What an uncertainty is worth on one set of images.

    error: root mean square error, or the share of wrong answers; std: mean uncertainty;
    auroc: chance that it is larger on an image of large error than on another, 0.5 says nothing;
    rank_correlation: Spearman's, of uncertainty and absolute error; coverage: share of truths
    inside the central interval of each nominal probability, were errors normal with that std;
    stretch: what the std must be multiplied by to cover 90 %. Answers have no coverage.
    """

    count: int
    error: float
    std: float
    auroc: float
    rank_correlation: float
    coverage: Mapping[float, float]
    stretch: float

    def row(self, name: str) -> list[str]:
        """The entries under `HEADER`."""
        covered = f"{100 * self.coverage[0.9]:.0f} %" if self.coverage else "-"
        stretch = f"{self.stretch:.3g}" if self.coverage else "-"
        figures = [self.error, self.std, self.auroc, self.rank_correlation]
        return [name, str(self.count), *(f"{figure:.3g}" for figure in figures), covered, stretch]


def reliability(
    values: Float[Tensor, " image"],
    std: Float[Tensor, " image"] | None,
    truth: Float[Tensor, " image"],
) -> Reliability:
    """Judge the uncertainty of numbers whose truth is known in the same units.

    The largest `WORST` share of the absolute errors counts as large. Raises NoProtectionError for
    no uncertainty, or one that never varies; ValueError for fewer than five images or NaN.
    """
    known = _varying(std, len(values))
    error = (values - truth).double().abs()
    _require_finite(error, known)
    large = error > error.quantile(1 - WORST)
    ratio = error / known.clamp(min=_TINY)
    normal = NormalDist()
    reach = {nominal: normal.inv_cdf((1 + nominal) / 2) for nominal in NOMINAL}
    return Reliability(
        len(error),
        error.square().mean().sqrt().item(),
        known.mean().item(),
        auroc(known, large),
        rank_correlation(known, error),
        {nominal: (ratio <= z).double().mean().item() for nominal, z in reach.items()},
        ratio.quantile(0.9).item() / reach[0.9],
    )


def reliability_of_answers(
    probability: Float[Tensor, " label"],
    std: Float[Tensor, " label"] | None,
    answers: Bool[Tensor, " label"],
) -> Reliability:
    """The same of probabilities of "yes": wrong is an answer on the other side of 1/2.

    A part of these errors is the annotators' own and cannot be foreseen by anything.
    """
    known = _varying(std, len(probability))
    error = (probability.double() - answers.double()).abs()
    _require_finite(error, known)
    wrong = error > 0.5
    return Reliability(
        len(error),
        wrong.double().mean().item(),
        known.mean().item(),
        auroc(known, wrong),
        rank_correlation(known, error),
        {},
        float("nan"),
    )


@torch.no_grad()
def reliability_of_reward(
    reward: Reward, truth: Reward, sets: Mapping[str, ImageBatch]
) -> dict[str, Reliability]:
    """Judge a reward's uncertainty against another reward that is the truth, set by set.

    The truth is brought to the reward's units by least squares on the first set, which should be
    the images that the reward was made for; others (what a policy has optimised) are judged in
    those units. Only images on which both are valid count. Raises as `reliability` does.
    """
    line: tuple[float, float] | None = None
    found = {}
    for name, batch in sets.items():
        scores, gold = reward.score(batch), truth.score(batch)
        both = (scores.valid & gold.valid).cpu()
        values, exact = scores.values.cpu()[both], gold.values.cpu()[both]
        line = line or line_through(exact, values)
        std = None if scores.std is None else scores.std.cpu()[both]
        found[name] = reliability(values, std, line[0] * exact + line[1])
    return found


def table(found: Mapping[str, Reliability]) -> str:
    """The judgement of each set as aligned text."""
    rows: Sequence[Sequence[str]] = [HEADER, *(seen.row(name) for name, seen in found.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(entry.ljust(width) for entry, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def auroc(scores: Float[Tensor, " item"], positive: Bool[Tensor, " item"]) -> float:
    """Chance that a positive scores above a negative, ties count half; NaN where one is missing."""
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return float("nan")
    ranks = torch.from_numpy(rankdata(scores.numpy()))
    return (ranks[positive].sum().item() - yes * (yes + 1) / 2) / (yes * no)


def rank_correlation(a: Float[Tensor, " item"], b: Float[Tensor, " item"]) -> float:
    """Spearman's correlation in [-1, 1]; 0 where either never varies."""
    ranks = (torch.from_numpy(rankdata(t.numpy())) for t in (a, b))
    return correlation(*ranks)


def line_through(x: Float[Tensor, " item"], y: Float[Tensor, " item"]) -> tuple[float, float]:
    """Slope and offset of the least-squares line of y over x; slope 0 where x never varies."""
    dx, dy = x.double() - x.double().mean(), y.double() - y.double().mean()
    squared = dx.square().sum().item()
    slope = (dx * dy).sum().item() / squared if squared else 0.0
    return slope, y.double().mean().item() - slope * x.double().mean().item()


def _varying(std: Float[Tensor, " item"] | None, count: int) -> Float[Tensor, " item"]:
    if count < 1 / WORST:
        raise ValueError(f"`values` must hold at least {1 / WORST:.0f} images; got {count}")
    if std is None:
        raise NoProtectionError("the reward states no uncertainty: there is nothing to judge")
    if std.min() == std.max():
        raise NoProtectionError(
            f"the uncertainty is {std[0].item():g} on all {count} images: single or equal members "
            "protect from nothing"
        )
    return std.double()


def _require_finite(*tensors: Float[Tensor, " item"]) -> None:
    for tensor in tensors:
        if not tensor.isfinite().all():
            raise ValueError("values, uncertainty and truth must be finite; got NaN or infinity")
