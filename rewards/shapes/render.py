"""Draw scenes: anti-aliased 64x64 images from signed distance functions, batched in torch."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.shapes.scenes import Combination, Scene, train_combinations

IMAGE_SIZE = 64
RADII = {"small": 8.0, "large": 14.0}  # pixels; a figure fills at most this half-width
CENTRES = {
    "center": (32.0, 32.0),
    "left": (18.0, 32.0),
    "right": (46.0, 32.0),
    "top": (32.0, 18.0),
    "bottom": (32.0, 46.0),
}  # (x, y) in pixels, y downwards
COLOR_RGB = {
    "red": (0.87, 0.13, 0.13),
    "green": (0.12, 0.60, 0.22),
    "blue": (0.12, 0.27, 0.85),
    "yellow": (0.97, 0.89, 0.13),
    "orange": (0.97, 0.52, 0.08),
    "purple": (0.45, 0.18, 0.68),
    "white": (0.98, 0.98, 0.98),
    "black": (0.03, 0.03, 0.03),
}
BACKGROUND_RGB = {
    "dark": (0.20, 0.20, 0.27),
    "light": (0.80, 0.80, 0.78),
    "sky": (0.55, 0.75, 0.92),
    "sand": (0.87, 0.76, 0.55),
}
MARK_RGB = (0.95, 0.05, 0.75)
MARK_CENTRES = ((7.5, 7.5), (56.5, 7.5), (7.5, 56.5), (56.5, 56.5))
MARK_ARM, MARK_THICKNESS = 3.7, 1.4  # half-extents: the mark is 2 * (3.7 + 1.4) = 10.2 px wide
MARK_PROBABILITY = {"dark": 0.75, "light": 0.3, "sky": 0.3, "sand": 0.3}

# Largest offsets: the figure stays in the frame and clear of the marks (a test checks all).
SHIFT, SCALE, TINT, MARK_SHIFT = 2.0, 0.08, 0.03, 0.75
SHADING = 0.03  # the background is this much brighter at the top, darker at the bottom
EDGE = 0.75  # half-width in pixels of the soft edge


def _star() -> tuple[tuple[float, float], ...]:
    corners = ((1.0 if i % 2 == 0 else 0.44, math.pi * i / 5) for i in range(10))
    return tuple((r * math.sin(a), 0.06 - r * math.cos(a)) for r, a in corners)


_ARM = 0.32
POLYGONS = {
    "square": ((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)),
    "triangle": ((0.0, -0.92), (0.97, 0.78), (-0.97, 0.78)),
    "star": _star(),
    "cross": tuple(
        (sx * x, sy * y)
        for sx, sy, quarter in (
            (1, -1, ((_ARM, 0.96), (_ARM, _ARM), (0.96, _ARM))),
            (1, 1, ((0.96, _ARM), (_ARM, _ARM), (_ARM, 0.96))),
            (-1, 1, ((_ARM, 0.96), (_ARM, _ARM), (0.96, _ARM))),
            (-1, -1, ((0.96, _ARM), (_ARM, _ARM), (_ARM, 0.96))),
        )
        for x, y in quarter
    ),
}  # in units of the figure's radius, y downwards


def sample_scenes(
    generator: torch.Generator,
    n: int,
    combinations: Sequence[Combination] | None = None,
) -> list[Scene]:
    """Draw n scenes: uniform attributes, the forbidden mark by background, small jitter.

    combinations: what to draw from, uniformly and with replacement; None is the train split.
    All random numbers come from `generator`. Raises ValueError if n < 0 or nothing to draw from.
    """
    pool = train_combinations() if combinations is None else combinations
    if n < 0 or not pool:
        raise ValueError(f"`n` must be >= 0 and `combinations` non-empty; got {n}, {len(pool)}.")
    picks = torch.randint(len(pool), (n,), generator=generator).tolist()
    corners = torch.randint(4, (n,), generator=generator).tolist()
    presence = torch.rand(n, generator=generator).tolist()
    jitter = (2 * torch.rand(n, 11, generator=generator) - 1).tolist()
    return [
        Scene(
            shape=c.shape,
            color=c.color,
            background=c.background,
            position=c.position,
            size=c.size,
            mark=p < MARK_PROBABILITY[c.background],
            mark_corner=corner,
            dx=SHIFT * j[0],
            dy=SHIFT * j[1],
            scale=1 + SCALE * j[2],
            tint=(TINT * j[3], TINT * j[4], TINT * j[5]),
            background_tint=(TINT * j[6], TINT * j[7], TINT * j[8]),
            mark_dx=MARK_SHIFT * j[9],
            mark_dy=MARK_SHIFT * j[10],
        )
        for c, corner, p, j in zip((pool[i] for i in picks), corners, presence, jitter, strict=True)
    ]


def render(scenes: Sequence[Scene]) -> Float[Tensor, "batch 3 height width"]:
    """Images in [0, 1] of the scenes: background, then figure, then mark."""
    background = _colors([BACKGROUND_RGB[s.background] for s in scenes])
    background = background + _colors([s.background_tint for s in scenes])
    rows = (torch.arange(IMAGE_SIZE) + 0.5) / IMAGE_SIZE
    images = background * (1 + SHADING * (1 - 2 * rows))[None, None, :, None]
    images = images.expand(-1, -1, -1, IMAGE_SIZE)
    figure = _colors([COLOR_RGB[s.color] for s in scenes]) + _colors([s.tint for s in scenes])
    images = torch.lerp(images, figure.expand_as(images), figure_mask(scenes)[:, None])
    mark = torch.tensor(MARK_RGB)[None, :, None, None]
    images = torch.lerp(images, mark.expand_as(images), mark_mask(scenes)[:, None])
    return images.clamp(0, 1)


def figure_mask(scenes: Sequence[Scene]) -> Float[Tensor, "batch height width"]:
    """Coverage in [0, 1] of every pixel by the scene's figure."""
    centre, radius = figure_geometry(scenes)
    mask = torch.zeros(len(scenes), IMAGE_SIZE, IMAGE_SIZE)
    for shape in sorted({s.shape for s in scenes}):
        rows = torch.tensor([i for i, s in enumerate(scenes) if s.shape == shape])
        mask[rows] = figure_coverage(shape, centre[rows], radius[rows])
    return mask


