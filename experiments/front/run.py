"""Train and measure every (method, seed) of the study, each once; finished ones are kept."""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from experiments.front.methods import Shuffled, fixed, plain, soup, train_adapter, with_steps
from morl.config import load_config
from morl.config.tree import Config
from morl.prompts import load_prompts
from morl.training.assemble import Assembly
from morl.training.evaluate import judge_constraints, measure, score_grid, weight_grid
from morl.training.judge import judge_of
from morl.training.module import AlignmentModule

RESULTS = Path(__file__).parent / "results"
LOGS = Path("runs/front")
RATES = {"conditioned": 1.0, "dedicated": 1.0, "soup": 1.0, "random": 1.0, "shuffled": 1.0}
"""Learning rate of each method as a multiple of the recipe's; `--tune` has not been run yet."""
TRIED = (0.5, 1.0, 2.0)
TUNING_SEED, JUDGING_SEED = 100, 0
CURVE_POINTS = 3

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tune", action="store_true", help="try the learning rates, at C/3")
    given = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    config = load_config(given.recipe)
    RESULTS.mkdir(exist_ok=True)
    methods = given.methods.split(",")
    if given.tune:
        for method in methods:
            tune(method, config)
        return
    for seed in map(int, given.seeds.split(",")):
        for method in methods:
            run_once(f"{method}-{seed}", METHODS[method], with_rate(config, RATES[method], seed))


def run_once(name: str, method: Callable[[Config, Path], Result], config: Config) -> Result:
    """The stored result, or a new one; it is written whole or not at all."""
    path = RESULTS / f"{name}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    print(name, flush=True)
    result = method(config, LOGS / name)
    result |= {"updates": config.training.steps, "learning_rate": config.training.learning_rate}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result) + "\n")
    partial.replace(path)
    gc.collect()
    return result


def with_rate(config: Config, factor: float, seed: int) -> Config:
    rate = config.training.learning_rate * factor
    return replace(config, training=replace(config.training, learning_rate=rate, seed=seed))


def tune(method: str, config: Config) -> None:
    """Delivered gold utility of each learning rate after C/3, on a seed of its own."""
    for factor in TRIED:
        shorter = with_steps(with_rate(config, factor, TUNING_SEED), config.training.steps // 3)
        name = f"tune-{method}-{factor:g}"
        result = run_once(name, METHODS[method], shorter)
        utility = result["fronts"]["gold"]["delivered_utility"]["value"]
        print(f"{method:12} x {factor:<4g} delivered gold utility {utility:.4f}", flush=True)


def conditioned(config: Config, logs: Path) -> Result:
    """The product: one adapter conditioned on the weight vector; measured in full."""
    curve: list[Result] = []
    parts, _ = train_adapter(
        config, logs, watch=lambda parts, module: [GoldCurve(parts, module, curve)]
    )
    compute = parts.ledger.to_dict()
    judged, prompts = for_judging(parts), judging_prompts(config)
    judge = judge_of(config, judged, ())
    # Constraints are pooled over seeds, so each seed draws prompts and noise of its own for them.
    events = judge_constraints(parts, judge, prompts, weight_grid(config))
    full = config.training.seed != TUNING_SEED
    result = measure(judged, judge, prompts, full=full)
    return {**result, "events": events, "curve": curve, "compute": compute}


def dedicated(config: Config, logs: Path) -> Result:
    """Ten ordinary LoRAs, one for each point of the grid, with a tenth of the compute each."""
    grid = weight_grid(config)
    common, parts_at = None, []
    for weights in grid:
        one = fixed(config, weights, round(config.training.steps / len(grid)))
        parts, common = train_adapter(one, logs, common=common)
        parts_at.append(parts)
    return _grid(config, parts_at)


def soup_of_experts(config: Config, logs: Path) -> Result:
    """One LoRA for each objective with a third of the compute; their updates are averaged."""
    common, experts = None, []
    count = len(config.names)
    for weights in torch.eye(count):
        one = fixed(config, weights, round(config.training.steps / count))
        parts, common = train_adapter(one, logs, common=common)
        experts.append(parts.adapter)
    blended = soup(config, experts)
    blended.bound.statistics.update(parts.bound.statistics)
    return _grid(config, [blended] * len(weight_grid(config)))


def random_weights(config: Config, logs: Path) -> Result:
    """A control: an ordinary LoRA that is trained for random weight vectors it does not see."""
    parts, _ = train_adapter(plain(config), logs)
    return _grid(config, [parts] * len(weight_grid(config)))


def shuffled(config: Config, logs: Path) -> Result:
    """A control: the conditioned adapter, optimised for another weight vector than it is given."""
    parts, _ = train_adapter(config, logs, utility=Shuffled.like)
    return _grid(config, [parts] * len(weight_grid(config)))


METHODS: dict[str, Callable[[Config, Path], Result]] = {
    "conditioned": conditioned,
    "dedicated": dedicated,
    "soup": soup_of_experts,
    "random": random_weights,
    "shuffled": shuffled,
}


def _grid(config: Config, parts_at: list[Assembly]) -> Result:
    judged = [for_judging(parts) for parts in parts_at]
    judge = judge_of(config, judged[0], ())
    fronts = score_grid(judged, judge, judging_prompts(config)).fronts(config)
    return {
        "fronts": {space: {**front.to_dict(), **front.summary()} for space, front in fronts.items()}
    }


def for_judging(parts: Assembly) -> Assembly:
    """The same with one seed for all: differences between methods and seeds are then paired."""
    training = replace(parts.config.training, seed=JUDGING_SEED)
    evaluation = replace(parts.config.evaluation, judged_images=0)
    return replace(parts, config=replace(parts.config, training=training, evaluation=evaluation))


def judging_prompts(config: Config) -> list[str]:
    """Held-out prompts, the same for every method and seed."""
    return list(load_prompts(config.prompts.held_out, "held_out", JUDGING_SEED))


class GoldCurve(Callback):
    """The front in gold space on the way, with the averaged adapter."""

    def __init__(self, parts: Assembly, module: AlignmentModule, curve: list[Result]) -> None:
        self.parts = parts
        self.module = module
        self.curve = curve
        self.every = max(1, parts.config.training.steps // CURVE_POINTS)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = int(batch) + 1
        if step % self.every and step != self.parts.config.training.steps:
            return
        config = for_judging(self.parts).config
        # A quarter of the images: the curve is there to show a fall, not to compare methods.
        fewer = replace(
            config.evaluation, images_per_weight=config.evaluation.images_per_weight // 4
        )
        parts = replace(self.parts, config=replace(config, evaluation=fewer))
        prompts = judging_prompts(config)
        with self.module.ema.applied(self.parts.adapter):
            grid = score_grid(
                [parts] * len(weight_grid(config)), judge_of(config, parts, ()), prompts
            )
        means = {s: f.mean.tolist() for s, f in grid.fronts(parts.config).items()}
        self.curve.append({"step": step, **means})


if __name__ == "__main__":
    main()
