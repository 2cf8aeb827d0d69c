"""`morl algorithms`: what can train, what it needs, and its settings."""

from __future__ import annotations

import argparse
import dataclasses

from morl.algorithms.facts import ALGORITHMS, NEEDS, facts_of
from morl.cli.table import render
from morl.option import option_of


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  morl algorithms nft\n"
    parser.add_argument("name", nargs="?", help="describe this one and its settings")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.name:
        rows = [
            [facts.name, facts.regime, ", ".join(sorted(facts.needs)), facts.summary]
            for facts in ALGORITHMS.values()
        ]
        print(render(["name", "regime", "needs", "summary"], rows))
        return 0
    facts = facts_of(arguments.name)
    print(f"{facts.name}: {facts.summary}\nregime: {facts.regime}\npaper: {facts.paper}")
    for need in sorted(facts.needs):
        print(f"needs {need}: {NEEDS[need]}")
    rows = []
    for field in dataclasses.fields(facts.settings):
        said = option_of(field)
        unit = f" [{said.unit}]" if said.unit else ""
        rows.append([field.name, str(field.default), said.range(), said.meaning + unit])
    print("\n" + render(["setting", "default", "range", "meaning"], rows))
    return 0
