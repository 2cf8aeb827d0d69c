"""The mean rewards that the adapter has reached, as a function of what it is conditioned on."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class MeanRewards:
    """Running least-squares estimate of the mean reward vector at a weight vector.

    m_k(w) = w^T (S_k + ridge I)^-1 t_k
    S_k <- decay S_k + sum_i v_ik w_i w_i^T,  t_k <- decay t_k + sum_i v_ik w_i r_ik

    w [F]: the weight vector (on the simplex: its K entries sum to 1, so the fit has an intercept),
    with the positions of F - K budgets behind; r [K] calibrated rewards, v_ik: 1 where reward k
    applies to sample i, else 0. Linear in w: it misleads where the front bends strongly, and where
    a budget acts at one weight vector and not at another. Before any sample m = 0, the base model's
    mean in calibrated units.
    """

    def __init__(
        self, objectives: int, decay: float = 0.9, ridge: float = 1.0, budgets: int = 0
    ) -> None:
        features = objectives + budgets
        self.decay = decay
        self.ridge = ridge
        self.moments = torch.zeros(objectives, features, features, dtype=torch.float64)
        self.products = torch.zeros(features, objectives, dtype=torch.float64)

    def update(
        self,
        weights: Float[Tensor, "batch condition"],
        rewards: Float[Tensor, "batch objective"],
        valid: Bool[Tensor, "batch objective"],
    ) -> None:
        """Add one batch where it is valid; the rewards carry no gradient into the state."""
        w, r = weights.detach().cpu().double(), rewards.detach().cpu().double()
        applies = valid.cpu().double()
        self.moments = self.decay * self.moments + torch.einsum("bk,bi,bj->kij", applies, w, w)
        self.products = self.decay * self.products + w.T @ (applies * r)

    def at(self, weights: Float[Tensor, "batch condition"]) -> Float[Tensor, "batch objective"]:
        """The estimated mean reward vector at each row."""
        eye = torch.eye(self.moments.shape[1], dtype=torch.float64)
        slopes = torch.linalg.solve(self.moments + self.ridge * eye, self.products.T[..., None])
        return (weights.detach().cpu().double() @ slopes[..., 0].T).to(weights)

    def state_dict(self) -> dict[str, Tensor]:
        return {"moments": self.moments, "products": self.products}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        moments, self.products = state["moments"], state["products"]
        if moments.ndim == 2:  # from before rewards could be inapplicable: one matrix for all
            moments = moments.expand(len(moments), -1, -1).clone()
        self.moments = moments
