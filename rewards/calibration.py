"""Raw rewards to comparable units: mean and spread on the base model's images, then frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.errors import CalibrationError


@dataclass(frozen=True)
class Calibration:
    """u_k = (r_k - mean_k) / std_k, in units of the base model's standard deviation.

    `names`: objectives in order; `mean`, `std` [K]: plain floats, std > 0. A weight then means the
    same whatever a reward's scale, at every step of training. Raises CalibrationError for values
    that are not finite or of another length.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != len(self.names):
                raise CalibrationError(
                    f"`{field}` must have one number for each of {', '.join(self.names)}; "
                    f"got {len(values)}"
                )
            for name, value in zip(self.names, values, strict=True):
                if not math.isfinite(value) or (field == "std" and value <= 0):
                    rule = "positive and finite" if field == "std" else "finite"
                    raise CalibrationError(f"`{field}` of {name!r} must be {rule}; got {value}")

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        rewards: Float[Tensor, "batch objective"],
        valid: Bool[Tensor, "batch objective"],
    ) -> Calibration:
        """Mean and unbiased std over valid samples; a reward that never varies is refused."""
        means, stds = [], []
        for k, name in enumerate(names):
            values = rewards[valid[:, k], k].double()
            if len(values) < 2 or float(values.std()) == 0:
                raise CalibrationError(
                    f"reward {name!r} takes one value on {len(values)} images of the base model: "
                    "it cannot be calibrated, and would teach nothing"
                )
            means.append(float(values.mean()))
            stds.append(float(values.std()))
        return cls(tuple(names), tuple(means), tuple(stds))

    def apply(
        self, rewards: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch objective"]:
        """Return calibrated rewards; gradients pass."""
        mean = torch.tensor(self.mean, dtype=rewards.dtype, device=rewards.device)
        std = torch.tensor(self.std, dtype=rewards.dtype, device=rewards.device)
        return (rewards - mean) / std

    def to_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        return cls(tuple(values["names"]), tuple(values["mean"]), tuple(values["std"]))
