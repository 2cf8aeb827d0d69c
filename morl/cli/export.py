"""`morl export`: a plain LoRA at one weight vector, for tools that know nothing of morl."""

from __future__ import annotations

import argparse
from pathlib import Path

from morl.cli.budgets import add_budgets
from morl.training.durable import require_writable

EXAMPLES = """examples:
  morl export runs/shapes --weights aesthetic=0.7,alignment=0.3 --out lora.safetensors
  morl export runs/shapes --weights aesthetic=1 --budgets shapes_unsafe=0.05 --out lora.safetensors
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("run_or_file", metavar="RUN", help="run directory or adapter file")
    parser.add_argument("--weights", required=True, help="like aesthetic=0.7,alignment=0.3")
    add_budgets(parser)
    parser.add_argument("--format", choices=("diffusers", "kohya"), default="diffusers")
    parser.add_argument("--out", type=Path, default=Path("lora.safetensors"))


def run(arguments: argparse.Namespace) -> int:
    require_writable(arguments.out.parent)
    from morl.inference import load

    slider = load(arguments.run_or_file)
    slider.export(
        arguments.weights, arguments.out, format=arguments.format, budgets=arguments.budgets
    )
    print(arguments.out)
    return 0
