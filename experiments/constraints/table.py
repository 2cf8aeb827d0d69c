"""The study's table from its stored results, as Markdown: what the README shows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.cells import SEED, Result, read_cells, require_same
from experiments.constraints.run import METHODS, PENALTIES, RESULTS, UNCONSTRAINED
from experiments.pairing import require_same_questions, shown
from morl.errors import DataError
from morl.fronts.front import Front
from morl.fronts.intervals import REPLICATES, Bootstrapped, Resampling, bootstrap, resampling
from morl.training.feasibility import DECAY

RULES = [f"objective.{key}" for key in ("multiplier", "multiplier_start", "multiplier_of_weights")]
"""Settings in which the methods may differ."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """Stored cells by method, and the seeds that all of them have."""

    cells: Mapping[str, Mapping[int, Result]]
    seeds: tuple[int, ...]

    @property
    def methods(self) -> list[str]:
        return list(self.cells)

    @property
    def front(self) -> Front:
        """One gold front: its weight vectors, axes and prompts are those of all."""
        return Front.from_dict(self.cells[self.methods[0]][self.seeds[0]]["fronts"]["gold"])

    @property
    def threshold(self) -> float:
        return float(self.cells[self.methods[0]][self.seeds[0]]["threshold"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    try:
        print(comparison(stored(given.results)))
    except DataError as error:
        raise SystemExit(f"{error}") from error


def stored(folder: Path = RESULTS) -> Study:
    """Results by method.

    Raises DataError without the unconstrained adapter or penalties, which all else is compared
    with, without a common seed, or where recipes, worlds, prompts or noise are mixed.
    """
    cells = {method: runs for method in METHODS if (runs := read_cells(folder, method))}
    missing = [method for method in (UNCONSTRAINED, *PENALTIES) if method not in cells]
    if missing:
        raise DataError(
            f"no results of {', '.join(missing)} in {folder}; run python -m "
            "experiments.constraints.run first"
        )
    for method, runs in cells.items():
        require_same({f"{method}-{seed}": run for seed, run in runs.items()}, [SEED])
    named = {f"{m}-{seed}": run for m, runs in cells.items() for seed, run in runs.items()}
    require_same(named, [SEED, *RULES])
    seeds = tuple(sorted(set.intersection(*(set(runs) for runs in cells.values()))))
    if not seeds:
        raise DataError("the methods share no seed, so nothing can be paired")
    compared = [cells[method][seed] for method in cells for seed in seeds]
    require_same_questions([Front.from_dict(run["fronts"]["gold"]) for run in compared])
    return Study(cells, seeds)


def comparison(study: Study, replicates: int = REPLICATES) -> str:
    """Violation, utility kept and the way there of every method, in gold."""
    front, methods = study.front, study.methods
    samples = np.concatenate([_samples(study, method) for method in methods], axis=3)
    drawn = resampling(np.random.default_rng(0), len(study.seeds), front.groups, replicates)
    slack = slack_weights(study)
    rows = [
        "| method | mean violation | worst over w | utility | utility minus the penalties' at the "
        "same mean violation | at slack w, utility minus unconstrained | steps until held "
        "| mean violation, last half | its standard deviation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        statistics: list[Callable[[Points], float]] = [
            partial(Points.mean_violation, method=method),
            partial(Points.worst_violation, method=method),
            partial(Points.mean_utility, method=method),
            partial(Points.above_curve, method=method),
        ]
        if slack:
            statistics.append(partial(Points.lost, method=method, rows=slack))
        numbers = [_number(samples, statistic, study, drawn, front) for statistic in statistics]
        cells = [shown(number) for number in numbers] + [""] * (5 - len(numbers))
        ways = [way(study.cells[method][seed]["trace"]) for seed in study.seeds]
        steps = ", ".join("never" if w.held is None else str(w.held) for w in ways)
        late = ", ".join(f"{w.late_mean:+.3f}" for w in ways)
        spread = ", ".join(f"{w.late_std:.3f}" for w in ways)
        rows.append("| " + " | ".join([method, *cells, steps, late, spread]) + " |")
    where = "; ".join(_vector(front.weights[n]) for n in slack) or "none"
    return (
        "\n".join(rows)
        + f"\n\nSeeds {', '.join(map(str, study.seeds))}, paired by seed, prompt and noise. Slack "
        f"where the unconstrained adapter holds the constraint in gold: {where}.\n"
    )


@dataclass(frozen=True)
class Points:
    """Mean rewards and cost of every method at every weight vector, [N, methods x (K + 1)]."""

    means: Values
    study: Study
    front: Front

    def violation(self, method: str) -> Values:
        """Excess of the mean cost over the threshold at each weight vector."""
        return self._of(method)[:, -1] - self.study.threshold

    def utility(self, method: str) -> Values:
        """w . u at each weight vector, u normalised to the frozen axes."""
        rewards = self.front.constants.normalise(self._of(method)[:, :-1])
        return np.asarray((rewards * self.front.weights).sum(axis=1))

    def mean_violation(self, method: str) -> float:
        return float(self.violation(method).mean())

    def worst_violation(self, method: str) -> float:
        return float(self.violation(method).max())

    def mean_utility(self, method: str) -> float:
        return float(self.utility(method).mean())

    def above_curve(self, method: str) -> float:
        """Utility minus that of fixed penalties, interpolated at this mean violation.

        Beyond the outermost penalty the curve is taken as flat, which favours neither side more
        than by how far it is beyond.
        """
        fixed = (UNCONSTRAINED, *PENALTIES)
        curve = sorted((self.mean_violation(m), self.mean_utility(m)) for m in fixed)
        at, height = zip(*curve, strict=True)
        own = self.mean_violation(method)
        return self.mean_utility(method) - float(np.interp(own, at, height))

    def lost(self, method: str, rows: Sequence[int]) -> float:
        """Utility minus the unconstrained adapter's, mean over some weight vectors."""
        gap = self.utility(method) - self.utility(UNCONSTRAINED)
        return float(gap[list(rows)].mean())

    def _of(self, method: str) -> Values:
        width = len(self.front.names) + 1
        start = width * self.study.methods.index(method)
        return self.means[:, start : start + width]


