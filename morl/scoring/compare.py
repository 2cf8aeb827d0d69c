"""How far a folder of images is from another, by metrics of whole sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from morl.errors import ConfigError, DataError
from morl.scoring.batches import Broken, groups_of, read_batches
from morl.scoring.folder import Item
from rewards.distances import cmmd, fid, kid
from rewards.errors import nearest
from rewards.features import CMMD_ENCODER, ENCODERS, SetFeatures

KID_SEED = 0
Features = Float[Tensor, "image feature"]
Reference = Float[Tensor, "other feature"]
Metric = Callable[[Features, Reference], dict[str, float]]


def _kid(features: Features, reference: Reference) -> dict[str, float]:
    mean, std = kid(features, reference, torch.Generator().manual_seed(KID_SEED))
    return {"kid": mean, "kid_std": std}


METRICS: dict[str, Metric] = {
    "fid": lambda features, reference: {"fid": fid(features, reference)},
    "kid": _kid,
    "cmmd": lambda features, reference: {"cmmd": cmmd(features, reference)},
}


@dataclass(frozen=True)
class Comparison:
    """Values by name, what they were computed from, and files that could not be read."""

    values: dict[str, float]
    features: dict[str, str]
    """The encoder of each metric's features."""
    images: int
    reference_images: int
    broken: dict[str, str]


def require_metrics(metrics: Sequence[str], features: str) -> None:
    """ConfigError for an unknown metric, or features that no encoder gives."""
    for name in metrics:
        if name not in METRICS:
            raise ConfigError(f"--metrics: unknown {name!r}; {nearest(name, METRICS)}")
    if features not in ENCODERS:
        raise ConfigError(
            f"--features: unknown encoder {features!r}; {nearest(features, ENCODERS)}"
        )


def compare(
    items: Sequence[Item],
    reference: Sequence[Item],
    metrics: Sequence[str],
    features: str,
    device: str,
    batch_size: int,
) -> Comparison:
    """Every metric between two sets of files; those with the same features read images once.

    `cmmd` has features of its own, the other metrics those of encoder `features`. Raises DataError
    where a set has fewer than 2 images that can be read.
    """
    source = {name: CMMD_ENCODER if name == "cmmd" else features for name in metrics}
    values: dict[str, float] = {}
    broken: dict[str, str] = {}
    for chosen in dict.fromkeys(source.values()):
        extract = SetFeatures(chosen, device)
        mine, others = (
            _features(which, extract, batch_size, broken, title)
            for which, title in ((items, "images"), (reference, "reference"))
        )
        for name in (name for name in metrics if source[name] == chosen):
            values |= METRICS[name](mine, others)
    return Comparison(values, source, len(mine), len(others), broken)


def _features(
    items: Sequence[Item],
    extract: SetFeatures,
    batch_size: int,
    broken: dict[str, str],
    title: str,
) -> Features:
    """One row an image that can be read; the order is of no account."""
    rows: list[Tensor] = []
    with tqdm(total=len(items), desc=title, unit="image") as bar:
        for batch in read_batches(groups_of(items, together=False), batch_size):
            if isinstance(batch, Broken):
                broken |= {str(item.path): batch.reason for item in batch.items}
                bar.update(len(batch.items))
            else:
                rows.append(extract(torch.cat([unit.images for unit in batch])))
                bar.update(len(rows[-1]))
    if sum(map(len, rows)) < 2:
        raise DataError(f"{title}: fewer than 2 of {len(items)} images can be read")
    return torch.cat(rows)
