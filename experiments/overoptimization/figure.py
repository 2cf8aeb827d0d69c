"""Gold and proxy against sqrt(KL) of unguarded runs, and the gain that each cure keeps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from experiments.drawing import COLOURS, pyplot, save
from experiments.overoptimization import cures, disease
from experiments.overoptimization.arms import ARMS
from experiments.overoptimization.kept import ends
from experiments.overoptimization.runs import METHODS
from experiments.overoptimization.store import RESULTS, read
from morl.errors import MorlError

OUT = Path(__file__).parent / "overoptimization.png"
BINS = 12  # of sqrt(KL), in which runs are averaged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=OUT, help="a .png or .svg file")
    given = parser.parse_args()
    try:
        draw(given.results, given.out)
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def draw(results: Path, out: Path) -> None:
    """The disease on the left, one panel a method; the cures' test cases on the right."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), width_ratios=(1, 1, 1.3))
    for axis, method in zip(axes, METHODS, strict=False):
        _disease(axis, results, method)
    axes[0].set_ylabel("gain over the base, base standard deviations")
    axes[0].legend(loc="lower left", fontsize=7)
    _cures(axes[2], results)
    figure.tight_layout()
    save(figure, out)


def _disease(axis: Any, results: Path, method: str) -> None:
    stored = read(disease.path(results, method))
    last = ends(stored)
    for size, colour in zip(disease.SIZES, COLOURS, strict=False):
        for noise, style in zip(disease.NOISES, ("-", "--"), strict=True):
            runs = [
                run
                for run, case in enumerate(stored.cases)
                if (case.labels, case.noise) == (size, noise)
            ]
            distance = np.concatenate([np.sqrt(stored.kl[r, : last[r] + 1]) for r in runs])
            gold = np.concatenate([stored.gold[r, : last[r] + 1] - stored.gold[r, 0] for r in runs])
            order = np.array_split(distance.argsort(), BINS)
            axis.plot(
                [distance[part].mean() for part in order],
                [gold[part].mean() for part in order],
                style,
                color=colour,
                lw=1.5,
                label=f"{size} labels, {noise:.0%} wrong",
            )
    axis.axhline(0, color="#222222", lw=0.8)
    axis.set_xlabel("sqrt(KL), sqrt(nats)")
    axis.set_title(method.replace("_", " "), fontsize=9)


def _cures(axis: Any, results: Path) -> None:
    for number, method in enumerate(METHODS):
        paths = {arm: cures.path(results, "test", method, arm) for arm in ARMS}
        if not all(path.is_file() for path in paths.values()):
            continue  # not run for this method yet
        found = {arm: read(path) for arm, path in paths.items()}
        intervals = [share.interval() for share in cures.shares(found).values()]
        mean, low, high = np.array([[i.value, i.low, i.high] for i in intervals]).T
        axis.errorbar(
            mean,
            np.arange(len(ARMS)) + 0.2 * (number - 0.5),
            xerr=[mean - low, high - mean],
            fmt="o",
            ms=3.5,
            lw=1.2,
            color=COLOURS[number],
            label=method.replace("_", " "),
        )
    axis.set_yticks(np.arange(len(ARMS)), list(ARMS), fontsize=7)
    axis.invert_yaxis()
    for at in (0, 0.9, 1):
        axis.axvline(at, color="#222222", lw=0.8, ls=":" if at == 0.9 else "-")
    axis.set_xlabel("share of the true gain kept, test cases")
    axis.legend(loc="lower left", fontsize=7)


if __name__ == "__main__":
    main()
