"""The cores C(w): gates on the rank-r activations of every adapted layer, as functions of w."""

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

    Every gate is 1 on average over the vertices of the simplex, except where said otherwise.
    """

    @abstractmethod
    def forward(
        self, weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch layer rank"]:
        """Return the gates of each sample; `weights` rows lie on the simplex."""


class ConstantGates(Gates):
    """g(w) = 1: an ordinary LoRA."""

    one: Tensor

    def __init__(self, layers: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(layers, rank), persistent=False)

    def forward(
        self, weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch layer rank"]:
        return self.one.expand(weights.shape[0], -1, -1)


class LinearGates(Gates):
    """g(w) = 1 + GAIN * G (w - 1/K), so that Delta W is affine in w.

    G: `slope` [L, r, K], learned. Component j starts at sigma K / GAIN in the column of objective
    j mod K and 0 elsewhere: g_j = 1 + sigma (K w_{j mod K} - 1), where sigma is `specialisation`.
    With sigma = 0 and a learning rate of 2e-3 a gate needs hundreds of updates to close, and two
    opposed objectives stay entangled: fitting Delta W(w) = w_1 M - w_2 M by AdamW left 0.62 of the
    squared error after 100 updates against 0.06 with sigma = 1 (GAIN 1 and 4).
    """

    def __init__(self, objectives: int, layers: int, rank: int, specialisation: float) -> None:
        super().__init__()
        slope = torch.zeros(layers, rank, objectives)
        component = torch.arange(rank)
        slope[:, component, component % objectives] = specialisation * objectives / GAIN
        self.slope = nn.Parameter(slope)

    def forward(
        self, weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch layer rank"]:
        layers, rank, objectives = self.slope.shape
        centred = weights - 1 / objectives
        return 1 + GAIN * (centred @ self.slope.flatten(0, 1).T).unflatten(1, (layers, rank))


class MLPGates(Gates):
    """g(w) = LinearGates(w) + H SiLU(V (w - 1/K) + v): curves where a segment is not enough.

    One trunk V [h, K] for all layers, and H [L r, h], which starts at 0.
    """

    def __init__(
        self,
        objectives: int,
        layers: int,
        rank: int,
        specialisation: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.linear = LinearGates(objectives, layers, rank, specialisation)
        bound = 1 / math.sqrt(objectives)
        trunk = torch.empty(HIDDEN, objectives).uniform_(-bound, bound, generator=generator)
        shift = torch.empty(HIDDEN).uniform_(-bound, bound, generator=generator)
        self.trunk = nn.Parameter(trunk)
        self.shift = nn.Parameter(shift)
        self.head = nn.Parameter(torch.zeros(layers * rank, HIDDEN))

    def forward(
        self, weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch layer rank"]:
        straight = self.linear(weights)
        centred = weights - 1 / weights.shape[1]
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
        self, weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch layer rank"]:
        gates = weights.repeat_interleave(self.block, dim=1)
        return gates[:, None, :].expand(-1, self.layers, -1)


def make_gates(
    core: Core,
    objectives: int,
    layers: int,
    rank: int,
    *,
    specialisation: float = 1.0,
    generator: torch.Generator,
) -> Gates:
    """Build the core of an adapter for K objectives, L layers and rank r.

    `specialisation` in [0, 1] is where linear and mlp cores start; `generator` draws the trunk of
    an mlp. Raises ConfigError if K does not divide r for experts.
    """
    match core:
        case "constant":
            return ConstantGates(layers, rank)
        case "linear":
            return LinearGates(objectives, layers, rank, specialisation)
        case "mlp":
            return MLPGates(objectives, layers, rank, specialisation, generator)
        case "experts":
            return ExpertGates(objectives, layers, rank)
