"""Candidate figures: a bank for a first match, and distances to a figure anywhere, of any size."""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewards.shapes.mark import CORNER
from rewards.shapes.render import IMAGE_SIZE, figure_coverage, unit_distance
from rewards.shapes.scenes import SHAPES

BANK_STEP, BANK_MARGIN = 2, 11  # pixels between the bank's centres, and from the frame
BANK_RADII = (6.5, 8.0, 9.7, 11.7, 14.0, 16.5)  # ratio 1.2: a refinement closes half of it
TABLE_SIZE, TABLE_REACH = 97, 1.6  # distance table: samples a side, half-width in radii


@dataclass(frozen=True)
class Pose:
    """Where figures stand; the candidates of an image follow each other."""

    shape: Int[Tensor, " fit"]
    centre: Float[Tensor, "fit 2"]
    radius: Float[Tensor, " fit"]


def first_match(flat: Float[Tensor, "batch 3 height width"], kept: int) -> Pose:
    """Place and size of the shapes that explain most at half resolution.

    A mask m, centred and scaled to unit length, explains sum_c <m, x_c>^2 of the image's sum of
    squares when figure and background colour are free: the closed form for every colour pair.
    """
    bank, centres, radii = _bank()
    small = F.avg_pool2d(flat, 2).flatten(2)[..., _half_resolution_pixels()]
    explained = (small @ bank.T).square().sum(1).unflatten(1, (len(SHAPES), -1))
    value, place = explained.max(-1)
    shape = value.topk(kept, 1).indices
    place = place.gather(1, shape).flatten()
    return Pose(shape.flatten(), centres[place], radii[place])


def signed_distance(
    pose: Pose, stride: int
) -> tuple[Float[Tensor, "fit pixel"], Float[Tensor, "fit 3 pixel"]]:
    """Signed distance D = r d(u), u = (p - c) / r, in pixels, and dD/d(x, y, r).

    dD/dc = -grad d(u), dD/dr = d(u) - u . grad d(u), all looked up in the table of the shape.
    """
    axis = torch.arange(stride / 2, IMAGE_SIZE, stride)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u = (torch.stack([x, y], -1) - pose.centre[:, None, None]) / pose.radius[:, None, None, None]
    place = u.clamp(-TABLE_REACH, TABLE_REACH) / TABLE_REACH
    # The shapes' tables lie below each other in one picture, which is looked up without copies.
    rows = len(SHAPES) * TABLE_SIZE - 1
    place[..., 1] = (place[..., 1] + 1) * (TABLE_SIZE - 1) / rows - 1
    place[..., 1] += pose.shape[:, None, None] * (2 * TABLE_SIZE / rows)
    table = _distance_table().expand(len(u), -1, -1, -1)
    looked_up = F.grid_sample(table, place, padding_mode="border", align_corners=True).flatten(2)
    d, gradient = looked_up[:, 0], looked_up[:, 1:]
    by_radius = d - (u.flatten(1, 2).transpose(1, 2) * gradient).sum(1)
    return pose.radius[:, None] * d, torch.cat([-gradient, by_radius[:, None]], 1)


@cache
def _half_resolution_pixels() -> Int[Tensor, " pixel"]:
    """Numbers of the half-resolution pixels outside the four corners."""
    size, side = IMAGE_SIZE // 2, CORNER // 2
    inner: Bool[Tensor, " side"] = (torch.arange(size) >= side) & (torch.arange(size) < size - side)
    return (inner[:, None] | inner[None]).flatten().nonzero()[:, 0]


@cache
def _bank() -> tuple[
    Float[Tensor, "mask pixel"], Float[Tensor, "place 2"], Float[Tensor, " place"]
]:
    """Half-resolution masks, centred, unit length, sorted by shape; centre and radius by place."""
    axis = torch.arange(BANK_MARGIN, IMAGE_SIZE - BANK_MARGIN + 1, BANK_STEP).float()
    places = torch.cartesian_prod(axis, axis, torch.tensor(BANK_RADII))
    centres, radii = places[:, :2], places[:, 2]
    masks = [
        F.avg_pool2d(figure_coverage(shape, *part), 2).flatten(1)[:, _half_resolution_pixels()]
        for shape in SHAPES
        for part in zip(centres.split(64), radii.split(64), strict=True)
    ]
    bank = torch.cat(masks)
    bank = bank - bank.mean(1, keepdim=True)
    return bank / bank.norm(dim=1, keepdim=True), centres, radii


@cache
def _distance_table() -> Float[Tensor, "1 3 row column"]:
    """Signed distance of each unit shape and its gradient by (x, y), shapes below each other."""
    axis = torch.linspace(-TABLE_REACH, TABLE_REACH, TABLE_SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y], -1)[None]
    distance = torch.cat([unit_distance(shape, points) for shape in SHAPES])
    by_y, by_x = torch.gradient(distance, spacing=(axis, axis), dim=(1, 2))
    return torch.stack([distance, by_x, by_y]).flatten(1, 2)[None]
