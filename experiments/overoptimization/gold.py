"""Six true rewards in closed form: three to develop on, three that are kept for the test."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from experiments.overoptimization.world import DIM
from morl.randomness import generator

LEAN = 0.3  # how far the best place differs between prompts
FLOOR = 4.0  # no sample is much worse than this below 0: a ruined picture cannot be ruined more
Measure = Callable[[Float[Tensor, "*batch dim"]], Float[Tensor, " *batch"]]


def _quadratic(q: Tensor) -> Tensor:
    return q[..., 0] - 0.15 * _length(q)


def _bump(q: Tensor) -> Tensor:
    return torch.exp(-(_length(q) - 4 * q[..., 0] + 4) / 8)


def _worse_of_two(q: Tensor) -> Tensor:
    return torch.minimum(q[..., 0], q[..., 1]) - 0.1 * _length(q)


def _saturating(q: Tensor) -> Tensor:
    return (1.5 * q[..., 0]).tanh() - 0.08 * _length(q)


def _wave(q: Tensor) -> Tensor:
    return (1.5 * q[..., 0]).sin() - 0.05 * _length(q)


def _interaction(q: Tensor) -> Tensor:
    return q[..., 0] + 0.5 * q[..., 1] * q[..., 0].tanh() - 0.15 * _length(q)


def _length(q: Tensor) -> Tensor:
    return q.square().sum(dim=-1)


DEVELOPMENT: dict[str, Measure] = {
    "quadratic": _quadratic,
    "bump": _bump,
    "worse_of_two": _worse_of_two,
}
TEST: dict[str, Measure] = {
    "saturating": _saturating,
    "wave": _wave,
    "interaction": _interaction,
}
GOLDS = DEVELOPMENT | TEST


def gold(
    name: str, samples: Float[Tensor, "*batch dim"], centres: Float[Tensor, "*batch dim"]
) -> Float[Tensor, " *batch"]:
    """The true reward of finished samples, given the mean of each one's prompt; raw units.

    g(x) = softplus(f(q) + 4) - 4,  q = Q (x - m) - 0.3 tanh(Q m)

    x: `samples`; m: `centres`; f: one of six; Q: a rotation of this reward's own. Each reward wants
    q moved along one or two axes, up to a point, and loses with |q|^2 on the others as well: what
    labels on base samples, where |q| hardly varies, teach least about.
    """
    draw = generator(0, 0, 0, f"gold {name}")
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=draw))[0]
    moved = (samples - centres) @ rotation - LEAN * (centres @ rotation).tanh()
    return softplus(GOLDS[name](moved) + FLOOR) - FLOOR
