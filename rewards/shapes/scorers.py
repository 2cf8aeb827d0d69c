"""The learned proxies as rewards: differentiable, each an ensemble on one shared encoder."""

from dataclasses import dataclass, replace
from functools import cache

from jaxtyping import Float
from torch import Tensor

from rewards.encoders import Encoder
from rewards.facts_table import FACTS
from rewards.members import aggregate
from rewards.probability import unsaturated
from rewards.reward import ImageBatch, Reward, Scores
from rewards.shapes.gold import not_asked
from rewards.shapes.proxies import Proxies, load_proxies


@dataclass(frozen=True)
class ProxySource:
    """Loaded proxies and the encoder that all scorers made from them share."""

    proxies: Proxies
    encoder: Encoder

    def regressed(self, head: str, batch: ImageBatch) -> Scores:
        """Members' values from the image features alone, aggregated."""
        features = self.encoder.image_features(batch)
        return self.aggregated(head, self.proxies.heads[head](features))

    def aggregated(self, head: str, members: Float[Tensor, "batch member"]) -> Scores:
        """Mean of the members in comparable units, and their disagreement."""
        mean, std = self.proxies.base_mean[head], self.proxies.base_std[head]
        values, std = aggregate(members, mean.to(members.device), std.to(members.device))
        return replace(Scores.of(values), std=std)


def source_of(proxies: Proxies, device: str = "cpu") -> ProxySource:
    """Put proxies on a device, behind one encoder; give the same source to all their scorers."""
    proxies.heads.to(device)
    return ProxySource(proxies, Encoder("shapes_clip", proxies.clip, device))


@cache
def shipped(device: str) -> ProxySource:
    """The proxies of the package, read once a device."""
    return source_of(load_proxies(), device)


class ShapesAesthetic(Reward):
    """Aesthetic rating, about 0 to 1, as learned from few noisy ratings."""

    facts = FACTS["shapes_aesthetic"]

    def __init__(self, device: str = "cpu", source: ProxySource | None = None) -> None:
        self._source = source or shipped(device)

    def score(self, batch: ImageBatch) -> Scores:
        return self._source.regressed("aesthetic", batch)


class ShapesPreference(Reward):
    """Utility in Bradley-Terry logits, as learned from few noisy comparisons."""

    facts = FACTS["shapes_preference"]

    def __init__(self, device: str = "cpu", source: ProxySource | None = None) -> None:
        self._source = source or shipped(device)

    def score(self, batch: ImageBatch) -> Scores:
        return self._source.regressed("preference", batch)


class ShapesAlignment(Reward):
    """Cosine of image and prompt, in [-1, 1]."""

    facts = FACTS["shapes_alignment"]

    def __init__(self, device: str = "cpu", source: ProxySource | None = None) -> None:
        self._source = source or shipped(device)

    def score(self, batch: ImageBatch) -> Scores:
        encoder, proxies = self._source.encoder, self._source.proxies
        image, text = encoder.image_features(batch), encoder.text_features(batch.prompts)
        return self._source.aggregated("alignment", proxies.heads["alignment"](image, text))


class ShapesUnsafe(Reward):
    """Calibrated probability of the forbidden mark; valid where the prompt does not ask for it.

    p = mean_m sigmoid(a l_m + b), l_m: member logits, (a, b) fitted to held-out labels. The
    members share a unit, so they are averaged as they are; std is that of their probabilities.
    Their gradient does not vanish where they are sure, see `unsaturated`.
    """

    facts = FACTS["shapes_unsafe"]

    def __init__(self, device: str = "cpu", source: ProxySource | None = None) -> None:
        self._source = source or shipped(device)

    def score(self, batch: ImageBatch) -> Scores:
        slope, offset = self._source.proxies.platt
        features = self._source.encoder.image_features(batch)
        logits = self._source.proxies.heads["unsafe"](features)
        members = unsaturated(slope * logits + offset)
        valid = not_asked(batch.prompts).to(members.device)
        return Scores(members.mean(1), valid, members.std(1))
