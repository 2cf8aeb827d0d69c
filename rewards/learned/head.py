"""A small head on frozen features, M members evaluated together."""

import math
from hashlib import sha256

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class EnsembleHead(nn.Module):
    """M networks on standardised features z = (x - mean) / std: [B, D] -> [B, M].

    s_m(x) = v_m . phi_m(x) + c_m,  phi_m(x) = gelu(U_m z + b_m), or z itself where hidden = 0

    Members differ in initialisation, unless `shared`, and in the bootstrap that trains them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        members: int,
        features: int,
        hidden: int,
        generator: torch.Generator,
        shared: bool = False,
    ) -> None:
        super().__init__()
        drawn = 1 if shared else members
        inner = inner_bias = None
        if hidden:
            draw = torch.randn(drawn, features, hidden, generator=generator) / math.sqrt(features)
            inner = nn.Parameter(draw.repeat(members // drawn, 1, 1))
            inner_bias = nn.Parameter(torch.zeros(members, hidden))
        self.inner, self.inner_bias = inner, inner_bias
        width = hidden or features
        draw = torch.randn(drawn, width, generator=generator) / math.sqrt(width)
        self.outer = nn.Parameter(draw.repeat(members // drawn, 1))
        self.outer_bias = nn.Parameter(torch.zeros(members))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    @property
    def members(self) -> int:
        return len(self.outer)

    def standardise(self, features: Float[Tensor, "batch feature"]) -> None:
        """Take mean and standard deviation of the inputs from these features."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp(min=1e-6))

    @torch.no_grad()
    def restrict(self, allowed: Bool[Tensor, "member feature"]) -> None:
        """Let each member read its own features alone, for as long as it is trained.

        Its weights on the others are set to 0, and their gradient is: they stay 0.
        """
        first = self.outer if self.inner is None else self.inner
        mask = allowed.to(first).view(*allowed.shape, *[1] * (first.ndim - 2))
        first.mul_(mask)
        first.register_hook(lambda gradient: gradient * mask)

    @torch.no_grad()
    def rescale(self, slope: float, offset: float) -> None:
        """Make every output `slope` x itself + `offset`."""
        self.outer.mul_(slope)
        self.outer_bias.mul_(slope).add_(offset)

    def initialisations(self) -> tuple[str, ...]:
        """A digest of each member's parameters as they are now, to be asked for before training."""
        return tuple(
            sha256(
                b"".join(p[m].detach().numpy().tobytes() for p in self.parameters())
            ).hexdigest()[:16]
            for m in range(self.members)
        )

    def last_features(
        self, features: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch member last"]:
        """What the last, linear layer of each member reads: phi_m(x)."""
        x = (features - self.mean) / self.std
        if self.inner is None or self.inner_bias is None:
            return x[:, None].expand(-1, self.members, -1)
        return F.gelu(torch.einsum("bd,mdh->bmh", x, self.inner) + self.inner_bias)

    def forward(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch member"]:
        return (self.last_features(features) * self.outer).sum(-1) + self.outer_bias
