"""The study's table from its stored results, as Markdown: what the README shows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.cells import Result, read_cells, require_same
from experiments.pairing import delivered, pooled, require_same_questions, shared_seeds, shown
from experiments.units.run import NORMALIZATIONS, RESULTS, SCALED, SCALES, kind
from morl.errors import DataError
from morl.fronts.front import Front

Runs = Mapping[int, Result]
# In what the cells of one table may differ.
OWN = ("training.seed", "objective.normalize", "objective.maximize")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        print(units(stored(given.results)))
    except DataError as error:
        raise SystemExit(f"{error}") from error


def stored(folder: Path) -> dict[str, Runs]:
    """All arms with results, by name; raises DataError for cells that do not fit together."""
    names = [kind(n, scale) for n in NORMALIZATIONS for scale in SCALES]
    found: dict[str, Runs] = {}
    for name in names:
        if runs := read_cells(folder, name):
            found[name] = runs
    cells = {f"{name}-{seed}": cell for name, runs in found.items() for seed, cell in runs.items()}
    if not cells:
        raise DataError(f"{folder}: no results yet; run python -m experiments.units.run")
    require_same(cells, OWN)
    require_same_questions([gold(cell) for cell in cells.values()])
    return found


def units(results: Mapping[str, Runs]) -> str:
    """What the scaled reward counted, delivered gold utility, and what the unit alone changed."""
    small, large = SCALES
    rows = [
        f"| normalisation | seeds | effective weight of {SCALED}, x {small} | x {large} | gold "
        f"delivered utility, x {small} | x {large} minus x {small} | mean move of the front |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NORMALIZATIONS:
        plain, scaled = (results.get(kind(name, scale), {}) for scale in SCALES)
        seeds = shared_seeds(plain, scaled)
        if not seeds:
            continue
        before, after = ([gold(runs[s]) for s in seeds] for runs in (plain, scaled))
        ours, theirs = pooled(before, delivered), pooled(after, delivered)
        cells = [
            name,
            ", ".join(map(str, seeds)),
            *(f"{effective(runs, seeds):.2f}" for runs in (plain, scaled)),
            shown(ours),
            shown(theirs - ours),
            f"{move(before, after):.3f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def effective(runs: Runs, seeds: Sequence[int]) -> float:
    """Mean effective weight of the scaled reward over a training, over seeds."""
    return float(np.mean([runs[seed]["effective"][SCALED] for seed in seeds]))


def move(before: Sequence[Front], after: Sequence[Front]) -> float:
    """Mean distance, in normalised gold units, of each weight vector's point from its other unit.

    Two trainings in the same unit would be as far apart as rounding takes them.
    """
    pairs = zip(before, after, strict=True)
    gaps = [a.constants.normalise(a.mean) - b.constants.normalise(b.mean) for a, b in pairs]
    return float(np.mean([np.linalg.norm(gap, axis=1).mean() for gap in gaps]))


def gold(cell: Result) -> Front:
    """The front of a cell."""
    return Front.from_dict(cell["gold"])


if __name__ == "__main__":
    main()
