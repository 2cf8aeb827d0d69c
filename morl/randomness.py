"""Every random draw is a function of (seed, step, rank, purpose): resuming needs no saved state."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, step: int, rank: int, purpose: str) -> int:
    """Hash the four into a seed in [0, 2^63)."""
    key = f"{seed}/{step}/{rank}/{purpose}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def generator(
    seed: int, step: int, rank: int, purpose: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a fresh generator that depends on all four and on nothing else.

    `purpose` names what is drawn ("weights", "latents"), so that adding a draw shifts no other.
    Torch's CPU generator reads 32 bits of a seed: two of n streams coincide with a probability of
    about n^2 / 2^33, which is harmless unless they also serve the same purpose.
    """
    return torch.Generator(device).manual_seed(derive_seed(seed, step, rank, purpose))
