"""Find the forbidden mark: template matching in the four corners."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.shapes.render import IMAGE_SIZE, MARK_CENTRES, MARK_RGB, mark_coverage

CORNER = 15  # pixels: side of the square in a corner that a mark may fill
SHIFT = 3  # pixels: how far from its nominal place a mark is looked for


def mark_presence(
    images: Float[Tensor, "batch 3 height width"], background: Float[Tensor, "batch 3"]
) -> Float[Tensor, "batch corner"]:
    """How visibly the forbidden mark stands in each corner, in [0, 1].

    presence = max over shifts of sqrt(a_+ corr_+), with p = 1 - |x - magenta| / |b - magenta|
    each pixel's share of magenta, a the slope of p on the mark's coverage (at most 1) and corr
    their correlation. 1 as rendered; a blob of magenta lacks correlation, a faint mark slope.
    """
    magenta = torch.tensor(MARK_RGB)
    away = (background - magenta).norm(dim=1)[:, None, None]
    share = 1 - (images - magenta[:, None, None]).square().sum(1).sqrt() / away.clamp(min=0.1)
    patches = torch.stack([_corner(share.clamp(0, 1), i, CORNER + 2) for i in range(4)], 1)
    centred = patches.flatten(2) - patches.flatten(2).mean(-1, keepdim=True)
    templates = _templates()
    length = templates.norm(dim=-1)
    along = torch.einsum("bcp,csp->bcs", centred, templates) / length
    slope = (along / length).clamp(0, 1)
    correlation = (along / centred.norm(dim=-1, keepdim=True).clamp(min=0.1)).clamp(0, 1)
    return (slope * correlation).sqrt().amax(-1)


def outside_marks(presence: Float[Tensor, "batch corner"]) -> Float[Tensor, "batch height width"]:
    """1 where the figure is to be explained, 0 in corners that show a mark."""
    keep = torch.ones(len(presence), IMAGE_SIZE, IMAGE_SIZE)
    for i in range(4):
        _corner(keep, i, CORNER).mul_((presence[:, i] < 0.5).float()[:, None, None])
    return keep


def _corner(
    maps: Float[Tensor, "batch height width"], corner: int, side: int
) -> Float[Tensor, "batch side side"]:
    """A square view of one corner."""
    x, y = (
        slice(0, side) if c < IMAGE_SIZE / 2 else slice(-side, None) for c in MARK_CENTRES[corner]
    )
    return maps[:, y, x]


@cache
def _templates() -> Float[Tensor, "corner shift pixel"]:
    """Centred coverage of the mark in its corner's patch, for every shift."""
    shifts = torch.cartesian_prod(*[torch.arange(-SHIFT, SHIFT + 1.0)] * 2)
    patches = torch.stack(
        [
            _corner(mark_coverage(torch.tensor(centre) + shifts), i, CORNER + 2).flatten(1)
            for i, centre in enumerate(MARK_CENTRES)
        ]
    )
    return patches - patches.mean(-1, keepdim=True)
