"""Over-optimise learned rewards unguarded, and fit Gao's law to what became of the truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.overoptimization.arms import ARMS
from experiments.overoptimization.gao import FORMS, explained, fit_gao
from experiments.overoptimization.gold import DEVELOPMENT
from experiments.overoptimization.kept import ends, resampled
from experiments.overoptimization.proxies import Case, learned
from experiments.overoptimization.runs import METHODS, UPDATES, train
from experiments.overoptimization.store import RESULTS, Stored, fresh, read, recipe, write
from morl.errors import MorlError

NOISES = (0.0, 0.25)
SIZES = (64, 256, 1024)
SEEDS = (0, 1, 2, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    given = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small only wait for each other
    try:
        run(given.results, [int(seed) for seed in given.seeds.split(",")], given.updates)
        print(table({method: read(path(given.results, method)) for method in METHODS}))
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def path(results: Path, method: str) -> Path:
    return results / f"disease-{method}.json"


def run(results: Path, seeds: Sequence[int], updates: int = UPDATES) -> None:
    """Train what is not stored yet: every true reward, label noise, number of labels and seed."""
    cases = [
        Case(name, noise, size, seed)
        for name in DEVELOPMENT
        for noise in NOISES
        for size in SIZES
        for seed in seeds
    ]
    proxies = None
    for method in METHODS:
        made = recipe(cases, ARMS["none"], method, updates)
        if fresh(path(results, method), made):
            continue
        proxies = learned(cases) if proxies is None else proxies
        print(f"{method}: {len(cases)} runs", flush=True)
        write(path(results, method), made, train(proxies, ARMS["none"], method, updates))


def table(found: dict[str, Stored]) -> str:
    """One row a method, noise and number of labels, over true rewards and seeds; Markdown."""
    lines = [
        "| method | wrong labels | labels | peak of gold | at sqrt(KL) | gold at the end "
        "| proxy at the end | R^2 d(a - b ln d) | R^2 d(a - b d) | R^2 on the later half "
        "| peak foretold / real |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, stored in found.items():
        numbers = _numbers(stored)
        rows = {(case.noise, case.labels) for case in stored.cases}
        for noise, size in sorted(rows):
            chosen = np.array([(c.noise, c.labels) == (noise, size) for c in stored.cases])
            mean = [_mean(numbers[name], stored, chosen) for name in ("peak", "at", "end", "proxy")]
            median = [_median(numbers[name][chosen]) for name in ("law", "other", "later")]
            early = _median(numbers["foretold"][chosen] / numbers["at"][chosen])
            cells = [method, f"{noise:.0%}", str(size), *mean, *median, early]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _numbers(stored: Stored) -> dict[str, np.ndarray]:
    """Of every run, up to its end: where it peaked, where it ended, how well the laws fit."""
    names = ("peak", "at", "end", "proxy", "law", "other", "later", "foretold")
    rows = []
    for run, end in enumerate(ends(stored)):
        looks = slice(0, end + 1)
        gain = stored.gold[run, looks] - stored.gold[run, 0]
        distance = np.sqrt(stored.kl[run, looks])
        top = max(1, int(gain.argmax()))
        law, other = (explained(gain, fit_gao(distance, gain, f)(distance)) for f in FORMS)
        half = len(gain) // 2 + 1
        foretold = later = np.nan
        if half > 2:  # the base and two looks: the least that a law is fitted to
            early = fit_gao(distance[:half], gain[:half])
            foretold, later = early.peak, explained(gain[half:], early(distance[half:]))
        rows.append(
            (
                gain.max(),
                distance[top],
                gain[-1],
                stored.proxy[run, end] - stored.proxy[run, 0],
                law,
                other,
                later,
                foretold,
            )
        )
    return dict(zip(names, np.array(rows).T, strict=True))


def _mean(values: np.ndarray, stored: Stored, chosen: np.ndarray) -> str:
    interval = resampled(np.where(chosen, values, np.nan), stored.cases).interval()
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _median(values: np.ndarray) -> str:
    """Median and quartiles over runs: a fit that fails does so without bound."""
    known = values[~np.isnan(values)]
    if not len(known):
        return "-"
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75], method="nearest")  # some are infinite
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
