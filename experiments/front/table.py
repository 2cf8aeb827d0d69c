"""The study's tables from its stored results, as Markdown: what the README shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.front.run import METHODS, RESULTS
from morl.fronts.dominance import Points
from morl.fronts.events import Rate
from morl.fronts.front import Front
from morl.fronts.indicators import hypervolume
from morl.fronts.intervals import Bootstrapped, bootstrap, resampling
from morl.fronts.utility import delivered_utility, grid_users

PRODUCT = "conditioned"
SPACES = ("gold", "proxy")

Results = dict[str, list[dict[str, Any]]]


def main() -> None:
    results = stored()
    if PRODUCT not in results:
        raise SystemExit(f"no results in {RESULTS}; run python -m experiments.front.run first")
    print(comparison(results))
    print(product(results[PRODUCT]))


def stored(folder: Path = RESULTS) -> Results:
    """Results by method, in order of seeds."""
    return {
        method: [json.loads(path.read_text()) for path in paths]
        for method in METHODS
        if (paths := sorted(folder.glob(f"{method}-*.json")))
    }


def comparison(results: Results) -> str:
    """Hypervolume and delivered utility of every method, and what the product adds to each."""
    rows = [
        "| method | seeds | gold hypervolume | product minus this | gold delivered utility "
        "| product minus this | proxy delivered utility |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, runs in results.items():
        shared = min(len(runs), len(results[PRODUCT]))
        cells = [method, str(shared)]
        for space, statistic in (("gold", volume), ("gold", delivered)):
            ours, theirs = (
                pooled([run["fronts"][space] for run in results[m][:shared]], statistic)
                for m in (PRODUCT, method)
            )
            cells.append(_shown(theirs))
            cells.append("" if method == PRODUCT else _shown(ours - theirs))
        cells.append(_shown(pooled([r["fronts"]["proxy"] for r in runs[:shared]], delivered)))
        rows.append("| " + " | ".join(cells) + " |")
    base = Front.from_dict(results[PRODUCT][0]["fronts"]["gold"])
    points = np.repeat(base.constants.normalise(base.base_mean), len(base.weights), axis=0)
    rows.append(
        f"| base |  | {hypervolume(points[:1]):.3f} |  | "
        f"{delivered_utility(points, grid_users(base.weights)):.3f} |  |  |"
    )
    return "\n".join(rows) + "\n"


def product(runs: Sequence[dict[str, Any]]) -> str:
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
        everything = [rate for rates in counts for rate in rates]
        total = Rate(sum(r.events for r in everything), sum(r.count for r in everything))
        at_weight = [
            Rate(sum(r.events for r in column), sum(r.count for r in column))
            for column in zip(*counts, strict=True)
        ]
        base = _rate(events["base"])
        rows += [
            f"| {name}: events in all, 95 % upper bound | {total.events} of {total.count} | "
            f"{total.upper_bound():.4f} |",
            f"| {name}: largest rate at one weight vector |  | "
            f"{max(r.value for r in at_weight):.4f} |",
            f"| {name}: base | {base.events} of {base.count} | {base.value:.4f} |",
        ]
    return "\n".join(rows) + "\n"


def gain_kept(run: dict[str, Any]) -> float:
    """Gold utility gained over the base at the end, as a share of the best point of the curve."""
    front = Front.from_dict(run["fronts"]["gold"])
    users = grid_users(front.weights)
    base = np.repeat(front.constants.normalise(front.base_mean), len(front.weights), axis=0)
    start = delivered_utility(base, users)
    gains = [
        delivered_utility(front.constants.normalise(np.asarray(point["gold"])), users) - start
        for point in run["curve"]
    ]
    return gains[-1] / max(gains)


def pooled(fronts: Sequence[dict[str, Any]], statistic: Callable[..., float]) -> Bootstrapped:
    """Mean over seeds, with replicates over seeds and prompts that all methods share."""
    read = [Front.from_dict(values) for values in fronts]
    first = read[0]
    drawn = resampling(np.random.default_rng(0), len(read), first.groups)
    samples = np.stack([front.samples for front in read])

    def of(means: Points) -> float:
        return statistic(first.constants.normalise(means), first.weights)

    return bootstrap(samples, of, drawn)


def volume(normalised: Points, weights: Points) -> float:
    del weights
    return hypervolume(normalised)


def delivered(normalised: Points, weights: Points) -> float:
    return delivered_utility(normalised, grid_users(weights))


def _rate(values: dict[str, Any]) -> Rate:
    return Rate(int(values["events"]), int(values["count"]))


def _row(what: str, values: Sequence[float]) -> str:
    each = ", ".join(f"{value:.2f}" for value in values)
    return f"| {what} | {each} | {np.median(values):.2f} |"


def _shown(number: Bootstrapped) -> str:
    interval = number.interval()
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
