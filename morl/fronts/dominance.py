"""Which points no other point beats, with a tolerance for noise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

Points = Float[np.ndarray, "point objective"]
"""Mean reward vectors [N,K], one row a weight vector."""


def non_dominated(
    points: Points, tolerance: Float[np.ndarray, "..."] | float = 0.0
) -> Bool[np.ndarray, " point"]:
    """Mark the points that no other point beats by more than the tolerance.

    i is dominated iff some j has p_jk >= p_ik for all k and p_jk > p_ik + e_k for some k

    p: `points` [N,K], maximised; e: `tolerance` >= 0 in the units of the points: one number, one
    for each objective [K], or one for each pair j, i [N,N,K] (a paired standard error). Duplicates
    do not dominate each other. Misleading with a large tolerance: every point then survives.
    Raises ValueError for empty or non-finite points and for a negative tolerance.
    Source: additive epsilon dominance, Laumanns et al., Evol. Comput. 10(3), 2002; here the gap is
    asked of one objective alone.
    """
    values = checked(points)
    slack = np.asarray(tolerance, dtype=np.float64)
    if not (slack >= 0).all():
        raise ValueError(f"`tolerance` must be at least 0; got {float(slack.min())}")
    at_least = (values[:, None] >= values[None]).all(axis=2)
    clearly = (values[:, None] > values[None] + slack).any(axis=2)
    beaten: Bool[np.ndarray, " point"] = np.any(at_least & clearly, axis=0)
    return ~beaten


def non_dominated_share(points: Points, tolerance: Float[np.ndarray, "..."] | float = 0.0) -> float:
    """Share of the points that are not dominated, in (0, 1].

    Misleading when all points coincide: a slider that does nothing has share 1 (see `spans`).
    """
    return float(non_dominated(points, tolerance).mean())


def checked(points: Points) -> Points:
    """Return the points; raises ValueError where they are none, or naming the first bad row."""
    if 0 in points.shape:
        raise ValueError(f"`points` must hold at least one number; got shape {list(points.shape)}")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"`points` must be finite; row {row} is {points[row].tolist()}")
    return points
