"""A reward learned in another way: kernel ridge regression, which knows where it has no labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

WIDTH = 4.0  # about the distance of two base samples
RIDGE = 0.3  # variance of the labels around what inputs explain, in their base variance


@dataclass(frozen=True)
class Kernel:
    """h(x) = sum_i c_i exp(-|x - x_i|^2 / (2 WIDTH^2)),  (K + RIDGE I) c = y.

    x: what the networks read too; y: labels in base standard deviations. Far from all labels it
    says 0, the base's mean, where a network goes on as it was going.
    """

    known: tuple[Float[Tensor, "label input"], ...]
    coefficients: tuple[Float[Tensor, " label"], ...]

    @classmethod
    def fitted(
        cls,
        parts: Sequence[slice],
        inputs: Float[Tensor, "run label input"],
        labels: Float[Tensor, "run label"],
    ) -> Kernel:
        """To each run's part of its labels."""
        known = tuple(row[part] for row, part in zip(inputs, parts, strict=True))
        coefficients = []
        for row, label, part in zip(known, labels, parts, strict=True):
            matrix = _similarity(row.double(), row.double())
            matrix.diagonal().add_(RIDGE)
            coefficients.append(torch.linalg.solve(matrix, label[part].double()).float())
        return cls(known, tuple(coefficients))

    def score(self, inputs: Float[Tensor, "run row input"]) -> Float[Tensor, "run row member"]:
        """One score a row, as a single network's."""
        rows = [
            _similarity(row, known) @ coefficient
            for row, known, coefficient in zip(inputs, self.known, self.coefficients, strict=True)
        ]
        return torch.stack(rows)[..., None]


def _similarity(one: Tensor, other: Tensor) -> Float[Tensor, "row label"]:
    return torch.exp(torch.cdist(one, other).square() / (-2 * WIDTH**2))
