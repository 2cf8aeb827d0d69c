"""Sizes of the published models that recipes name, so that a plan needs none of their weights.

Counted from their configurations by `python -m experiments.memory.run`.
"""

from __future__ import annotations

from dataclasses import dataclass

VAE_BYTES = 4  # the autoencoder stays in float32
DECODED_SIDE = 512
# Values that decoding one image of 512 pixels keeps for a backward pass; the autoencoders of these
# models have the same decoder, but for the channels of its first layer.
DECODED_VALUES = 1_491_109_760
DECODED_CHECKPOINTED = 920_682_944


@dataclass(frozen=True)
class Published:
    """One model: parameters of its parts, and what a differentiated call keeps for one image.

    side: pixels for which `values` were counted. values, checkpointed: with a LoRA on the attention
    layers, all else frozen, without and with gradient checkpointing. classifier_free: whether
    guidance doubles the batch, or is an input of the network.
    """

    repo: str
    licence: str
    side: int
    denoiser: int
    text_encoders: int
    autoencoder: int
    values: int
    checkpointed: int
    classifier_free: bool = True

    def bytes(self, width: int, *, offloaded: bool) -> int:
        """Frozen networks on the device, `width` bytes a parameter, the autoencoder in float32."""
        held = self.denoiser + (0 if offloaded else self.text_encoders)
        return held * width + self.autoencoder * VAE_BYTES

    def kept(self, side: int | None, *, checkpointed: bool) -> int:
        """Values for one image of `side` pixels; None: the model's own size."""
        counted = self.checkpointed if checkpointed else self.values
        return round(counted * ((side or self.side) / self.side) ** 2)

    def decoded(self, side: int | None, *, checkpointed: bool) -> int:
        """Values that decoding one image keeps where a reward's gradient passes the decoder."""
        counted = DECODED_CHECKPOINTED if checkpointed else DECODED_VALUES
        return round(counted * ((side or self.side) / DECODED_SIDE) ** 2)


_ROWS = (
    Published(
        repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
        licence="CreativeML-OpenRAIL-M",
        side=512,
        denoiser=859_520_964,
        text_encoders=123_060_480,
        autoencoder=83_653_863,
        values=423_457_408,
        checkpointed=108_900_000,
    ),
    Published(
        repo="stabilityai/stable-diffusion-xl-base-1.0",
        licence="CreativeML-OpenRAIL++-M",
        side=1024,
        denoiser=2_567_463_684,
        text_encoders=123_060_480 + 694_659_840,
        autoencoder=83_653_863,
        values=3_005_470_080,
        checkpointed=321_066_464,
    ),
    Published(
        repo="stabilityai/stable-diffusion-3.5-medium",
        licence="Stability-AI-Community",
        side=1024,
        denoiser=2_243_171_520,
        text_encoders=123_650_304 + 694_659_840 + 4_762_310_656,
        autoencoder=83_819_683,
        values=2_955_975_004,
        checkpointed=316_184_804,
    ),
    Published(
        repo="black-forest-labs/FLUX.1-dev",
        licence="FLUX.1-dev-Non-Commercial",
        side=1024,
        denoiser=11_901_408_320,
        text_encoders=123_060_480 + 4_762_310_656,
        autoencoder=83_819_683,
        values=10_250_362_880,
        checkpointed=1_021_165_568,
        classifier_free=False,
    ),
)
PUBLISHED: dict[str, Published] = {row.repo: row for row in _ROWS}
