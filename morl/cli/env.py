"""`morl env`: what a bug report needs, and whether another package shadows ours."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

LIBRARIES = (
    "morl-diffusion",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "peft",
    "lightning",
    "safetensors",
    "pymoo",
    "moocore",
    "numpy",
    "plotly",
)


def configure(parser: argparse.ArgumentParser) -> None:
    del parser  # no options


def run(arguments: argparse.Namespace) -> int:
    del arguments
    import torch

    import morl

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "gpus": ", ".join(gpus) or "none",
        "installed in": str(Path(morl.__file__).parent),
        **{name: _version(name) for name in LIBRARIES},
    }
    for name, value in lines.items():
        print(f"{name:18} {value}")
    others = other_owners()
    if others:
        print(
            f"warning: `rewards` is also installed by {', '.join(others)}; one of them overwrites "
            "the other's files: use a virtual environment of its own",
            file=sys.stderr,
        )
    return 0


def other_owners() -> list[str]:
    """Distributions other than ours that install an import package called `rewards`."""
    owners = packages_distributions().get("rewards", [])
    return sorted({owner for owner in owners if owner != "morl-diffusion"})


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
