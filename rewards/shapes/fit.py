"""Explain an image by one figure on a shaded background: analysis by synthesis, batched.

A bank of figures is matched in closed form, the leading shapes are refined by robust Gauss-Newton
steps on place and size, and what no single figure explains is counted.
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rewards.shapes.figures import Pose, first_match, signed_distance
from rewards.shapes.mark import mark_presence, outside_marks
from rewards.shapes.render import EDGE, IMAGE_SIZE, SHADING

CHUNK = 16  # images explained at a time: what they need stays in a CPU's cache
MIN_CONTRAST = 0.12  # below it (RGB distance) a figure cannot be told from its background
WRONG = 0.3  # RGB error that makes a pixel away from the outline wholly wrong
NOISE_FLOOR = 0.04  # RGB error of a 3 x 3 mean under pixel noise of 0.07


class _Stage(NamedTuple):
    kept: int
    """Shapes still in the race."""
    stride: int
    """Pixels averaged to one, a side."""
    edge: float
    """Half-width of the soft edge in pixels."""


# Coarse and wide first, to be drawn from 1.5 px away (half a step of the bank); then as rendered.
STAGES = (
    _Stage(3, 2, 1.5),
    _Stage(3, 2, 1.2),
    _Stage(2, 1, EDGE),
    _Stage(2, 1, EDGE),
    _Stage(1, 1, EDGE),
)


@dataclass(frozen=True)
class FigureFit:
    """The one-figure explanation of each image of a batch, and how well it explains.

    shape: index into `SHAPES`; centre (x, y) and radius in pixels; figure, background: RGB;
    contrast: their distance in RGB; mark: presence of the forbidden mark in [0, 1];
    unexplained: area that the explanation gets wrong, in units of the figure's area;
    roughness: mean RGB error away from outline and mark; crispness: slope of the outline against
    the renderer's, 1 as rendered, 0 without an outline.
    """

    shape: Int[Tensor, " batch"]
    centre: Float[Tensor, "batch 2"]
    radius: Float[Tensor, " batch"]
    figure: Float[Tensor, "batch 3"]
    background: Float[Tensor, "batch 3"]
    contrast: Float[Tensor, " batch"]
    mark: Float[Tensor, " batch"]
    unexplained: Float[Tensor, " batch"]
    roughness: Float[Tensor, " batch"]
    crispness: Float[Tensor, " batch"]


@dataclass(frozen=True)
class _Paint:
    """Both colours, the pixels' weights, and what remains of the image."""

    figure: Float[Tensor, "fit 3"]
    background: Float[Tensor, "fit 3"]
    weight: Float[Tensor, "fit pixel"]
    residual: Float[Tensor, "fit 3 pixel"]


@torch.no_grad()
def explain(images: Float[Tensor, "batch 3 height width"]) -> FigureFit:
    """Fit one figure and the mark to every image; each image on its own.

    images: in [0, 1], 64 x 64; ValueError otherwise. No gradient flows.
    """
    if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"`images` must be {IMAGE_SIZE} x {IMAGE_SIZE} to be explained; "
            f"got {images.shape[-2]} x {images.shape[-1]}."
        )
    parts = [_explain(chunk.float().cpu()) for chunk in images.split(CHUNK)]
    return FigureFit(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(FigureFit)}
    )


def _explain(images: Float[Tensor, "batch 3 height width"]) -> FigureFit:
    flat = images / _shading(1)[:, None]
    presence = mark_presence(images, flat.flatten(2).median(-1).values)
    outside = outside_marks(presence)
    at = {1: (images.flatten(2), outside.flatten(1))}
    at[2] = (F.avg_pool2d(images, 2).flatten(2), F.avg_pool2d(outside, 2).flatten(1))
    pose, paint = first_match(flat, STAGES[0].kept), None
    previous = STAGES[0]
    for stage in STAGES:
        if paint is not None and stage.kept < previous.kept:
            pose, paint = _leading(pose, paint, previous.kept, stage.kept)
        if paint is not None and stage.stride != previous.stride:
            paint = None  # its residuals belong to other pixels
        pixels, keep = (t.repeat_interleave(stage.kept, 0) for t in at[stage.stride])
        distance, slopes = signed_distance(pose, stage.stride)
        cover, fall = _soft(distance, stage.edge)
        paint = _colors(pixels, keep, cover, stage.stride, paint)
        pose = _gauss_newton(pose, paint, slopes * fall[:, None])
        previous = stage
    distance, _ = signed_distance(pose, 1)
    cover, _ = _soft(distance, EDGE)
    paint = _colors(*at[1], cover, 1, paint)
    return FigureFit(
        pose.shape,
        pose.centre,
        pose.radius,
        paint.figure,
        paint.background,
        _length(paint.figure - paint.background),
        presence.amax(1),
        *_quality(paint, cover, distance, outside.flatten(1)),
    )


def _leading(pose: Pose, paint: _Paint, candidates: int, kept: int) -> tuple[Pose, _Paint]:
    """The candidates of each image that leave the smallest (truncated) residual."""
    error = paint.residual.square().sum(1).clamp(max=0.25).mean(1).unflatten(0, (-1, candidates))
    first = candidates * torch.arange(len(error))[:, None]
    rows = (first + error.topk(kept, 1, largest=False).indices).flatten()
    return (
        Pose(pose.shape[rows], pose.centre[rows], pose.radius[rows]),
        _Paint(
            paint.figure[rows], paint.background[rows], paint.weight[rows], paint.residual[rows]
        ),
    )


