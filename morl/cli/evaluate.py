"""`morl evaluate`: the front of a run on held-out prompts, in proxy and in gold."""

from __future__ import annotations

import argparse
from pathlib import Path

from morl.cli.budgets import add_budgets
from morl.training.run import RunDirectory

EXAMPLES = """examples:
  morl evaluate runs/shapes
  morl evaluate runs/shapes --rewards sharpness saturation
  morl evaluate runs/shapes --budgets shapes_unsafe=0.1
  morl evaluate runs/shapes --full                   edge paths too: about 10 minutes on 2 cores
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("run_directory", metavar="RUN", type=Path)
    parser.add_argument(
        "--rewards", nargs="+", metavar="NAME", help="judge by these rewards too (see morl rewards)"
    )
    add_budgets(parser)
    parser.add_argument(
        "--full", action="store_true", help="measure controllability on the edge paths as well"
    )


def run(arguments: argparse.Namespace) -> int:
    RunDirectory(arguments.run_directory).require()
    from morl.report import write_report
    from morl.training.evaluate import evaluate_run

    evaluate_run(
        arguments.run_directory,
        rewards=arguments.rewards,
        full=arguments.full,
        budgets=arguments.budgets,
    )
    print(f"report: {write_report(arguments.run_directory)}")
    return 0
