"""What users get at the weight vectors that they set, and what an oracle would have picked."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from morl.fronts.dominance import Points, checked

TIE = 1e-9  # differences of utilities and of weights below this are rounding


@dataclass(frozen=True)
class Preferences:
    """Users: which weight vectors they set, how many of them, and the outcomes of which points.

    vectors [Q,K] on the simplex; shares [Q], >= 0, sum 1; blend [Q,N]: what user q gets is
    sum_n blend_qn u_n, of the N measured points.
    """

    vectors: Float[np.ndarray, "user objective"]
    shares: Float[np.ndarray, " user"]
    blend: Float[np.ndarray, "user point"]


def grid_users(weights: Points) -> Preferences:
    """Users spread evenly over the measured weight vectors themselves, [N,K].

    Misleading as a mean over the simplex: a coarse grid lies mostly on its border (9 of the 10
    vectors of 3 objectives in thirds); see `uniform_users`.
    """
    count = len(checked(weights))
    return Preferences(weights, np.full(count, 1 / count), np.eye(count))


def uniform_users(weights: Points) -> Preferences:
    """Users spread evenly, Dirichlet(1), over the region that the weight vectors span.

    Between measured vectors the outcome is interpolated linearly in each cell of their Delaunay
    triangulation; users sit at the nodes of a rule that is exact for polynomials of degree 2, so
    delivered utility is the exact integral of the interpolated front.

    nodes of a cell: barycentric (1 - d s, s, ..., s) and its permutations,
    s = (d + 2 - sqrt(d + 2)) / ((d + 1) (d + 2)), d = K - 1; share: the cell's part of the volume

    weights [N,K], rows sum to 1, N >= K and not all in a hyperplane. Misleading where the front
    bends inside a cell. Raises ValueError where the vectors span no region (one objective does).
    Source of the rule: Hammer and Stroud, Math. Tables Aids Comput. 10(55), 1956.
    """
    values = checked(weights)
    cells, volumes = _cells(values)
    d = values.shape[1] - 1
    s = (d + 2 - math.sqrt(d + 2)) / ((d + 1) * (d + 2))
    rule = np.full((d + 1, d + 1), s) + (1 - (d + 1) * s) * np.eye(d + 1)
    blend = np.zeros((len(cells) * (d + 1), len(values)))
    for number, cell in enumerate(cells):
        blend[number * (d + 1) : (number + 1) * (d + 1), cell] = rule
    shares = np.repeat(volumes / volumes.sum() / (d + 1), d + 1)
    return Preferences(blend @ values, shares, blend)


def delivered_utility(normalised: Points, users: Preferences) -> float:
    """Mean over users of the utility at the weight vector that they set.

    DU = E_v [v . u(v)]

    u: `normalised` [N,K], row n measured at the n-th weight vector of `users`. No maximum is
    taken, so noise does not inflate it. Misleading across different grids.
    Source: definition of this toolkit; expected utility without the oracle's choice.
    """
    received = users.blend @ checked(normalised)
    return float(users.shares @ (users.vectors * received).sum(axis=1))


def expected_utility(normalised: Points, users: Preferences) -> float:
    """Mean over users of the best point of the set: what an oracle would pick for them.

    EU = E_v [max_n v . u_n]

    u: `normalised` [N,K]. Misleading where users cannot try all points (see `delivered_utility`),
    and inflated by noise.
    Source: Zintgraf et al., BNAIC 2015.
    """
    return float(users.shares @ (users.vectors @ checked(normalised).T).max(axis=1))


def steering_gap(normalised: Points, users: Preferences) -> float:
    """What is lost because the slider does not pick its own best point: EU - DU >= 0.

    0: the slider means what it says. Misleading on its own: a slider that does nothing has gap 0.
    """
    return expected_utility(normalised, users) - delivered_utility(normalised, users)


def own_weight_share(normalised: Points, weights: Points) -> float:
    """Share of weight vectors whose best point lies within one grid step of themselves.

    OWN = mean_v [ || w* - v ||_1 <= step ],  w* = nearest of argmax_n v . u_n to v

    u: `normalised` [N,K], row n measured at `weights` row n; step: the least L1 distance between
    two weight vectors. Misleading on coarse grids, where one step is a third of the way, and where
    all points coincide (1).
    """
    w = checked(weights)
    utility = w @ checked(normalised).T
    distance = np.abs(w[:, None] - w[None]).sum(axis=2)
    apart = distance[distance > TIE]
    step = float(apart.min()) if apart.size else 0.0
    best = utility >= utility.max(axis=1, keepdims=True) - TIE
    nearest = np.where(best, distance, np.inf).min(axis=1)
    return float((nearest <= step + TIE).mean())


def _cells(
    weights: Points,
) -> tuple[list[list[int]], Float[np.ndarray, " cell"]]:
    """Simplices between neighbouring weight vectors, each with its relative volume."""
    k = weights.shape[1]
    if k == 1:
        return [[0]], np.ones(1)
    # Coordinates in which the simplex is regular: with skewed ones the triangulation of a regular
    # grid would depend on the order of the objectives.
    basis = np.linalg.svd(np.ones((1, k)))[2][1:]
    flat = weights @ basis.T
    if len(weights) < k or np.linalg.matrix_rank(flat - flat[0], tol=TIE) < k - 1:
        raise ValueError(
            f"{len(weights)} weight vectors span no region of the simplex of {k} objectives; "
            "measure a grid, with every vertex"
        )
    if k == 2:
        order = np.argsort(flat[:, 0])
        pairs = [[int(a), int(b)] for a, b in itertools.pairwise(order)]
        return pairs, np.diff(flat[order, 0])
    from scipy.spatial import Delaunay

    cells = Delaunay(flat).simplices
    edges = flat[cells[:, 1:]] - flat[cells[:, :1]]
    return cells.tolist(), np.abs(np.linalg.det(edges))