def _colors(
    pixels: Float[Tensor, "fit 3 pixel"],
    keep: Float[Tensor, "fit pixel"],
    cover: Float[Tensor, "fit pixel"],
    stride: int,
    before: _Paint | None,
) -> _Paint:
    """Weighted least squares for both colours; the residuals before set the weights.

    w = (1 + |residual|^2 / t^2)^-2 (Geman-McClure), t half the contrast: what belongs to neither
    colour pulls little.
    """
    weight = keep
    if before is not None:
        scale = 0.25 * _squared(before.figure - before.background).clamp(min=MIN_CONTRAST**2)
        weight = keep / (1 + _squared(before.residual) / scale[:, None]).square()
    basis = torch.stack([cover, (1 - cover) * _shading_of_pixels(stride)], 1)
    weighted = basis * weight[:, None]
    gram = weighted @ basis.transpose(1, 2) + 1e-3 * torch.eye(2)
    colors = torch.linalg.solve(gram, weighted @ pixels.transpose(1, 2))
    residual = torch.baddbmm(pixels, colors.transpose(1, 2), basis, alpha=-1)
    return _Paint(colors[:, 0], colors[:, 1], weight, residual)


def _gauss_newton(pose: Pose, paint: _Paint, slopes: Float[Tensor, "fit 3 pixel"]) -> Pose:
    """Move and resize so that the residual along the contrast shrinks, at most 1.5 px.

    slopes: derivative of the coverage by x, y and radius.
    """
    contrast = paint.figure - paint.background
    squared = _squared(contrast).clamp(min=MIN_CONTRAST**2)
    along = torch.bmm(contrast[:, None], paint.residual)[:, 0] / squared[:, None]
    weighted = slopes * paint.weight[:, None]
    # The damping, a third of a pixel of outline, keeps a figure without one in place.
    gram = weighted @ slopes.transpose(1, 2) + 0.3 * torch.eye(3)
    step = torch.linalg.solve(gram, weighted @ along[..., None])[..., 0].clamp(-1.5, 1.5)
    return Pose(
        pose.shape,
        (pose.centre + step[:, :2]).clamp(0, IMAGE_SIZE),
        (pose.radius + step[:, 2]).clamp(5, 20),
    )


def _quality(
    paint: _Paint,
    cover: Float[Tensor, "batch pixel"],
    distance: Float[Tensor, "batch pixel"],
    keep: Float[Tensor, "batch pixel"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Unexplained share, roughness and crispness, as `FigureFit` defines them."""
    contrast = paint.figure - paint.background
    length = _length(contrast).clamp(min=MIN_CONTRAST)[:, None]
    # A 3 x 3 mean takes pixel noise out of the count of wrong pixels, but not wrong areas.
    square = paint.residual.unflatten(2, (IMAGE_SIZE, IMAGE_SIZE))
    smooth = _length(F.avg_pool2d(square, 3, 1, 1).flatten(2))
    outline = distance.abs() < 2
    # Near the outline an error counts against the contrast (a soft edge is a small one); elsewhere
    # a third of a typical contrast is plainly wrong.
    limit = torch.where(outline, length, length.clamp(max=WRONG))
    wrong = ((smooth.square() - NOISE_FLOOR**2).clamp(min=0) / limit.square()).clamp(max=1)
    unexplained = (keep * wrong).sum(1) / cover.sum(1).clamp(min=30)
    calm = keep * (~outline)
    rough = (calm * _length(paint.residual).clamp(max=0.5)).sum(1) / calm.sum(1).clamp(min=1)
    # Share of the figure's colour in each pixel, on the outline, against the coverage.
    along = torch.bmm(contrast[:, None], paint.residual)[:, 0] / length.square()
    edge = keep * (distance.abs() < 1) * (cover - 0.5)
    crisp = (edge * (along + cover - 0.5)).sum(1) / edge.square().sum(1).clamp(min=1)
    return unexplained, rough, crisp.clamp(0, 1)


def _soft(
    distance: Float[Tensor, "fit pixel"], edge: float
) -> tuple[Float[Tensor, "fit pixel"], Float[Tensor, "fit pixel"]]:
    """The renderer's smoothstep of half-width `edge`, and its derivative by the distance."""
    t = ((edge - distance) / (2 * edge)).clamp(0, 1)
    return t * t * (3 - 2 * t), 3 * t * (t - 1) / edge


def _squared(vectors: Float[Tensor, "batch 3 ..."]) -> Float[Tensor, "batch ..."]:
    return vectors.square().sum(1)


def _length(vectors: Float[Tensor, "batch 3 ..."]) -> Float[Tensor, "batch ..."]:
    return _squared(vectors).sqrt()


@cache
def _shading(stride: int) -> Float[Tensor, " height"]:
    return 1 + SHADING * (1 - 2 * torch.arange(stride / 2, IMAGE_SIZE, stride) / IMAGE_SIZE)


@cache
def _shading_of_pixels(stride: int) -> Float[Tensor, " pixel"]:
    return _shading(stride).repeat_interleave(IMAGE_SIZE // stride)
