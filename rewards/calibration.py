"""Raw rewards to comparable units: mean and spread on the base model's images, then frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.errors import CalibrationError

# Rounding to float32 alone spreads a constant by up to 2^-23 / sqrt(12) = 3.4e-8 of the mean.
STD_FLOOR = 1e-7


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
        found = [moments(name, rewards[:, k], valid[:, k]) for k, name in enumerate(names)]
        return cls(tuple(names), tuple(mean for mean, _ in found), tuple(std for _, std in found))

    def apply(self, rewards: Float[Tensor, "batch objective"]) -> Float[Tensor, "batch objective"]:
        """Return calibrated rewards; gradients pass. Raises CalibrationError for other columns."""
        if rewards.shape[1] != len(self.names):
            raise CalibrationError(
                f"`rewards` must have one column for each of {', '.join(self.names)}; got "
                f"{rewards.shape[1]}"
            )
        mean = torch.tensor(self.mean, dtype=rewards.dtype, device=rewards.device)
        std = torch.tensor(self.std, dtype=rewards.dtype, device=rewards.device)
        return (rewards - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON; `from_dict` reads it back exactly."""
        return {"names": list(self.names), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read the plain form; raises CalibrationError where a part of it is missing."""
        missing = [key for key in ("names", "mean", "std") if key not in values]
        if missing:
            raise CalibrationError(f"a calibration lacks {', '.join(missing)}")
        return cls(tuple(values["names"]), tuple(values["mean"]), tuple(values["std"]))


def moments(
    name: str, values: Float[Tensor, " batch"], valid: Bool[Tensor, " batch"]
) -> tuple[float, float]:
    """Mean and unbiased standard deviation over valid samples, in float64.

    Raises CalibrationError for fewer than two valid samples, and where the values do not vary by
    more than `STD_FLOOR` of their mean.
    """
    seen = values.detach()[valid].double()
    if len(seen) < 2:
        raise CalibrationError(
            f"{name!r} is valid on {len(seen)} of {len(values)} images of the base model; at least "
            "2 are needed to calibrate it"
        )
    mean, std = float(seen.mean()), float(seen.std())
    if not std > STD_FLOOR * abs(mean):
        raise CalibrationError(
            f"{name!r} takes one value, {mean:g}, on {len(seen)} images of the base model: it "
            "cannot be calibrated, and would teach nothing"
        )
    return mean, std
