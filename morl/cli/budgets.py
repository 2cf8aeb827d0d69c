"""The option --budgets of the commands that use a trained adapter."""

from __future__ import annotations

import argparse


def add_budgets(parser: argparse.ArgumentParser) -> None:
    """Let the user slide the bounds that were trained as `budget(low, high)`."""
    parser.add_argument(
        "--budgets",
        metavar="NAME=BOUND",
        help="where bounds trained as budget(low, high) are put, like shapes_unsafe=0.05 "
        "(default: the strictest)",
    )
