"""What the commands of studies ask for in the same words."""

from __future__ import annotations

import argparse
from collections.abc import Collection


def read_names(
    parser: argparse.ArgumentParser, flag: str, names: str, known: Collection[str]
) -> list[str]:
    """The names of a comma-separated option; ends the command where one of them is not known."""
    asked = names.split(",")
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"--{flag}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return asked
