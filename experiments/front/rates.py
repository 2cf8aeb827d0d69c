"""Learning rates of the methods: three tried once, on other prompts than the study is judged on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from experiments.cells import Result, differences, origin, run_once, with_rate
from experiments.front.methods import METHODS, with_steps
from experiments.judging import JUDGING_SEED, Exam, Grid
from morl.config.tree import Config
from morl.errors import DataError
from morl.fronts.utility import delivered_utility, grid_users
from morl.prompts import load_prompts
from morl.training.durable import replace_durably
from morl.training.evaluate import weight_grid

FILE = "rates.json"
TRIED = (0.5, 1.0, 2.0)
SEED = 100  # of the trial trainings; the study's own seeds are small
SHARE = 3  # every trial costs one such part of the compute C


def exam_for_tuning(config: Config) -> Exam:
    """Training prompts, without those that a held-out scene was described by in the same words."""
    judged = load_prompts(config.prompts.held_out, "held_out", JUDGING_SEED)
    images = max(2, config.evaluation.images_per_weight // 2)
    return Exam.of(config, "train", SEED + 1, images, avoid=judged)


def tune(method: str, config: Config, exam: Callable[[], Exam], folder: Path, logs: Path) -> None:
    """Try each factor once after C / SHARE and write the best one into the folder's `rates.json`.

    Dedicated adapters are short as they are: three of the ten are tried in full length instead.
    """
    tried = {}
    for factor in TRIED:
        setting = with_rate(config, factor, SEED)
        if method != "dedicated":
            setting = with_steps(setting, max(1, config.training.steps // SHARE))
        name = f"tune-{method}-{factor:g}"
        trial = partial(_trial, method, setting, exam, logs / name)
        value = float(run_once(folder, name, setting, trial)["delivered_utility"])
        tried[f"{factor:g}"] = value
        print(f"{method:12} x {factor:<4g} gold utility {value:.4f}", flush=True)
    path = folder / FILE
    known: Result = json.loads(path.read_bytes()) if path.is_file() else {}
    known[method] = {"factor": best(tried), "tried": tried, **origin(config)}
    path.write_text(json.dumps(known) + "\n", encoding="utf-8")


def settle(
    method: str,
    config: Config,
    folder: Path,
    seed: int,
    cell: Callable[[Config], Result],
) -> None:
    """Choose between the recipe's own rate and the best one tried, by one whole training of each.

    What is best for a third of the training may be too fast for all of it. Both are run on `seed`
    into folders of their own, and the better one becomes the study's cell of that seed: it has
    then been chosen by the prompts that judge, as every method's has; other seeds have not.
    Raises DataError where nothing was tried yet.
    """
    path, name = folder / FILE, f"{method}-{seed}"
    known: Result = json.loads(path.read_bytes()) if path.is_file() else {}
    if method not in known:
        raise DataError(f"{path}: no learning rate of {method} was tried yet; run --tune first")
    whole: dict[str, Result] = {}
    for factor in sorted({1.0, best(known[method]["tried"])}):
        setting = with_rate(config, factor, seed)
        found = run_once(folder / f"whole-{factor:g}", name, setting, partial(cell, setting))
        whole[f"{factor:g}"] = found
    values = {
        f: float(one["fronts"]["gold"]["delivered_utility"]["value"]) for f, one in whole.items()
    }
    known[method] |= {"factor": best(values), "whole": values}
    path.write_text(json.dumps(known) + "\n", encoding="utf-8")
    chosen = json.dumps(whole[f"{best(values):g}"], allow_nan=False) + "\n"
    replace_durably(folder / f"{name}.json", chosen.encode())
    print(f"{method:12} whole training: {values}", flush=True)


def best(tried: Mapping[str, float]) -> float:
    """The factor with the largest delivered utility; of equals, the one nearest to 1."""
    return max((float(f) for f in tried), key=lambda f: (tried[f"{f:g}"], -abs(f - 1)))


def rate_of(method: str, config: Config, folder: Path) -> float:
    """The tuned factor on the recipe's learning rate; 1, said aloud, where none was tuned.

    Raises DataError where it was tuned for another recipe or world.
    """
    path = folder / FILE
    known: Result = json.loads(path.read_bytes()) if path.is_file() else {}
    if method not in known:
        print(f"{method}: no learning rate tuned (--tune); takes the recipe's", flush=True)
        return 1.0
    lines = differences(known[method], origin(config))
    if lines:
        raise DataError(
            f"{path}: the learning rate of {method} was tuned for another recipe or world "
            f"({'; '.join(lines)}); tune it again with --tune, or delete the file"
        )
    return float(known[method]["factor"])


def centre(config: Config) -> Grid:
    """All objectives with the same weight, [1,K]."""
    count = len(config.names)
    return torch.full((1, count), 1 / count)


def _trial(method: str, config: Config, exam: Callable[[], Exam], logs: Path) -> Result:
    at = weight_grid(config)
    if method == "dedicated":
        at = torch.eye(len(config.names))
    elif method == "regret":
        at = centre(config)
    front = exam().fronts(METHODS[method](config, logs, at), at)["gold"]
    users = grid_users(front.weights)
    return {"delivered_utility": delivered_utility(front.constants.normalise(front.mean), users)}
