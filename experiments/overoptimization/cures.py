"""Train the same cases under every cure, and say how much of the true gain each one keeps."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.arguments import read_names
from experiments.overoptimization.arms import ARMS
from experiments.overoptimization.gold import DEVELOPMENT, TEST
from experiments.overoptimization.kept import alarms, ends, kept_share, resampled
from experiments.overoptimization.proxies import Case, learned
from experiments.overoptimization.runs import METHODS, UPDATES, train
from experiments.overoptimization.store import RESULTS, Stored, fresh, read, recipe, write
from morl.errors import MorlError
from morl.fronts.intervals import Bootstrapped, Interval

NOISES = (0.0, 0.25)
LABELS = 256
CASES = {"development": DEVELOPMENT, "test": TEST}
SEEDS = {"development": (0, 1, 2, 3, 4), "test": (10, 11, 12, 13, 14)}
SINGLE_CURES = tuple(name for name in ARMS if not name.startswith(("none", "guard")))
"""What the guard must not fall behind: each of them alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", choices=sorted(CASES), default="development")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--updates", type=int, default=UPDATES)
    given = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small only wait for each other
    arms = read_names(parser, "arms", given.arms, ARMS)
    methods = read_names(parser, "methods", given.methods, METHODS)
    try:
        run(given.cases, methods, arms, given.results, given.updates)
        for method in methods:
            found = {arm: read(path(given.results, given.cases, method, arm)) for arm in arms}
            if "none" in found:
                print(f"\n{given.cases} cases, {method}\n\n{table(found)}", flush=True)
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def cases_of(which: str) -> list[Case]:
    """Three true rewards times two shares of wrong labels, on seeds of their own."""
    return [
        Case(name, noise, LABELS, seed)
        for name in CASES[which]
        for noise in NOISES
        for seed in SEEDS[which]
    ]


def path(results: Path, which: str, method: str, arm: str) -> Path:
    return results / f"{which}-{method}-{arm}.json"


def run(
    which: str,
    methods: Sequence[str],
    arms: Sequence[str],
    results: Path,
    updates: int = UPDATES,
) -> None:
    """Train what is not stored yet, a file for each method and arm."""
    cases, proxies = cases_of(which), None
    for method in METHODS:
        for name in arms if method in methods else ():
            made = recipe(cases, ARMS[name], method, updates)
            if fresh(path(results, which, method, name), made):
                continue
            proxies = learned(cases) if proxies is None else proxies
            print(f"{which} {method} {name}: {len(cases)} runs", flush=True)
            curves = train(proxies, ARMS[name], method, updates)
            write(path(results, which, method, name), made, curves)


def shares(found: Mapping[str, Stored]) -> dict[str, Bootstrapped]:
    """Mean share of the gain that each arm keeps; replicates over seeds are shared."""
    none = found["none"]
    return {arm: resampled(kept_share(stored, none), none.cases) for arm, stored in found.items()}


def best_single(kept: Mapping[str, Bootstrapped]) -> str:
    """The single cure that keeps most."""
    return max((arm for arm in kept if arm in SINGLE_CURES), key=lambda arm: kept[arm].value)


def table(found: Mapping[str, Stored]) -> str:
    """One row an arm, Markdown; the untouched runs' best moment is 1, the base model 0."""
    none, kept = found["none"], shares(found)
    last = ends(none)
    rows = np.arange(len(last))
    lines = [
        "| arm | gain kept, mean | 10th percentile | proxy - gold at the end | KL at the end, nats "
        "| sent back or stopped | of these falsely |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, stored in found.items():
        each = kept_share(stored, none)
        gap = float((stored.proxy[rows, last] - stored.gold[rows, last]).mean())
        acted = alarms(stored, last)
        lines.append(
            f"| {arm} | {_shown(kept[arm].interval())} | {np.nanquantile(each, 0.1):.2f} "
            f"| {gap:.1f} | {stored.kl[rows, last].mean():.1f} "
            f"| {acted.restored} | {acted.falsely} |"
        )
    best = best_single(kept)
    for arm in (name for name in found if name.startswith("guard")):
        ahead = (kept[arm] - kept[best]).interval()
        lines.append(f"\n{arm} minus the best single cure here, {best}: {_shown(ahead)}")
    unknown = int(np.isnan(kept_share(none, none)).sum())
    lines.append(f"\nRuns left out because even the oracle gains next to nothing: {unknown}")
    return "\n".join(lines)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


if __name__ == "__main__":
    main()