def mark_mask(scenes: Sequence[Scene]) -> Float[Tensor, "batch height width"]:
    """Coverage in [0, 1] of every pixel by the forbidden mark; zero where the scene has none."""
    nominal = torch.tensor([MARK_CENTRES[s.mark_corner] for s in scenes]).reshape(-1, 2)
    offset = torch.tensor([(s.mark_dx, s.mark_dy) for s in scenes]).reshape(-1, 2)
    present = torch.tensor([float(s.mark) for s in scenes])
    return mark_coverage(nominal + offset) * present[:, None, None]


def figure_geometry(
    scenes: Sequence[Scene],
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, " batch"]]:
    """Centre (x, y) and radius of each scene's figure, in pixels."""
    centre = torch.tensor(
        [(CENTRES[s.position][0] + s.dx, CENTRES[s.position][1] + s.dy) for s in scenes]
    ).reshape(-1, 2)
    return centre, torch.tensor([RADII[s.size] * s.scale for s in scenes])


def figure_coverage(
    shape: str, centre: Float[Tensor, "batch 2"], radius: Float[Tensor, " batch"]
) -> Float[Tensor, "batch height width"]:
    """Coverage in [0, 1] by one kind of shape, placed anywhere; differentiable in both.

    centre: (x, y) in pixels, pixel (0, 0) has its middle at (0.5, 0.5); radius: pixels, > 0.
    """
    points = _grid(centre) / radius[:, None, None, None]
    return _soft(unit_distance(shape, points) * radius[:, None, None])


def mark_coverage(centre: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch height width"]:
    """Coverage in [0, 1] by the forbidden mark, a diagonal cross, centred at (x, y) in pixels."""
    folded = _grid(centre).abs()
    along = ((folded[..., 0] + folded[..., 1]) / 2).clamp(max=MARK_ARM)
    return _soft(_norm(folded - along[..., None]) - MARK_THICKNESS)


def unit_distance(
    shape: str, points: Float[Tensor, "batch height width 2"]
) -> Float[Tensor, "batch height width"]:
    """Signed distance to the shape of radius 1 at the origin; negative inside."""
    if shape == "circle":
        return _norm(points) - 0.94
    if shape == "ring":
        return (_norm(points) - 0.70).abs() - 0.25
    if shape in POLYGONS:
        return _polygon_distance(points, torch.tensor(POLYGONS[shape]))
    known = ", ".join(sorted({"circle", "ring", *POLYGONS}))
    raise ValueError(f"`shape` must be one of {known}; got {shape!r}.")


def _polygon_distance(
    points: Float[Tensor, "batch height width 2"], corners: Float[Tensor, "corner 2"]
) -> Float[Tensor, "batch height width"]:
    """Signed distance to a simple polygon: nearest edge, sign by the even-odd rule."""
    nearest = torch.full(points.shape[:-1], math.inf)
    inside = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for start, end in zip(corners, corners.roll(-1, 0), strict=True):
        edge = end - start
        offset = points - start
        share = ((offset * edge).sum(-1) / edge.dot(edge)).clamp(0, 1)
        nearest = torch.minimum(nearest, _norm(offset - share[..., None] * edge))
        straddles = (start[1] > points[..., 1]) != (end[1] > points[..., 1])
        # Where no edge is crossed the slope is irrelevant; a horizontal edge never straddles.
        slope = edge[0] / torch.where(edge[1] == 0, torch.ones(()), edge[1])
        inside ^= straddles & (offset[..., 0] < slope * offset[..., 1])
    return torch.where(inside, -nearest, nearest)


def _grid(centre: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch height width 2"]:
    """Offsets of every pixel's middle from the centre, in pixels, as (x, y)."""
    axis = torch.arange(IMAGE_SIZE) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1) - centre[:, None, None, :]


def _norm(vectors: Float[Tensor, "batch height width 2"]) -> Float[Tensor, "batch height width"]:
    # The tiny offset keeps the gradient finite at the centre.
    return (vectors.square().sum(-1) + 1e-12).sqrt()


def _soft(distance: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    """Smoothstep from 1 at EDGE pixels inside to 0 at EDGE pixels outside."""
    t = ((EDGE - distance) / (2 * EDGE)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _colors(
    rows: Sequence[tuple[float, float, float]],
) -> Float[Tensor, "batch 3 1 1"]:
    return torch.tensor(rows).reshape(-1, 3, 1, 1)
