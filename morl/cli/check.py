"""`morl check`: does the adapter keep its constraints, with a stated confidence? For CI."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from morl.cli.budgets import add_budgets
from morl.cli.table import render
from morl.training.durable import replace_durably, require_writable

if TYPE_CHECKING:
    from morl.training.gate import Gate

EXIT_FAILED = 8
EXAMPLES = """examples:
  morl check runs/shapes --constraint "gold_unsafe <= 0.05"
  morl check runs/shapes --constraint "gold_unsafe <= 0.05" --simultaneous --json gate.json
  morl check runs/shapes --constraint "shapes_unsafe <= 0.05" --event 0.5 --weights aesthetic=1
  morl check runs/shapes --constraint "gold_alignment >= 0.6" --images 200
  morl check runs/shapes --constraint "gold_unsafe <= 0.1" --budgets shapes_unsafe=0.1

At each weight vector, images of held-out prompts are drawn with prompts and noise of their own, and
a constraint passes if its one-sided bound at --confidence keeps the threshold: Clopper-Pearson for
values that are 0 or 1 and for --event; for other values in a declared range a betting bound (arXiv
2010.09686), which holds at every number of images and whatever the shape of the values; Student's t
where no range is declared. quantile(x, 0.95) <= d holds where at most 5 % of the images lie above
d, which is judged as a rate. Any reward may be named. One that trained judges its own
pupil: name a held-out measure (gold) where there is one. Images of prompts to which a constraint
does not apply are left out.

exit code: 0 every constraint holds at every weight vector; 8 one does not, or cannot be shown to
hold by so few images; 2 to 7 an error, as for every command.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "run_or_file", metavar="RUN", type=Path, help="run directory, or an adapter file inside one"
    )
    parser.add_argument(
        "--constraint",
        action="append",
        required=True,
        metavar="TEXT",
        help='like "gold_unsafe <= 0.05"; may be repeated',
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="of each verdict (default 0.95)"
    )
    parser.add_argument(
        "--simultaneous",
        action="store_true",
        help="of all verdicts together instead (Bonferroni)",
    )
    parser.add_argument(
        "--images", type=int, default=500, metavar="N", help="at each weight vector (default 500)"
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="W",
        help="like aesthetic=0.7,alignment=0.3; may be repeated (default: the run's grid)",
    )
    add_budgets(parser)
    parser.add_argument(
        "--event",
        type=float,
        metavar="X",
        help="a value above X counts as an event, and constraints bound its rate",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there too")


def run(arguments: argparse.Namespace) -> int:
    if arguments.json is not None:
        require_writable(arguments.json.parent)
    from morl.training.gate import Terms, check_run

    terms = Terms(
        tuple(arguments.constraint),
        arguments.confidence,
        arguments.images,
        tuple(arguments.weights),
        arguments.event,
        arguments.simultaneous,
        arguments.budgets,
    )
    gate = check_run(arguments.run_or_file, terms)
    if arguments.json is not None:
        text = json.dumps(gate.to_dict(), indent=1, allow_nan=False) + "\n"
        replace_durably(arguments.json, text.encode())
    print(described(gate))
    return 0 if gate.holds else EXIT_FAILED


def described(gate: Gate) -> str:
    """One table a constraint, and the verdict over all weight vectors."""
    from morl.fronts.verdict import METHODS

    kind = f"{100 * gate.level:.4g} % confidence at each weight vector"
    if gate.terms.simultaneous:
        kind += f", {100 * gate.terms.confidence:.4g} % for all together"
    if gate.budgets:
        kind += "; at " + ", ".join(f"{name} = {bound:g}" for name, bound in gate.budgets.items())
    header = (f"weights ({', '.join(gate.names)})", "images", "events", "mean", "bound", "verdict")
    lines = []
    for text, column in gate.verdicts.items():
        rows = [
            (
                ", ".join(f"{w:.3g}" for w in weights),
                str(v.count),
                "" if v.events is None else str(v.events),
                f"{v.value:.4f}",
                f"{v.bound:.4f}",
                "holds" if v.holds else "FAILS",
            )
            for weights, v in zip(gate.weights, column, strict=True)
        ]
        failed = sum(not v.holds for v in column)
        event = "" if gate.terms.event is None else f" (share of images above {gate.terms.event:g})"
        lines += [
            f"{text}{event}",
            f"{kind}; " + "; ".join(METHODS[m] for m in dict.fromkeys(v.method for v in column)),
            render(header, rows),
            f"holds at all {len(column)} weight vectors"
            if not failed
            else f"FAILS at {failed} of {len(column)} weight vectors",
            "",
        ]
    return "\n".join(lines).rstrip()
