"""Train every (algorithm, seed) of the study once, with looks at the front on the way."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from lightning import Callback

from experiments.arguments import read_names
from experiments.cells import Result, differences, origin, run_once, with_rate
from experiments.front.methods import train_adapter
from experiments.judging import JUDGING_SEED, Exam, Look
from experiments.pairing import delivered
from morl.config import load_config, require
from morl.config.plan import plan
from morl.config.tree import Config
from morl.errors import ConfigError, MorlError
from morl.training.assemble import Assembly
from morl.training.evaluate import weight_grid
from morl.training.ledger import Ledger
from morl.training.module import AlignmentModule

RESULTS = Path(__file__).parent / "results"
LOGS = Path("runs/regimes")
RECIPES = {
    "draft": "shapes",
    "policy_gradient": "shapes_policy_gradient",
    "nft": "shapes_nft",
}
OWN = ("algorithm", "training")
"""Sections in which the recipes may differ."""
BUDGET = 2.0  # of the network evaluations of the first recipe, which is done after once as many
LOOKS = 5
IMAGES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", default=",".join(RECIPES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", type=float, default=BUDGET, help="multiple of `shapes`")
    parser.add_argument("--images", type=int, default=IMAGES, help="at each weight vector and look")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", action="append", default=[], help="override, as in `morl train`")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    asked = read_names(parser, "algorithms", given.algorithms, RECIPES)
    try:
        configs = settings(
            given.budget, [*given.set, f"evaluation.images_per_weight={given.images}"]
        )
        seeds = [int(seed) for seed in given.seeds.split(",")]
        run({name: configs[name] for name in asked}, seeds, given.results)
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def settings(budget: float, overrides: Sequence[str] = ()) -> dict[str, Config]:
    """The recipe of each algorithm, as long as `budget` times the first recipe's evaluations.

    Raises ConfigError where the recipes differ in more than algorithm and training.
    """
    configs = {name: load_config(recipe, overrides) for name, recipe in RECIPES.items()}
    first = next(iter(configs.values()))
    total = budget * planned(first)
    for name, config in configs.items():
        require(config)
        if lines := differences(origin(first), origin(config), OWN):
            raise ConfigError(
                f"{RECIPES[name]}: must be as {RECIPES['draft']} but for {' and '.join(OWN)}; "
                f"differs in {'; '.join(lines)}"
            )
        steps = max(1, round(config.training.steps * total / planned(config)))
        configs[name] = replace(config, training=replace(config.training, steps=steps))
    return configs


def planned(config: Config) -> float:
    """Network evaluations that a training will spend; a backward counts as one more."""
    spent = plan(config)
    return spent.forwards + 2 * spent.backwards


def evaluations(ledger: Ledger) -> int:
    """Network evaluations spent: every forward and every backward of one image counts as one."""
    return ledger.forwards + ledger.gradient_forwards + ledger.reference_forwards + ledger.backwards


def run(configs: dict[str, Config], seeds: Sequence[int], results: Path) -> None:
    """Run what is not stored yet; the base model answers the exam once."""
    first = next(iter(configs.values()))
    exam = cache(
        lambda: Exam.of(first, "held_out", JUDGING_SEED, first.evaluation.images_per_weight)
    )
    for seed in seeds:
        for algorithm, config in configs.items():
            setting, name = with_rate(config, 1.0, seed), f"{algorithm}-{seed}"
            run_once(results, name, setting, partial(learn, setting, LOGS / name, exam))
            gc.collect()


def learn(config: Config, logs: Path, exam: Callable[[], Exam]) -> Result:
    """The front after parts of a training; evaluations count from after the calibration."""
    grid, curve = weight_grid(config), list[Result]()

    def watch(parts: Assembly, module: AlignmentModule) -> Sequence[Callback]:
        start = evaluations(parts.ledger)

        def look(step: int) -> None:
            spent = evaluations(parts.ledger) - start
            fronts = exam().fronts([parts] * len(grid), grid)
            proxy = fronts["proxy"]
            curve.append(
                {
                    "step": step,
                    "evaluations": spent,
                    "gold": fronts["gold"].to_dict(),
                    "proxy_utility": delivered(
                        proxy.constants.normalise(proxy.mean), proxy.weights
                    ),
                }
            )

        return [Look(module, looks(config.training.steps), look)]

    parts, _ = train_adapter(config, logs, watch=watch)
    return {"curve": curve, "compute": parts.ledger.to_dict()}


def looks(steps: int) -> list[int]:
    """Updates after which the front is measured: equal parts of the training, the last included."""
    return sorted({max(1, round(steps * part / LOOKS)) for part in range(1, LOOKS + 1)})


if __name__ == "__main__":
    main()
