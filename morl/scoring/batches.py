"""Image files into batches of one size, with every file that cannot be read set apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from morl.scoring.folder import Item
from rewards.images import ImageError, to_image

Size = tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """What must be scored together, images of one size: one image, or all those of one prompt."""

    items: tuple[Item, ...]
    images: Float[Tensor, "image 3 height width"]


@dataclass(frozen=True)
class Broken:
    """Images that cannot be scored, and why."""

    items: tuple[Item, ...]
    reason: str


def groups_of(items: Sequence[Item], together: bool) -> list[tuple[Item, ...]]:
    """Each image alone or, `together`, all images of one prompt, by their first one's place."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(item.prompt if together else item.name, []).append(item)
    return [tuple(group) for group in groups.values()]


def read_batches(groups: Sequence[tuple[Item, ...]], size: int) -> Iterator[list[Unit] | Broken]:
    """Batches of units of one height and width, at most `size` images unless one unit has more.

    Images of other sizes wait for their like, twice `size` images in all at most: a folder of many
    sizes comes in smaller batches, and never fills the memory.
    """
    waiting: dict[Size, list[Unit]] = {}
    for group in groups:
        unit, broken = _read(group)
        yield from broken
        if unit is None:
            continue
        shape = tuple(unit.images.shape[2:])
        if _count(waiting.get(shape, ())) + len(unit.items) > size and shape in waiting:
            yield waiting.pop(shape)
        waiting.setdefault(shape, []).append(unit)
        if sum(map(_count, waiting.values())) > 2 * size:
            yield waiting.pop(max(waiting, key=lambda key: _count(waiting[key])))
    yield from waiting.values()


def _read(group: tuple[Item, ...]) -> tuple[Unit | None, list[Broken]]:
    images: dict[Item, Tensor] = {}
    broken: list[Broken] = []
    for item in group:
        try:
            images[item] = to_image(item.path)
        except (ImageError, MemoryError) as error:
            broken.append(Broken((item,), str(error) or "too large for this machine's memory"))
    sizes = sorted({tuple(image.shape[1:]) for image in images.values()})
    if len(sizes) > 1:
        named = ", ".join(f"{height} x {width}" for height, width in sizes)
        reason = f"images of one prompt are compared and must have one size; got {named}"
        return None, [*broken, Broken(tuple(images), reason)]
    if not images:
        return None, broken
    return Unit(tuple(images), torch.stack(list(images.values()))), broken


def _count(units: Sequence[Unit]) -> int:
    return sum(len(unit.items) for unit in units)
