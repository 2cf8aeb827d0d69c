"""How much of the true gain a cure keeps, and how often it acted without need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from experiments.overoptimization.attacks import Attack
from experiments.overoptimization.proxies import Case
from experiments.overoptimization.store import Stored
from morl.errors import DataError
from morl.fronts.intervals import REPLICATES, Bootstrapped

LENGTH = 2.5  # of a run, in peaks of the unguarded one
LEAST_GAIN = 0.2
"""An oracle gain below this, in base standard deviations, is no gain to keep a share of."""
Circumstances = tuple[str, float, int, Attack]


def ends(unguarded: Stored) -> Int[np.ndarray, " run"]:
    """The look at which each run ends: 2.5 times the peak of its case's mean unguarded gold."""
    found = np.zeros(len(unguarded.cases), dtype=int)
    for runs in grouped(unguarded.cases).values():
        peak = max(1, int(unguarded.gold[runs].mean(axis=0).argmax()))
        found[runs] = min(round(LENGTH * peak), unguarded.gold.shape[1] - 1)
    return found


def grouped(cases: tuple[Case, ...]) -> dict[Circumstances, list[int]]:
    """The runs of each case, which differ in their seed alone, in the order of their seeds."""
    groups: dict[Circumstances, list[int]] = {}
    for run in sorted(range(len(cases)), key=lambda run: cases[run].seed):
        case = cases[run]
        groups.setdefault((case.gold, case.noise, case.labels, case.attack), []).append(run)
    return groups


def kept_share(arm: Stored, unguarded: Stored) -> Float[np.ndarray, " run"]:
    """(gold at the end - base) / (gold of the oracle early stop - base), for each run.

    The oracle stops the unguarded run at its best look until the end, chosen on one half of the
    samples; all gold here is measured on the other half, so that luck of the choice is not counted.
    Not a number where the oracle gains less than `LEAST_GAIN`. Raises ValueError for other cases.
    """
    if arm.cases != unguarded.cases:
        raise ValueError("an arm is compared with the unguarded runs of the same cases")
    shares = np.full(len(arm.cases), np.nan)
    for run, end in enumerate(ends(unguarded)):
        oracle = int(unguarded.chosen[run, : end + 1].argmax())
        base = unguarded.measured[run, 0]
        possible = unguarded.measured[run, oracle] - base
        if possible >= LEAST_GAIN:
            shares[run] = (arm.measured[run, end] - base) / possible
    return shares


def resampled(shares: Float[np.ndarray, " run"], cases: tuple[Case, ...]) -> Bootstrapped:
    """Mean over runs, with replicates over the seeds, which all cases and arms share.

    Not-a-numbers are left out. Raises DataError where a seed has nothing else.
    """
    seeds = np.array([case.seed for case in cases])
    each = np.unique(seeds)
    drawn = np.random.default_rng(0).integers(len(each), size=(REPLICATES, len(each)))
    counts = np.stack([(drawn == number).sum(axis=1) for number in range(len(each))], axis=1)
    known = np.isfinite(shares)
    if missing := sorted(set(each.tolist()) - set(seeds[known].tolist())):
        raise DataError(f"no run of seed {', '.join(map(str, missing))} has a gain to keep")
    weights = counts[:, np.searchsorted(each, seeds)] * known
    means = weights @ np.where(known, shares, 0.0) / weights.sum(axis=1)
    return Bootstrapped(float(shares[known].mean()), means)


@dataclass(frozen=True)
class Alarms:
    """How often a run was sent back or stopped, and how often its gold was higher than there."""

    restored: int
    falsely: int


def alarms(arm: Stored, last: Int[np.ndarray, " run"]) -> Alarms:
    """Those that gave up a policy until the end of their run; false: the truth fell by it."""
    given_up = [
        alarm
        for alarm in arm.alarms
        if {"stop", "roll_back"} & set(alarm["do"]) and alarm["look"] <= last[alarm["run"]]
    ]
    return Alarms(len(given_up), sum(alarm["after"] < alarm["before"] for alarm in given_up))
