"""Weight vectors on the simplex: read them, lay them out on grids and paths, sample them."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from morl.errors import WeightError
from rewards.errors import nearest

TOLERANCE = 1e-6  # a sum this near to 1 was meant to be 1, and a bound this near is met


class WeightNote(UserWarning):
    """Weights were completed or normalised; Python shows the same note once."""


def parse_weights(
    weights: str | Mapping[str, float] | Sequence[float] | Tensor, names: Sequence[str]
) -> Float[Tensor, " objective"]:
    """Read one weight vector on the simplex, ordered as `names`.

    By name ("aesthetic=0.7,alignment=0.3" or a mapping) omitted objectives are 0; a sequence
    ("0.7,0.3", numbers or a tensor [K]) must be complete. A sum other than 1 is normalised. Both
    are said once by a `WeightNote`. Raises WeightError with every problem found: unknown, repeated
    or missing names, values that are negative, not finite or all zero.
    """
    problems: list[str] = []
    notes: list[str] = []
    values = _named(weights, names, problems, notes)
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            problems.append(f"weight of {name!r} must be finite; got {value}")
        elif value < 0:
            problems.append(f"weight of {name!r} must be at least 0; got {value:g}")
    if not problems and sum(values) <= 0:
        problems.append(f"one weight at least must be positive; all of {', '.join(names)} are 0")
    if problems:
        raise WeightError(problems)
    total = sum(values)
    if abs(total - 1) > TOLERANCE:
        shares = ", ".join(f"{n}={v / total:.3g}" for n, v in zip(names, values, strict=True))
        notes.append(f"weights sum to {total:g}; normalised to {shares}")
    for note in notes:
        warnings.warn(note, WeightNote, stacklevel=2)
    return torch.tensor([value / total for value in values], dtype=torch.float32)


def das_dennis(k: int, partitions: int) -> Float[Tensor, "point objective"]:
    """The simplex lattice: every w with w_i a multiple of 1 / `partitions`, first objective first.

    C(partitions + k - 1, k - 1) points. Raises WeightError for k or partitions below 1.
    Source: Das and Dennis, SIAM J. Optim. 8(3), 1998, section 4.
    """
    if k < 1 or partitions < 1:
        raise WeightError(f"a grid needs k >= 1 and partitions >= 1; got {k} and {partitions}")
    from pymoo.util.ref_dirs import get_reference_directions

    grid = get_reference_directions("das-dennis", k, n_partitions=partitions)
    return torch.from_numpy(grid[::-1].copy()).float()


def edge_path(k: int, i: int, j: int, points: int) -> Float[Tensor, "point objective"]:
    """Equally spaced weight vectors from vertex i (all weight on objective i) to vertex j."""
    if not (0 <= i < k and 0 <= j < k and i != j):
        raise WeightError(f"an edge joins two different objectives of {k}; got {i} and {j}")
    if points < 2:
        raise WeightError(f"an edge path needs at least 2 points; got {points}")
    path = torch.zeros(points, k)
    path[:, j] = torch.linspace(0, 1, points)
    path[:, i] = 1 - path[:, j]
    return path


def region_vertices(
    k: int, low: Sequence[float] | None = None, high: Sequence[float] | None = None
) -> Float[Tensor, "point objective"]:
    """Corners of the part of the simplex where low_i <= w_i <= high_i, in float64.

    At a corner all entries but one sit at a bound. Without bounds these are the K unit vectors.
    Raises WeightError where the bounds leave nothing of the simplex.
    """
    if low is None and high is None:
        return torch.eye(k, dtype=torch.float64)
    bottom, top = list(low or [0.0] * k), list(high or [1.0] * k)
    if len(bottom) != k or len(top) != k:
        raise WeightError(f"bounds must have {k} entries; got {len(bottom)} and {len(top)}")
    if any(not 0 <= below <= above <= 1 for below, above in zip(bottom, top, strict=True)):
        raise WeightError(f"bounds must satisfy 0 <= low <= high <= 1; got {bottom} and {top}")
    bounds = list(zip(bottom, top, strict=True))
    candidates = (
        [*at[:free], 1 - sum(at), *at[free:]]
        for free in range(k)
        for at in itertools.product(*(pair for n, pair in enumerate(bounds) if n != free))
    )
    corners: list[list[float]] = []
    for corner in candidates:
        inside = all(
            below - TOLERANCE <= share <= above + TOLERANCE
            for share, (below, above) in zip(corner, bounds, strict=True)
        )
        if inside and not any(_close(corner, known) for known in corners):
            corners.append(corner)
    if not corners:
        raise WeightError(
            f"no weight vector lies between low = {bottom} and high = {top}: the sum of low must "
            "be at most 1 and that of high at least 1"
        )
    return torch.tensor(corners, dtype=torch.float64)


def sample_weights(
    generator: torch.Generator,
    n: int,
    k: int,
    *,
    vertex: float = 0.25,
    edge: float = 0.25,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
) -> Float[Tensor, "batch objective"]:
    """Draw n weight vectors, stratified over vertices, edges and interior of the region.

    `vertex` and `edge` are shares in [0, 1] with a sum of at most 1; the interior takes the rest.
    Each stratum gets its share of n rounded up or down by one common random offset, so the counts
    are exact where the shares divide n and right in the mean where they do not; vertices and edges
    are visited equally often. The interior is a Dirichlet(1) mixture of the region's vertices:
    uniform on the whole simplex, denser in the middle of a cut region. Rows come in random order.
    Objectives trained too rarely at their vertex never reach a dedicated adapter.
    Raises WeightError for impossible shares or an empty region.
    """
    if vertex < 0 or edge < 0 or vertex + edge > 1 + TOLERANCE:
        raise WeightError(
            f"shares of vertices and edges must be at least 0 and sum to at most 1; got {vertex} "
            f"and {edge}"
        )
    corners = region_vertices(k, low, high)
    pairs = _edges(corners, low or [0.0] * k, high or [1.0] * k)
    interior = 1 - vertex - edge
    at_vertex, on_edge, inside = _stratified([vertex, edge, interior], n, generator)
    if not len(pairs):  # a region of one point has no edges
        at_vertex, on_edge = at_vertex + on_edge, 0
    ends = corners[pairs[_cycle(len(pairs), on_edge, generator)]] if on_edge else None
    mix = torch.empty(inside, len(corners), dtype=torch.float64).exponential_(generator=generator)
    rows = [
        corners[_cycle(len(corners), at_vertex, generator)],
        mix / mix.sum(dim=1, keepdim=True) @ corners,
    ]
    if ends is not None:
        strata = torch.randperm(on_edge, generator=generator).double()
        jitter = torch.rand(on_edge, generator=generator, dtype=torch.float64)
        share = ((strata + jitter) / on_edge)[:, None]
        rows.append(share * ends[:, 0] + (1 - share) * ends[:, 1])
    weights = torch.cat(rows)
    return weights[torch.randperm(n, generator=generator)].float()


def _named(
    weights: str | Mapping[str, float] | Sequence[float] | Tensor,
    names: Sequence[str],
    problems: list[str],
    notes: list[str],
) -> list[float]:
    """One value for each name; what cannot be read is added to `problems` and counts as 0."""
    if isinstance(weights, str):
        weights = _split(weights, problems)
    if isinstance(weights, Tensor):
        weights = weights.flatten().tolist()
    if not isinstance(weights, Mapping):
        if len(weights) != len(names):
            problems.append(
                f"a sequence of weights must give all {len(names)} ({', '.join(names)}); got "
                f"{len(weights)}; by name, omitted ones are 0"
            )
            return [0.0] * len(names)
        weights = dict(zip(names, weights, strict=True))
    problems.extend(
        f"no objective is called {name!r}; {nearest(name, names)}"
        for name in weights
        if name not in names
    )
    omitted = [name for name in names if name not in weights]
    if omitted and not problems:
        notes.append(f"weights leave out {', '.join(omitted)}: taken as 0")
    return [float(weights.get(name, 0.0)) for name in names]


def _split(text: str, problems: list[str]) -> dict[str, float] | list[float]:
    """Read "a=0.7,b=0.3" or "0.7,0.3"."""
    named: dict[str, float] = {}
    plain: list[float] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = part.rpartition("=")
        name = name.strip()
        try:
            value = float(number)
        except ValueError:
            problems.append(f"weights are written name=number,name=number; got {part!r}")
            continue
        if not equals:
            plain.append(value)
        elif name in named:
            problems.append(f"the weight of {name!r} is given twice")
        else:
            named[name] = value
    if named and plain:
        problems.append(f"name every weight or none; got {text!r}")
    return named or plain


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(abs(a - b) <= TOLERANCE for a, b in zip(first, second, strict=True))


def _edges(corners: Tensor, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """Pairs of corners that an edge of the region joins: [edge, 2].

    An edge has all but two entries at a bound, so its ends differ in exactly two entries.
    """
    bounds = torch.tensor([list(low), list(high)], dtype=torch.float64)
    found = []
    for i, j in itertools.combinations(range(len(corners)), 2):
        same = (corners[i] - corners[j]).abs() <= TOLERANCE
        bound = ((corners[i] - bounds).abs() <= TOLERANCE).any(dim=0)
        if int((~same).sum()) == 2 and bool(bound[same].all()):
            found.append([i, j])
    return torch.tensor(found, dtype=torch.long).reshape(-1, 2)


def _stratified(shares: Sequence[float], n: int, generator: torch.Generator) -> list[int]:
    """Integer counts with the given shares of n: systematic rounding by one uniform offset."""
    offset = torch.rand((), generator=generator, dtype=torch.float64).item()
    edges = [0.0, *itertools.accumulate(shares)]
    # The small step keeps 0.1 + 0.2 from falling just below a whole number.
    marks = [math.floor(edge * n + offset + 1e-9) for edge in edges[:-1]]
    marks.append(n + marks[0])
    return [after - before for before, after in itertools.pairwise(marks)]


def _cycle(kinds: int, n: int, generator: torch.Generator) -> Tensor:
    """n indices that visit each of `kinds` equally often, the odd ones out at random."""
    rounds = -(-n // kinds) if kinds else 0
    order = [torch.randperm(kinds, generator=generator) for _ in range(rounds)]
    return torch.cat(order)[:n] if order else torch.empty(0, dtype=torch.long)
