"""The mean rewards that the adapter has reached, as a function of the weight vector."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class MeanRewards:
    """Running least-squares estimate of the mean reward vector at a weight vector.

    m_k(w) = w^T (S_k + ridge I)^-1 t_k
    S_k <- decay S_k + sum_i v_ik w_i w_i^T,  t_k <- decay t_k + sum_i v_ik w_i r_ik

    w [K] on the simplex (its entries sum to 1, so the fit has an intercept), r [K] calibrated
    rewards, v_ik: 1 where reward k applies to sample i, else 0. Linear in w: it misleads where the
    front bends strongly. Before any sample m = 0, the base model's mean in calibrated units.
    """

    def __init__(self, objectives: int, decay: float = 0.9, ridge: float = 1.0) -> None:
        self.decay = decay
        self.ridge = ridge
        self.moments = torch.zeros(objectives, objectives, objectives, dtype=torch.float64)
        self.products = torch.zeros(objectives, objectives, dtype=torch.float64)

    def update(
        self,
        weights: Float[Tensor, "batch objective"],
        rewards: Float[Tensor, "batch objective"],
        valid: Bool[Tensor, "batch objective"],
    ) -> None:
        """Add one batch where it is valid; the rewards carry no gradient into the state."""
        w, r = weights.detach().cpu().double(), rewards.detach().cpu().double()
        applies = valid.cpu().double()
        self.moments = self.decay * self.moments + torch.einsum("bk,bi,bj->kij", applies, w, w)
        self.products = self.decay * self.products + w.T @ (applies * r)

    def at(self, weights: Float[Tensor, "batch objective"]) -> Float[Tensor, "batch objective"]:
        """The estimated mean reward vector at each weight vector."""
        eye = torch.eye(self.moments.shape[0], dtype=torch.float64)
        slopes = torch.linalg.solve(self.moments + self.ridge * eye, self.products.T[..., None])
        return (weights.detach().cpu().double() @ slopes[..., 0].T).to(weights)

    def state_dict(self) -> dict[str, Tensor]:
        return {"moments": self.moments, "products": self.products}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        moments, self.products = state["moments"], state["products"]
        if moments.ndim == 2:  # from before rewards could be inapplicable: one matrix for all
            moments = moments.expand(len(moments), -1, -1).clone()
        self.moments = moments
