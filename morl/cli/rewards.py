"""`morl rewards`: what can be composed, from the torch-free facts."""

from __future__ import annotations

import argparse
import dataclasses

from morl.cli.table import render
from rewards.facts import RewardFacts
from rewards.registry import available, facts_of


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  morl rewards shapes_unsafe\n"
    parser.add_argument("name", nargs="?", help="describe this one")


def run(arguments: argparse.Namespace) -> int:
    if arguments.name:
        for name, value in dataclasses.asdict(facts_of(arguments.name)).items():
            print(f"{name:18} {value}")
        return 0
    rows = [_row(facts) for facts in available().values()]
    print(render(["name", "category", "range", "better", "gradient", "gold", "summary"], rows))
    return 0


def _row(facts: RewardFacts) -> list[str]:
    return [
        facts.name,
        facts.category,
        f"{facts.low:g} .. {facts.high:g}",
        "higher" if facts.higher_is_better else "lower",
        "yes" if facts.differentiable else "no",
        "gold" if facts.gold else "",
        facts.summary,
    ]
