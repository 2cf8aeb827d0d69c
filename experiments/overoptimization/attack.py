"""Attack cures and guard with faults that all members share; say what catches which."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from experiments.overoptimization.arms import ARMS, GUARD
from experiments.overoptimization.attacks import ATTACKS, Attack
from experiments.overoptimization.cures import LABELS, SEEDS
from experiments.overoptimization.kept import ends, kept_share, resampled
from experiments.overoptimization.proxies import Case, learned
from experiments.overoptimization.runs import METHODS, UPDATES, Method, train
from experiments.overoptimization.store import RESULTS, Stored, fresh, read, recipe, write
from morl.errors import MorlError

GOLD, NOISE = "quadratic", 0.0  # one true reward, clean labels: the attack alone is seen
DEFENDERS = {
    **{name: ARMS[name] for name in ("none", "kl_middle", "mean-std", "guard", "guard_kernel")},
    "guard_clean": replace(GUARD, held_out="clean"),
    "guard_disagreement": ARMS["guard_disagreement"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=METHODS, default="reward_gradient")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--updates", type=int, default=UPDATES)
    given = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small only wait for each other
    try:
        run(given.method, given.results, given.updates)
        print(table({a: read(path(given.results, given.method, a)) for a in DEFENDERS}))
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def path(results: Path, method: str, arm: str) -> Path:
    return results / f"attack-{method}-{arm}.json"


def run(method: Method, results: Path, updates: int = UPDATES) -> None:
    """Train what is not stored yet: every attack and, to compare, none."""
    attacks: tuple[Attack, ...] = ("none", *ATTACKS)
    cases = [
        Case(GOLD, NOISE, LABELS, seed, attack)
        for attack in attacks
        for seed in SEEDS["development"]
    ]
    proxies = None
    for name, arm in DEFENDERS.items():
        made = recipe(cases, arm, method, updates)
        if fresh(path(results, method, name), made):
            continue
        proxies = learned(cases) if proxies is None else proxies
        print(f"attack {method} {name}: {len(cases)} runs", flush=True)
        write(path(results, method, name), made, train(proxies, arm, method, updates))


def table(found: Mapping[str, Stored]) -> str:
    """One row an arm, one column an attack: gain kept, and in how many runs which signal acted."""
    none = found["none"]
    attacked = np.array([case.attack for case in none.cases])
    names = list(dict.fromkeys(attacked.tolist()))
    last = ends(none)
    lines = ["| arm | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for arm, stored in found.items():
        shares = kept_share(stored, none)
        cells = []
        for name in names:
            runs = attacked == name
            share = resampled(np.where(runs, shares, np.nan), none.cases).interval()
            acted = {
                (alarm["signal"], alarm["run"])
                for alarm in stored.alarms
                if runs[alarm["run"]] and alarm["look"] <= last[alarm["run"]]
            }
            counts = Counter(signal for signal, _ in acted)
            seen = ", ".join(f"{signal} {count}" for signal, count in sorted(counts.items()))
            cells.append(f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}] {seen}".strip())
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
