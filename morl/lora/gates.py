"""The cores C(w): gates on the rank-r activations of every adapted layer, as functions of w.

Where budgets slide, a row holds their positions t in [0, 1] behind w, and C is a function of both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from morl.errors import ConfigError
from morl.lora.settings import Core

# Adam moves a parameter by about the learning rate, whatever the gradient. Factors reach a size of
# 0.1; gates must move by 1, so their slopes are stored four times smaller than they act.
GAIN = 4.0
HIDDEN = 32


class Gates(nn.Module, ABC):
    """g(w) for L layers of rank r at once: the diagonal of C(w) in Delta W(w) = s B C(w) A.

    Every gate is 1 on average over the vertices of the simplex (and over the two ends of every
    budget's range), except where said otherwise.
    """

    @abstractmethod
    def forward(
        self, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch layer rank"]:
        """Return the gates of each sample; rows lie on the simplex, with positions behind."""


class ConstantGates(Gates):
    """g(w) = 1: an ordinary LoRA."""

    one: Tensor

    def __init__(self, layers: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(layers, rank), persistent=False)

    def forward(
        self, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch layer rank"]:
        return self.one.expand(weights.shape[0], -1, -1)


class LinearGates(Gates):
    """g(w, t) = 1 + GAIN * (G (w - 1/K) + H (t - 1/2)), so that Delta W is affine in w and t.

    (G, H): `slope` [L, r, K + budgets], learned. Component j starts at sigma K / GAIN in the column
    of objective j mod K and 0 elsewhere: g_j = 1 + sigma (K w_{j mod K} - 1), where sigma is
    `specialisation`. With sigma = 0 and a learning rate of 2e-3 a gate needs hundreds of updates to
    close, and two opposed objectives stay entangled: fitting Delta W(w) = w_1 M - w_2 M by AdamW
    left 0.62 of the squared error after 100 updates against 0.06 with sigma = 1 (GAIN 1 and 4).

    Budgets have components of their own for the same reason, dealt in turn with the objectives':
    g_j = 1 + sigma (1 - 2 t), what a strict bound asks for and a loose one does not. Fitting
    w_1 M_1 + w_2 M_2 + (1 - 2 t) N at r = 6 left 0.27 of the squared error after 100 updates, and
    0.37 where all components were the objectives' (0.09 and 0.18 after 300; means of 4 draws).
    """

    def __init__(
        self, objectives: int, layers: int, rank: int, specialisation: float, budgets: int = 0
    ) -> None:
        super().__init__()
        self.objectives = objectives
        slope = torch.zeros(layers, rank, objectives + budgets)
        component = torch.arange(rank)
        owner = component % (objectives + budgets)
        slope[:, component, owner] = specialisation * objectives / GAIN
        slope[..., objectives:] *= -2 / objectives
        self.slope = nn.Parameter(slope)

    def forward(
        self, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch layer rank"]:
        layers, rank, _ = self.slope.shape
        centred = _centred(weights, self.objectives)
        return 1 + GAIN * (centred @ self.slope.flatten(0, 1).T).unflatten(1, (layers, rank))


class MLPGates(Gates):
    """g(w) = LinearGates(w) + H SiLU(V (w - 1/K) + v): curves where a segment is not enough.

    One trunk V [h, K + budgets] for all layers, which sees (w - 1/K, t - 1/2), and H [L r, h],
    which starts at 0.
    """

    def __init__(
        self,
        objectives: int,
        layers: int,
        rank: int,
        specialisation: float,
        generator: torch.Generator,
        budgets: int = 0,
    ) -> None:
        super().__init__()
        self.linear = LinearGates(objectives, layers, rank, specialisation, budgets)
        inputs = objectives + budgets
        bound = 1 / math.sqrt(inputs)
        trunk = torch.empty(HIDDEN, inputs).uniform_(-bound, bound, generator=generator)
        shift = torch.empty(HIDDEN).uniform_(-bound, bound, generator=generator)
        self.trunk = nn.Parameter(trunk)
        self.shift = nn.Parameter(shift)
        self.head = nn.Parameter(torch.zeros(layers * rank, HIDDEN))

    def forward(
        self, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch layer rank"]:
        straight = self.linear(weights)
        centred = _centred(weights, self.linear.objectives)
        hidden = nn.functional.silu(centred @ self.trunk.T + self.shift)
        return straight + (hidden @ self.head.T).view_as(straight)


class ExpertGates(Gates):
    """g(w) = w_k on the k-th of K equal blocks, a soup of experts: s sum_k w_k B_k A_k.

    It has no parameters, and is 1 / K on average: at vertex k the update is expert k alone.
    Source: PaLoRA, arXiv 2407.08056; Rewarded Soups, arXiv 2306.04488.
    """

    def __init__(self, objectives: int, layers: int, rank: int) -> None:
        super().__init__()
        if rank % objectives:
            raise ConfigError(
                f"rank must be a multiple of the {objectives} objectives for core 'experts'; "
                f"got {rank}"
            )
        self.layers = layers
        self.block = rank // objectives

    def forward(
        self, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch layer rank"]:
        gates = weights.repeat_interleave(self.block, dim=1)
        return gates[:, None, :].expand(-1, self.layers, -1)


def make_gates(
    core: Core,
    objectives: int,
    layers: int,
    rank: int,
    *,
    budgets: int = 0,
    specialisation: float = 1.0,
    generator: torch.Generator,
) -> Gates:
    """Build the core of an adapter for K objectives, L layers and rank r.

    `budgets`: how many bounds slide; constant and experts have none (`AdapterConfig`).
    `specialisation` in [0, 1] is where linear and mlp cores start; `generator` draws the trunk of
    an mlp. Raises ConfigError if K does not divide r for experts.
    """
    match core:
        case "constant":
            return ConstantGates(layers, rank)
        case "linear":
            return LinearGates(objectives, layers, rank, specialisation, budgets)
        case "mlp":
            return MLPGates(objectives, layers, rank, specialisation, generator, budgets)
        case "experts":
            return ExpertGates(objectives, layers, rank)


def _centred(
    rows: Float[Tensor, "batch condition"], objectives: int
) -> Float[Tensor, "batch condition"]:
    """Rows around the middle: equal weights, and budgets halfway."""
    if rows.shape[1] == objectives:
        return rows - 1 / objectives
    return torch.cat([rows[:, :objectives] - 1 / objectives, rows[:, objectives:] - 0.5], dim=1)
