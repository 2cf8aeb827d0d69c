"""Which points no other point beats, with a tolerance for noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def non_dominated(points: Points, tolerance: Points | float = 0.0) -> NDArray[np.bool_]:
    """Mask of the points that no other point beats by more than the tolerance.

    i is dominated iff some j has p_jk >= p_ik for all k and p_jk > p_ik + e_k for some k

    p: `points` [N,K], maximised; e: `tolerance`, one number or [K], >= 0, in the points' units
    (one standard error, say). Duplicates do not dominate each other. Raises ValueError for NaN.
    """
    values = checked(points)
    at_least = (values[:, None] >= values[None]).all(axis=2)
    clearly = (values[:, None] > values[None] + np.asarray(tolerance)).any(axis=2)
    return ~(at_least & clearly).any(axis=0)


def non_dominated_share(points: Points, tolerance: Points | float = 0.0) -> float:
    """Share of the points that are not dominated; misleading when all points coincide (1.0)."""
    return float(non_dominated(points, tolerance).mean())


def checked(points: Points) -> Points:
    """Points as a finite fp64 matrix [N,K]; raises ValueError, naming the first bad row."""
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"`points` must have shape [point, objective]; got {list(values.shape)}")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"`points` must be finite; row {row} is {values[row].tolist()}")
    return values
