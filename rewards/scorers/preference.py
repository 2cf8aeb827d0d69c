"""Which image would people prefer? Tuned on comparisons; compare within one prompt only."""

from __future__ import annotations

from dataclasses import replace

from rewards.facts_table import FACTS
from rewards.reward import ImageBatch, Scores
from rewards.scorers.blip_tower import BlipTower
from rewards.scorers.clip_tower import logit_scale
from rewards.scorers.heads import Values
from rewards.scorers.hpsv3_tower import Hpsv3Tower
from rewards.scorers.mps_tower import MpsTower
from rewards.scorers.on_encoder import OnEncoder, Similarity

# Mean and deviation over ImageReward's training set, by its authors.
IMAGE_REWARD_MEAN, IMAGE_REWARD_STD = 0.16717362830052426, 1.0333394966054072
# What "overall" means to MPS; word for word as published.
OVERALL = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, "
    "structure, instance, texture, quantity, attributes, position, number, location, word, things."
)


class PickScore(Similarity):
    """exp(logit_scale) cos, typically 16 to 26: a difference is a logit of preference.

    Source: arXiv 2305.01569.
    """

    facts = FACTS["pickscore"]

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._scale = logit_scale(self.encoder)

    def scaled(self, cosines: Values) -> Values:
        return self._scale * cosines


class HpsV2(Similarity):
    """Cosine, typically 0.24 to 0.30; tables report 100 times that. Source: arXiv 2306.09341."""

    facts = FACTS["hpsv2"]


class HpsV21(Similarity):
    """The same of version 2.1, typically 0.20 to 0.34; not comparable with version 2."""

    facts = FACTS["hpsv2_1"]


class ImageReward(OnEncoder):
    """(w . h + b - mean) / std of a BLIP that reads the prompt with the image in view.

    Source: arXiv 2304.05977.
    """

    facts = FACTS["image_reward"]

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._blip = self.encoder.tower_as(BlipTower)

    def score(self, batch: ImageBatch) -> Scores:
        rating = self._blip.rate(self.encoder.image_features(batch), batch.prompts)
        return Scores.of((rating - IMAGE_REWARD_MEAN) / IMAGE_REWARD_STD)


class HpsV3(OnEncoder):
    """Mean of the score, with the deviation that the model itself states of it as `std`.

    That travels as an ensemble's disagreement does: an objective's pessimism lowers the score by
    it. It is trained as the spread of people's choices, and not as doubt on unlike images.
    Source: arXiv 2508.03789.
    """

    facts = FACTS["hpsv3"]

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._tower = self.encoder.tower_as(Hpsv3Tower)

    def score(self, batch: ImageBatch) -> Scores:
        mean, std = self._tower.rate(self.encoder.image_features(batch), batch.prompts)
        return replace(Scores.of(mean), std=std)


class Mps(OnEncoder):
    """exp(logit_scale) cos, after the image has looked at the words that matter to people.

    Source: arXiv 2405.14705; only the "overall" weights were published.
    """

    facts = FACTS["mps"]

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._mps = self.encoder.tower_as(MpsTower)
        self._condition = self.encoder.text_features([OVERALL])[0, :-1]

    def score(self, batch: ImageBatch) -> Scores:
        images = self.encoder.image_features(batch)
        texts = self.encoder.text_features(batch.prompts)
        return Scores.of(self._mps.rate(images, texts, self._condition))
