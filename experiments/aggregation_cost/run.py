"""What an update costs when gradients are aggregated, against the ordinary one, in turn.

    python -m experiments.aggregation_cost.run                # every aggregation, 10 pairs each
    python -m experiments.aggregation_cost.run --names upgrad --pairs 3 --batch 8

An update of the packaged recipe (K = 3 objectives, one constraint, a pull to the base) takes one
backward pass an objective and one for the rest through the same forward. Printed as well: seconds
of the aggregation alone, on random rows as long as the adapter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.arguments import read_names
from experiments.interleaved import paired_ratio, seconds, timed_pairs
from morl.algorithms.aggregation import add_gradient, aggregate, jacobian_rows
from morl.algorithms.aggregation_facts import AGGREGATIONS
from morl.config import load_config, require
from morl.prompts import load_prompts
from morl.randomness import generator
from morl.training.assemble import assemble, fit_calibration
from morl.training.collect import Draws
from morl.training.module import AlignmentModule
from morl.training.session import build_module

Update = Callable[[], None]
OBJECTIVES = (2, 3, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=",".join(AGGREGATIONS))
    parser.add_argument("--pairs", type=int, default=10, help="timed pairs of each comparison")
    parser.add_argument("--batch", type=int, default=32, help="images of an update")
    parser.add_argument("--out", type=Path, default=Path("runs/aggregation_cost.json"))
    given = parser.parse_args()
    torch.set_num_threads(2)
    asked = read_names(parser, "names", given.names, AGGREGATIONS)
    result = measure(asked, given.pairs, given.batch)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def measure(names: Sequence[str], pairs: int, batch: int) -> dict[str, Any]:
    """The ratio of an aggregated update to an ordinary one, and the aggregation's own seconds."""
    module = built(batch)
    length = sum(parameter.numel() for parameter in module.adapter.parameters())
    result: dict[str, Any] = {"parameters": length, "batch": batch, "names": {}}
    for name in names:
        times = timed_pairs(partial(update, module, name), partial(update, module, "none"), pairs)
        alone = {k: own_seconds(name, k, length, pairs) for k in OBJECTIVES}
        result["names"][name] = {**paired_ratio(*times), "alone": alone}
    return result


def built(batch: int, *overrides: str) -> AlignmentModule:
    """The recipe's module on a base model that it has just been calibrated on."""
    config = load_config("shapes", [f"training.batch_size={batch}", *overrides])
    require(config)
    parts = assemble(config)
    prompts = load_prompts(config.prompts.train, "train", config.training.seed)
    return build_module(parts, prompts, fit_calibration(parts, prompts, config.training.seed))


def update(module: AlignmentModule, name: str) -> None:
    """Everything of an update but the optimiser's step, which all share."""
    module.utility.aggregation = name
    parameters = module.adapter.parameters()
    questions = module.plan.batch(0)
    for micro in module.collector.collect(questions, Draws(module.plan.seed, 0, 0)):
        if micro.output.objectives is not None:
            rows = jacobian_rows(micro.output.objectives, parameters)
            draws = generator(module.plan.seed, 0, 0, "aggregation")
            add_gradient(parameters, aggregate(name, rows, questions.weights.mean(dim=0), draws))
        if micro.output.loss.requires_grad:
            micro.output.loss.backward()
    for parameter in parameters:
        parameter.grad = None


def own_seconds(name: str, objectives: int, length: int, pairs: int) -> float:
    """Median seconds of one aggregation of random rows."""
    rows = torch.randn(objectives, length, generator=torch.Generator().manual_seed(0))
    weights = torch.full((objectives,), 1 / objectives)
    work = partial(aggregate, name, rows, weights, torch.Generator().manual_seed(0))
    return float(np.median([seconds(work) for _ in range(pairs)]))


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    heads = "".join(f"| alone, K = {k} " for k in OBJECTIVES)
    rows = [f"| aggregation | an update, times the ordinary one {heads}|", "|---|---|" + "---|" * 3]
    for name, row in result["names"].items():
        alone = " | ".join(f"{1000 * row['alone'][k]:.1f} ms" for k in OBJECTIVES)
        ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        rows.append(f"| {name} | {ratio} | {alone} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
