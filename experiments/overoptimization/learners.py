"""Small networks that learn a reward from few labels, many side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import silu

from experiments.overoptimization.world import DIM
from morl.randomness import generator

WIDTHS = (2 * DIM, 32, 32, 1)
FIT_STEPS, FIT_BATCH, FIT_RATE, FIT_DECAY = 400, 64, 3e-3, 1e-2
MEMBERS = 4
SHARED_START = 100
"""Steps that WARM's members take together: networks that never met have no useful average."""
SINGLE = slice(0, 1)
BOOTSTRAPS = slice(1, 1 + MEMBERS)
WARM = slice(1 + MEMBERS, 1 + 2 * MEMBERS)
HELD_OUT = slice(1 + 2 * MEMBERS, 2 + 2 * MEMBERS)
NETWORKS = 2 + 2 * MEMBERS
LAPLACE_PRIOR = 1.0  # precision of a parameter of the last layer, before any label


@dataclass(frozen=True)
class Networks:
    """Two hidden layers, K networks for each of R runs: weights [R,K,in,out], biases
    [R,K,1,out].
    """

    weights: tuple[Float[Tensor, "run member input output"], ...]
    biases: tuple[Float[Tensor, "run member 1 output"], ...]

    @classmethod
    def drawn(cls, seeds: Sequence[int]) -> Networks:
        """As many as a run needs, at random; those for `WARM` start equal."""
        weights, biases = [], []
        for layer, (before, after) in enumerate(pairwise(WIDTHS)):
            draws = [
                torch.randn(NETWORKS, before, after, generator=generator(seed, layer, 0, "reward"))
                for seed in seeds
            ]
            weight = torch.stack(draws) * (2 / before) ** 0.5
            weight[:, WARM] = weight[:, WARM.start, None]
            weights.append(weight)
            biases.append(weight.new_zeros(len(seeds), NETWORKS, 1, after))
        return cls(tuple(weights), tuple(biases))

    def features(
        self, inputs: Float[Tensor, "run member row input"]
    ) -> Float[Tensor, "run member row feature"]:
        """The last hidden layer."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs = silu(inputs @ weight + bias)
        return inputs

    def values(
        self, inputs: Float[Tensor, "run member row input"]
    ) -> Float[Tensor, "run member row"]:
        return (self.features(inputs) @ self.weights[-1] + self.biases[-1])[..., 0]

    def score(self, inputs: Float[Tensor, "run row input"]) -> Float[Tensor, "run row member"]:
        """Every network's score of the same rows."""
        return self.values(inputs[:, None]).transpose(1, 2)

    def take(self, members: slice) -> Networks:
        return Networks(
            tuple(weight[:, members] for weight in self.weights),
            tuple(bias[:, members] for bias in self.biases),
        )

    def averaged(self) -> Networks:
        """One network a run, with the mean of its members' parameters (WARM, arXiv 2401.12187)."""
        return Networks(
            tuple(weight.mean(dim=1, keepdim=True) for weight in self.weights),
            tuple(bias.mean(dim=1, keepdim=True) for bias in self.biases),
        )


def inputs_of(
    samples: Float[Tensor, "*rows dim"], centres: Float[Tensor, "*rows dim"]
) -> Float[Tensor, "*rows input"]:
    """What the networks read: where the sample lies from its prompt's mean, and that mean."""
    return torch.cat([samples - centres, centres], dim=-1)


def mislabelled(
    labels: Float[Tensor, " label"], share: float, draw: torch.Generator
) -> Float[Tensor, " label"]:
    """The labels with a share of them, drawn at random, dealt out anew among themselves."""
    wrong = torch.randperm(len(labels), generator=draw)[: round(share * len(labels))]
    noisy = labels.clone()
    noisy[wrong] = labels[wrong[torch.randperm(len(wrong), generator=draw)]]
    return noisy


def fit(
    seeds: Sequence[int],
    sizes: Sequence[int],
    inputs: Float[Tensor, "run label input"],
    labels: Float[Tensor, "run label"],
) -> Networks:
    """All networks of all runs, by squared error, AdamW with a rate that falls to 0.

    A run's first `sizes` labels are for all but `HELD_OUT`, which has as many again, the next ones.
    `BOOTSTRAPS` and, after their shared start, `WARM` draw theirs with replacement, each its own.
    """
    networks = Networks.drawn(seeds)
    parameters = [part.requires_grad_() for part in (*networks.weights, *networks.biases)]
    optimiser = torch.optim.AdamW(parameters, lr=FIT_RATE, weight_decay=FIT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, FIT_STEPS)
    chosen = torch.stack([_batches(seed, size) for seed, size in zip(seeds, sizes, strict=True)])
    run = torch.arange(len(seeds))[:, None, None]
    for step in range(FIT_STEPS):
        rows = chosen[:, :, step]
        error = networks.values(inputs[run, rows]) - labels[run, rows]
        optimiser.zero_grad()
        error.square().mean(dim=2).sum().backward()
        optimiser.step()
        schedule.step()
    return Networks(
        tuple(weight.detach() for weight in networks.weights),
        tuple(bias.detach() for bias in networks.biases),
    )


def _batches(seed: int, size: int) -> Int[Tensor, "member step label"]:
    """Which labels each network reads at each step: a function of seed and size alone."""
    draw = generator(seed, size, 0, "label batches")
    rows = torch.randint(size, (NETWORKS, FIT_STEPS, FIT_BATCH), generator=draw)
    own = torch.randint(size, (NETWORKS, size), generator=draw)
    for member in range(NETWORKS)[BOOTSTRAPS]:
        rows[member] = own[member][rows[member]]
    rows[WARM, :SHARED_START] = rows[WARM.start, :SHARED_START]
    for member in range(NETWORKS)[WARM]:
        rows[member, SHARED_START:] = own[member][rows[member, SHARED_START:]]
    rows[HELD_OUT] += size
    return rows


@dataclass(frozen=True)
class Laplace:
    """Uncertainty of a network's last layer, the layers below taken as known: one matrix a run.

    std(x)^2 = f(x)^T (prior I + sum_i f_i f_i^T / s^2)^-1 f(x)

    f: last hidden layer and a constant 1; s^2: mean squared residual on the labels, at least 1e-3.
    In the labels' units; without the labels' own noise. Source: arXiv 2106.14806, last-layer case.
    """

    network: Networks
    covariance: Float[Tensor, "run feature feature"]

    @classmethod
    def of(
        cls,
        network: Networks,
        sizes: Sequence[int],
        inputs: Float[Tensor, "run label input"],
        labels: Float[Tensor, "run label"],
    ) -> Laplace:
        """From the labels that the network was fitted to, the first `sizes` of each run."""
        features = _with_one(network.features(inputs[:, None])[:, 0])
        residual = network.values(inputs[:, None])[:, 0] - labels
        rows = []
        for feature, error, size in zip(features, residual, sizes, strict=True):
            known, noise = feature[:size].double(), error[:size].double().square().mean()
            precision = known.T @ known / noise.clamp(min=1e-3)
            precision.diagonal().add_(LAPLACE_PRIOR)
            rows.append(torch.linalg.inv(precision).float())
        return cls(network, torch.stack(rows))

    def std(self, inputs: Float[Tensor, "run row input"]) -> Float[Tensor, "run row"]:
        features = _with_one(self.network.features(inputs[:, None])[:, 0])
        return ((features @ self.covariance) * features).sum(dim=-1).clamp(min=1e-12).sqrt()


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
