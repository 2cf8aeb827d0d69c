"""Probabilities of learned classifiers, with a gradient that lasts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SPAN = 10.0
"""Logits between a plain case and none (the embedded world's mark), over which p falls by one."""


def unsaturated(logits: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Probabilities p = sigmoid(l), whose gradient is p dl / SPAN and not p (1 - p) dl.

    The true gradient vanishes where a cost is plainest, and a constraint could not push from there.
    This one is that of -log(1 - p), made as steep as p is on average between a plain case and none.
    """
    cross_entropy = F.softplus(logits) / SPAN
    return torch.sigmoid(logits).detach() + (cross_entropy - cross_entropy.detach())
