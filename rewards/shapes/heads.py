"""The head that judges how well an image fits its prompt, M members evaluated together."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class AgreementHead(nn.Module):
    """M pairs of linear maps into spaces of their own: match of image and text, [B, M].

    s_m(x, t) = a_m cos(P_m x, Q_m t) + b_m

    P_m, Q_m [D, E] start as the same random projection; x is the first D features of an image,
    its embedding; a_m, b_m bring the cosine to the scale of a match rating.
    """

    def __init__(
        self, members: int, features: int, dimensions: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        draw = torch.randn(members, features, dimensions, generator=generator)
        self.image = nn.Parameter(draw / math.sqrt(features))
        self.text = nn.Parameter(self.image.detach().clone())
        self.scale = nn.Parameter(torch.ones(members))
        self.offset = nn.Parameter(torch.zeros(members))

    def project(
        self,
        image: Float[Tensor, "*member batch seen"],
        text: Float[Tensor, "*member caption feature"],
    ) -> tuple[Float[Tensor, "members batch dim"], Float[Tensor, "members caption dim"]]:
        """Unit vectors of images and texts, member by member."""
        x = F.normalize(image[..., : self.image.shape[1]], dim=-1) @ self.image
        t = F.normalize(text, dim=-1) @ self.text
        return F.normalize(x, dim=-1), F.normalize(t, dim=-1)

    def forward(
        self, image: Float[Tensor, "batch seen"], text: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch member"]:
        x, t = self.project(image, text)
        return self.scale * (x * t).sum(-1).T + self.offset
