"""From one gradient an objective to one update, by torchjd, on the adapter's parameters alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor, nn
from torchjd.aggregation import (
    IMTLG,
    MGDA,
    Aggregator,
    AlignedMTL,
    ConFIG,
    DualProj,
    PCGrad,
    Sum,
    UPGrad,
)
from torchjd.linalg import DualConeProjector

Rows = Float[Tensor, "objective parameter"]
# torchjd stops at a step of 1e-3, which leaves the shortest vector visibly off.
MGDA_STEP, MGDA_ITERATIONS = 1e-5, 500


class ScipyProjector(DualConeProjector):
    """The projection onto the dual cone by non-negative least squares.

    min_v v^T G v  with v >= u:  v = u + s, s = argmin_{s >= 0} | L s + L u |,  G = L^T L

    It is the quadratic program that torchjd hands to quadprog, which it does not install; for a few
    objectives scipy's active-set solver is exact and needs no regularisation of G.
    """

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(G.detach().cpu().double())
        # The solution does not depend on the scale of G, but the solver's tolerance would.
        values = (values / values.max()).clamp(min=0)
        root = (values.sqrt()[:, None] * vectors.T).numpy()
        asked = U.detach().cpu().double()
        rows = asked.reshape(-1, len(root)).numpy()
        slack = np.stack([nnls(root, -root @ row)[0] for row in rows])
        return (asked + torch.from_numpy(slack).reshape(asked.shape)).to(U)


def aggregate(
    name: str,
    rows: Rows,
    weights: Float[Tensor, " objective"],
    generator: torch.Generator,
) -> Float[Tensor, " parameter"]:
    """One gradient in place of the rows' sum, of the same scale where they do not conflict.

    g_k: `rows` [K,P], gradients of what is minimised, each already weighted by every sample's own
    weight vector: g_k = -d/dp mean_i a_ik r_ik; `weights` [K]: mean weight vector of the batch, of
    which the methods that even out the lengths of rows take K w as their preference (1 is
    neutral; the others would count w twice). Rows of zeros, of objectives that nothing in the batch
    asks for, take no part: they would halt MGDA. `generator` orders PCGrad's projections. Rows that
    are not finite are added up, so that the update is seen to be bad and skipped. Raises KeyError
    for a name that is not in `AGGREGATIONS`.
    """
    build = _BUILDERS[name]
    used = rows.abs().amax(dim=1) > 0
    if not torch.isfinite(rows).all() or not used.any():
        return rows.sum(dim=0)
    asked = weights.to(rows)[used]
    preference = asked / asked.mean().clamp(min=torch.finfo(asked.dtype).tiny)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # PCGrad draws from torch's own generator, on the CPU.
        torch.default_generator.manual_seed(generator.initial_seed())
        found: Tensor = build(preference)(rows[used])
    return found * used.sum() if name in _AVERAGES else found


def jacobian_rows(losses: Float[Tensor, " objective"], parameters: Sequence[nn.Parameter]) -> Rows:
    """The gradient of each loss as a row; one backward each through a graph that is kept."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        whole = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, found, strict=True)
        ]
        rows.append(torch.cat([part.flatten() for part in whole]))
    return torch.stack(rows)


def add_gradient(parameters: Sequence[nn.Parameter], gradient: Float[Tensor, " parameter"]) -> None:
    """Add a flat gradient to what the parameters have already."""
    parts = gradient.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        own = part.view_as(parameter)
        parameter.grad = own.clone() if parameter.grad is None else parameter.grad + own


def _neutral(preference: Tensor) -> Tensor:
    return torch.ones_like(preference)


_BUILDERS: dict[str, Callable[[Tensor], Aggregator]] = {
    "sum": lambda preference: Sum(),
    "upgrad": lambda preference: UPGrad(_neutral(preference), projector=ScipyProjector()),
    "dualproj": lambda preference: DualProj(_neutral(preference), projector=ScipyProjector()),
    "pcgrad": lambda preference: PCGrad(),
    "aligned_mtl": lambda preference: AlignedMTL(preference),
    "config": lambda preference: ConFIG(preference),
    "mgda": lambda preference: MGDA(epsilon=MGDA_STEP, max_iters=MGDA_ITERATIONS),
    "imtl_g": lambda preference: IMTLG(),
}
# Their coefficients sum to 1, those of the others to the number of rows where nothing conflicts.
_AVERAGES = {"mgda", "imtl_g"}
