"""The study's tables from its stored results, as Markdown: what the README shows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import RATE, SEED, Result, read_cells, require_same
from experiments.front.run import BUDGETS, CELLS, RESULTS
from experiments.pairing import (
    Statistic,
    base_points,
    delivered,
    pooled,
    require_same_questions,
    shared_seeds,
    shown,
    volume,
)
from morl.errors import DataError
from morl.fronts.dominance import Points
from morl.fronts.events import Rate
from morl.fronts.front import Front

PRODUCT = "conditioned"
SAME = 1e-6  # weight vectors this near are one and the same


Runs = dict[int, Result]
"""Cells of one method by seed."""
Results = dict[str, Runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        results = stored(given.results)
        print(comparison(results))
        print(by_seed(results))
        print(product(list(results[PRODUCT].values())))
        if "regret" in results:
            print(regret(results))
    except DataError as error:
        raise SystemExit(f"{error}") from error


def stored(folder: Path = RESULTS) -> Results:
    """Results by method and seed.

    Raises DataError where the product has none, or where recipes or worlds are mixed: methods may
    differ in seed and learning rate, the runs of one method in the seed alone.
    """
    results = {method: runs for method in CELLS if (runs := read_cells(folder, method))}
    if PRODUCT not in results:
        raise DataError(f"no results in {folder}; run python -m experiments.front.run first")
    named = {m: {f"{m}-{seed}": run for seed, run in runs.items()} for m, runs in results.items()}
    for cells in named.values():
        require_same(cells, [SEED])
    require_same({k: v for cells in named.values() for k, v in cells.items()}, [SEED, RATE])
    return results


def comparison(results: Results) -> str:
    """Hypervolume and delivered utility of every method, and what the product adds to each."""
    rows = [
        "| method | learning rate | seeds | gold hypervolume | product minus this "
        "| gold delivered utility | product minus this | proxy delivered utility |",
        "|---|---|---|---|---|---|---|---|",
    ]
    product_runs = results[PRODUCT]
    for method, runs in results.items():
        seeds = shared_seeds(product_runs, runs)
        if method == "regret" or not seeds:
            continue
        cells = [
            method,
            f"{runs[seeds[0]]['config']['training']['learning_rate']:g}",
            ", ".join(map(str, seeds)),
        ]
        ours = [fronts(product_runs[seed])["gold"] for seed in seeds]
        theirs = [fronts(runs[seed])["gold"] for seed in seeds]
        require_same_questions([*ours, *theirs])
        for statistic in (volume, delivered):
            number = pooled(theirs, statistic)
            cells.append(shown(number))
            cells.append("" if method == PRODUCT else shown(pooled(ours, statistic) - number))
        proxy = pooled([fronts(runs[seed])["proxy"] for seed in seeds], delivered)
        rows.append("| " + " | ".join([*cells, shown(proxy)]) + " |")
    base = fronts(next(iter(product_runs.values())))["gold"]
    points = base_points(base)
    rows.append(
        f"| base |  |  | {volume(points[:1], base.weights[:1]):.3f} |  | "
        f"{delivered(points, base.weights):.3f} |  |  |"
    )
    return "\n".join(rows) + "\n"


def by_seed(results: Results) -> str:
    """What the product has over every method, one training at a time."""
    rows = ["| product minus | gold hypervolume, by seed | gold delivered utility, by seed |"]
    rows.append("|---|---|---|")
    for method, runs in results.items():
        seeds = shared_seeds(results[PRODUCT], runs)
        if method in (PRODUCT, "regret") or not seeds:
            continue
        ours, theirs = (
            [fronts(one[seed])["gold"] for seed in seeds] for one in (results[PRODUCT], runs)
        )
        cells = [
            ", ".join(
                f"{_measured(mine, statistic) - _measured(other, statistic):+.3f}"
                for mine, other in zip(ours, theirs, strict=True)
            )
            for statistic in (volume, delivered)
        ]
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _measured(front: Front, statistic: Statistic) -> float:
    return statistic(front.constants.normalise(front.mean), front.weights)


def regret(results: Results) -> str:
    """What a dedicated LoRA has over the product at its own weight vector, by its compute."""
    seeds = shared_seeds(results[PRODUCT], results["regret"])
    if not seeds:
        raise DataError("`regret` and `conditioned` share no seed, so nothing can be paired")
    ours = [fronts(results[PRODUCT][seed])["gold"] for seed in seeds]
    theirs = {
        name: [Front.from_dict(results["regret"][seed]["budgets"][name]) for seed in seeds]
        for name in BUDGETS
    }
    require_same_questions([*ours, *(front for runs in theirs.values() for front in runs)])
    at = theirs["C"][0].weights
    ours = [at_weights(front, at) for front in ours]
    rows = [
        f"| weights ({', '.join(ours[0].names)}) | base | conditioned "
        + "".join(f"| dedicated at {name}, minus conditioned " for name in BUDGETS)
        + "|",
        "|---|---|---|" + "---|" * len(BUDGETS),
    ]
    parts = [(_vector(w), own_utility([n])) for n, w in enumerate(at)]
    for what, statistic in [*parts, ("mean of them", own_utility(range(len(at))))]:
        mine = pooled(ours, statistic)
        less = [shown(pooled(theirs[name], statistic) - mine) for name in BUDGETS]
        base = statistic(base_points(ours[0]), at)
        rows.append(f"| {what} | {base:.3f} | " + " | ".join([shown(mine), *less]) + " |")
    return "\n".join(rows) + f"\n\nPaired by seed ({', '.join(map(str, seeds))}), prompt, noise.\n"


def product(runs: Sequence[Result]) -> str:
    """Steering, constraint and gain kept of the product, run by run."""
    names = runs[0]["names"]
    control = {
        name: [run["paths"]["gold"]["controllability"][name] for run in runs] for name in names
    }
    kept = [gain_kept(run) for run in runs]
    rows = ["| what | per seed | median |", "|---|---|---|"]
    for name, values in control.items():
        rows.append(_row(f"gold controllability of {name}", values))
    rows.append(_row("share of the curve's best gold gain kept at the end", kept))
    for name, events in runs[0]["events"].items():
        counts = [[_rate(rate) for rate in run["events"][name]["weights"]] for run in runs]
        total = _sum([rate for rates in counts for rate in rates])
        at_weight = [_sum(column) for column in zip(*counts, strict=True)]
        base = _rate(events["base"])
        rows += [
            f"| {name}: events in all, 95 % upper bound | {total.events} of {total.count} | "
            f"{total.upper_bound():.4f} |",
            f"| {name}: largest rate at one weight vector |  | "
            f"{max(r.value for r in at_weight):.4f} |",
            f"| {name}: base | {base.events} of {base.count} | {base.value:.4f} |",
        ]
    return "\n".join(rows) + "\n"


def gain_kept(run: Result) -> float:
    """Gold utility gained over the base at the end, as a share of the best point of the curve."""
    front = fronts(run)["gold"]
    start = delivered(base_points(front), front.weights)
    gains = [
        delivered(front.constants.normalise(np.asarray(point["gold"])), front.weights) - start
        for point in run["curve"]
    ]
    return gains[-1] / max(gains)


def fronts(run: Result) -> dict[str, Front]:
    """The fronts of a cell by space."""
    return {space: Front.from_dict(values) for space, values in run["fronts"].items()}


def at_weights(front: Front, at: Points) -> Front:
    """The points of a front at some of its weight vectors; raises DataError for another one."""
    distance = np.abs(front.weights[:, None] - at[None]).sum(axis=2)
    if (distance.min(axis=0) > SAME).any():
        missing = at[distance.min(axis=0).argmax()]
        raise DataError(f"the {front.space} front has no point at weights {_vector(missing)}")
    rows = distance.argmin(axis=0)
    samples = front.samples[rows]
    return Front(front.space, front.names, at, samples, front.base, front.groups, front.constants)


def own_utility(rows: Sequence[int]) -> Statistic:
    """Mean over some points of the utility w . u at their own weight vectors."""

    def of(normalised: Points, weights: Points) -> float:
        return delivered(normalised[list(rows)], weights[list(rows)])

    return of


def _rate(values: Mapping[str, Any]) -> Rate:
    return Rate(int(values["events"]), int(values["count"]))


def _sum(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(r.events for r in rates), sum(r.count for r in rates))


def _vector(weights: Points) -> str:
    return ", ".join(f"{w:.2g}" for w in weights)


def _row(what: str, values: Sequence[float]) -> str:
    each = ", ".join(f"{value:.2f}" for value in values)
    return f"| {what} | {each} | {np.median(values):.2f} |"


if __name__ == "__main__":
    main()
