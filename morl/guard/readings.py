"""From the scores of a look to readings: each signal at each watched weight vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from morl.guard.rules import Decision, Reading, Tally
from morl.guard.settings import Signal
from morl.guard.signals import fine_detail, group_distance, paired_drop
from rewards.scorers.quality import contrast, saturation, sharpness

STATISTICS = {"saturation": saturation, "contrast": contrast, "sharpness": sharpness}


@dataclass(frozen=True)
class View:
    """What the images of one weight vector scored: P images, K objectives, S statistics.

    `held_out` [P,K] and its mask are None where no reward is held out.
    """

    proxies: Float[Tensor, "image objective"]
    proxy_valid: Bool[Tensor, "image objective"]
    std: Float[Tensor, "image objective"]
    held_out: Float[Tensor, "image objective"] | None
    held_out_valid: Bool[Tensor, "image objective"] | None
    statistics: Float[Tensor, "image statistic"]
    distance: float
    detail: float


@dataclass(frozen=True)
class Look:
    """A view of every watched weight vector [W,K], each under the name it is shown by."""

    weights: Float[Tensor, "point objective"]
    labels: tuple[str, ...]
    views: tuple[View, ...]


def image_statistics(images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3"]:
    """Saturation, contrast and sharpness of each image."""
    return torch.stack([measure(images.float()) for measure in STATISTICS.values()], dim=1)


def variety(images: Float[Tensor, "image 3 height width"], per_prompt: int) -> tuple[float, float]:
    """Mean distance inside a prompt, and share of fine detail; rows of one prompt are adjacent."""
    return group_distance(images.unflatten(0, (-1, per_prompt))), fine_detail(images)


def held_out_utility(look: Look, base: View) -> Float[Tensor, "point image"] | None:
    """Utility of the held-out rewards in base standard deviations, at each image's weight vector.

    u = sum_k w_k (h_k - mean_k) / std_k,  mean and std over the base model's valid images
    """
    rows = []
    for weights, view in zip(look.weights, look.views, strict=True):
        if view.held_out is None or view.held_out_valid is None:
            return None
        gain = _calibrated(view.held_out, base.held_out, base.held_out_valid)
        rows.append((gain * view.held_out_valid) @ weights.to(gain))
    return torch.stack(rows)


def is_best(
    utility: Float[Tensor, "point image"] | None,
    best: Float[Tensor, "point image"] | None,
    decisions: Sequence[Decision],
    tally: Tally,
) -> bool:
    """Whether a look is the one to go back to from now on.

    utility, best: held-out utility of this look and of the best one until now, None where nothing
    is held out or none was best yet; decisions, tally: what `decide` made of this look. It must
    be quiet: a held-out reward may share the proxies' blind spots, so what another signal warns of
    is nothing to go back to.
    """
    better = utility is None or best is None or bool(utility.mean() > best.mean())
    return better and not decisions and not any(tally.held)


def readings(
    look: Look,
    base: View,
    names: Sequence[str],
    best: Float[Tensor, "point image"] | None,
) -> dict[Signal, list[Reading]]:
    """Every signal that can be read at this look; `best`: the held-out utility of the best one.

    A signal is left out where its base is 0 (members that never disagree, flat images) or nothing
    is held out.
    """
    found: dict[Signal, list[Reading]] = {}

    def read(signal: Signal, value: float, label: str, of: str = "") -> None:
        found.setdefault(signal, []).append(Reading(value, label, of))

    now = held_out_utility(look, base)
    calm = _mean(base.std, base.proxy_valid)
    for number, (label, view) in enumerate(zip(look.labels, look.views, strict=True)):
        uneasy = _mean(view.std, view.proxy_valid)
        for k, name in enumerate(names):
            if calm[k] > 0:
                read("disagreement", float(uneasy[k] / calm[k]), label, name)
        for name, value in _gaps(view, base, names):
            read("gap", value, label, name)
        if now is not None and best is not None:
            read("held_out_drop", paired_drop(best[number], now[number]), label)
        if base.distance > 0:
            read("diversity", view.distance / base.distance, label)
        if base.detail > 0:
            read("artefacts", view.detail / base.detail, label)
        shift = view.statistics.mean(dim=0) - base.statistics.mean(dim=0)
        spread = base.statistics.std(dim=0)
        for s, name in enumerate(STATISTICS):
            if spread[s] > 0:
                read("statistics", float((shift[s] / spread[s]).abs()), label, name)
    return found


def worst(found: Mapping[Signal, Sequence[Reading]]) -> dict[str, float]:
    """One number a signal, for a log: the least diversity, the largest of everything else."""
    return {
        signal: (min if signal == "diversity" else max)(reading.value for reading in seen)
        for signal, seen in found.items()
    }


def _gaps(view: View, base: View, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    if view.held_out is None or view.held_out_valid is None:
        return
    proxy = _mean(_calibrated(view.proxies, base.proxies, base.proxy_valid), view.proxy_valid)
    held = _mean(
        _calibrated(view.held_out, base.held_out, base.held_out_valid), view.held_out_valid
    )
    yield from zip(names, (proxy - held).tolist(), strict=True)


def _calibrated(values: Tensor, base: Tensor | None, valid: Tensor | None) -> Tensor:
    if base is None or valid is None:
        raise ValueError("the base model was looked at without held-out rewards")
    mean = _mean(base, valid)
    square = _mean((base - mean).square(), valid)
    return (values - mean) / square.sqrt().clamp(min=1e-12)


def _mean(values: Tensor, valid: Tensor) -> Float[Tensor, " objective"]:
    """Column means over valid rows; 0 where there is none."""
    return (values.double() * valid).sum(dim=0) / valid.sum(dim=0).clamp(min=1)
