"""A learned reward as one value: head, statistics, uncertainty, card; from inputs to scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.learned.card import Card
from rewards.learned.head import EnsembleHead
from rewards.learned.last_layer import LastLayer
from rewards.members import VARIANCE_FLOOR, aggregate
from rewards.probability import unsaturated


@dataclass(frozen=True)
class RewardModel:
    """What `score` needs, on one device.

    probe: the encoder's `fingerprint`; base_mean, base_std: each member's statistics on the
    images that trained it, what makes members comparable; last_layer: of a single head alone.
    """

    card: Card
    head: EnsembleHead
    probe: Float[Tensor, " feature"]
    base_mean: Float[Tensor, " member"]
    base_std: Float[Tensor, " member"]
    last_layer: LastLayer | None = None

    def score(
        self, inputs: Float[Tensor, "batch feature"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"] | None]:
        """Values and their uncertainty in the same units, both differentiable by the inputs.

        A rating in the labels' units, a utility in Bradley-Terry logits, or the probability of a
        flag. The uncertainty is the members' disagreement or the last layer's std; of a
        probability half of what the logit's std moves it by, (sigmoid(l + s) - sigmoid(l - s)) / 2.
        """
        if self.card.task == "classification":
            return self._probability(inputs)
        outputs = self.head(inputs)
        if self.card.uncertainty == "members":
            return aggregate(outputs, self.base_mean, self.base_std)
        return outputs.mean(1), self._spread(inputs)

    def margin(
        self, first: Float[Tensor, "pair feature"], second: Float[Tensor, "pair feature"]
    ) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"] | None]:
        """How much more the first of two images is worth, in the head's units, and its std.

        What the two images share cancels in it.
        """
        outputs = self.head(first) - self.head(second)
        if self.card.uncertainty == "members":
            return aggregate(outputs, torch.zeros_like(self.base_mean), self.base_std)
        if self.last_layer is None:
            return outputs.mean(1), None
        phi, psi = (self.head.last_features(x)[:, 0] for x in (first, second))
        return outputs.mean(1), self.last_layer.of_difference(phi, psi)

    def to(self, device: str) -> RewardModel:
        """The same on a device; modules move in place."""
        if self.last_layer is not None:
            self.last_layer.to(device)
        return RewardModel(
            self.card,
            self.head.to(device),
            self.probe,
            self.base_mean.to(device),
            self.base_std.to(device),
            self.last_layer,
        )

    def _probability(
        self, inputs: Float[Tensor, "batch feature"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"] | None]:
        logits = self.head(inputs)
        # The gradient has to last on the side that is to be left.
        sought = self.card.higher_is_better
        probabilities = 1 - unsaturated(-logits) if sought else unsaturated(logits)
        if self.card.uncertainty == "members":
            variance = probabilities.var(1) + VARIANCE_FLOOR
            return probabilities.mean(1), variance.sqrt()
        spread = self._spread(inputs)
        if spread is None:
            return probabilities.mean(1), None
        logit = logits[:, 0]
        moved = torch.sigmoid(logit + spread) - torch.sigmoid(logit - spread)
        return probabilities[:, 0], moved / 2

    def _spread(self, inputs: Float[Tensor, "batch feature"]) -> Float[Tensor, " batch"] | None:
        if self.last_layer is None:
            return None
        spread: Tensor = self.last_layer(self.head.last_features(inputs)[:, 0])
        return spread
