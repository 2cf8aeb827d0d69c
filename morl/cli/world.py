"""`morl world train`: rebuild the embedded world's base model and learned rewards."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """example:
  morl world train --out runs/world          resumable; under 90 minutes on 2 cores
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("action", choices=("train",))
    parser.add_argument("--out", type=Path, default=Path("runs/world"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--install", action="store_true", help="copy the result over the packaged assets"
    )


def run(arguments: argparse.Namespace) -> int:
    from morl.world import train_world

    train_world(arguments.out, seed=arguments.seed, install=arguments.install)
    return 0
