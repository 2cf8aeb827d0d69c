"""Where a run computes."""

from __future__ import annotations

import torch


def choose_device(accelerator: str) -> str:
    """`auto` takes a GPU where there is one."""
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"