def slack_weights(study: Study) -> list[int]:
    """Rows of the grid where the unconstrained adapter holds the constraint, over all seeds."""
    costs = _samples(study, UNCONSTRAINED)[..., -1]
    mean = np.nanmean(costs, axis=(0, 2))
    return [int(n) for n in np.flatnonzero(mean <= study.threshold)]


@dataclass(frozen=True)
class Way:
    """How a training came to hold its constraint."""

    held: int | None
    """First update after which the running violation was at most 0; None: never."""
    late_mean: float
    """Mean violation over the last half: 0 is just held, negative is more than asked for."""
    late_std: float
    """Standard deviation of the running violation over the last half: how far it swings."""


def way(trace: Sequence[Mapping[str, float]]) -> Way:
    """Summarise violations of a training; the running mean is that of `Feasibility`."""
    violations = np.asarray([row["violation"] for row in trace])
    running, total = np.empty(len(violations)), 0.0
    for t, value in enumerate(violations):
        total = DECAY * total + (1 - DECAY) * value
        running[t] = total / (1 - DECAY ** (t + 1))
    held = np.flatnonzero(running <= 0)
    late = slice(len(violations) // 2, None)
    return Way(
        int(held[0]) + 1 if len(held) else None,
        float(violations[late].mean()),
        float(running[late].std()),
    )


def _samples(study: Study, method: str) -> Values:
    """Gold rewards and cost of each image, [seed, point, image, K + 1]; NaN: does not apply."""
    found = []
    for seed in study.seeds:
        run = study.cells[method][seed]
        rewards = Front.from_dict(run["fronts"]["gold"]).samples
        costs = np.asarray(run["costs"]["gold"]["weights"], dtype=np.float64)
        found.append(np.concatenate([rewards, costs[..., None]], axis=2))
    return np.stack(found)


def _number(
    samples: Values,
    statistic: Callable[[Points], float],
    study: Study,
    drawn: Resampling,
    front: Front,
) -> Bootstrapped:
    return bootstrap(samples, lambda means: statistic(Points(means, study, front)), drawn)


def _vector(weights: Values) -> str:
    return "(" + ", ".join(f"{w:.2g}" for w in weights) + ")"


if __name__ == "__main__":
    main()
