"""A small training loop that stops and resumes exactly: AdamW, cosine rate, averaged weights."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from morl.errors import IntegrityError, NumericalError

LossFunction = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: linear warm-up to `learning_rate`, then a cosine to zero.

    steps, warmup: optimiser steps; average: decay of the exponential moving average, in [0, 1);
    memory: decay of AdamW's mean square gradient (short runs forget their start sooner with
    0.99); weight_decay: decoupled; clip: largest gradient norm; save_every: steps between states.
    """

    steps: int
    learning_rate: float
    warmup: int
    average: float
    memory: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    save_every: int = 250

    def rate(self, step: int) -> float:
        """Learning rate of the step'th update, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def fit(
    name: str,
    model: nn.Module,
    loss: LossFunction,
    schedule: Schedule,
    folder: Path,
    seed: int,
    stop_after: int | None = None,
) -> bool:
    """Minimise `loss(step, generator)`; leave the averaged weights in `model` when finished.

    Every random number of a step is a function of (seed, name, step), so a run that resumes from
    `folder/<name>.safetensors` repeats the uninterrupted run bit for bit. `stop_after` ends this
    call after that many updates, with the state saved. Returns whether the stage is finished.
    Raises NumericalError for a loss that is not finite, IntegrityError for a foreign state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    parameters = dict(model.named_parameters())
    average = {key: value.detach().clone() for key, value in parameters.items()}
    optimizer = torch.optim.AdamW(
        parameters.values(), betas=(0.9, schedule.memory), weight_decay=schedule.weight_decay
    )
    identity = {"name": name, "seed": seed, "schedule": asdict(schedule)}
    first = _load(path, identity, parameters, average, optimizer) if path.exists() else 0
    last = schedule.steps if stop_after is None else min(schedule.steps, first + stop_after)
    started, running = time.monotonic(), 0.0
    for step in tqdm(range(first, last), name, schedule.steps, initial=first, mininterval=5):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        value = loss(step, _generator(seed, name, step))
        if not torch.isfinite(value):
            raise NumericalError(f"The loss of {name!r} is {float(value.detach())} at step {step}.")
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters.values(), schedule.clip)
        optimizer.step()
        # Early on the average would otherwise remember the random start.
        decay = min(schedule.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        running += float(value.detach())
        if (step + 1) % 25 == 0 or step + 1 == last:
            count = (step - first) % 25 + 1
            _log(folder, name, step + 1, running / count, time.monotonic() - started)
            running = 0.0
        if (step + 1) % schedule.save_every == 0 or step + 1 == last:
            _save(path, identity, step + 1, parameters, average, optimizer)
    if last < schedule.steps:
        return False
    with torch.no_grad():
        for key, value in parameters.items():
            value.copy_(average[key])
    return True


def _generator(seed: int, name: str, step: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _log(folder: Path, name: str, step: int, loss: float, seconds: float) -> None:
    record = {"stage": name, "step": step, "loss": round(loss, 6), "seconds": round(seconds, 1)}
    with (folder / "train.log").open("a") as log:
        log.write(json.dumps(record) + "\n")


def _save(
    path: Path,
    identity: dict[str, object],
    step: int,
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"model.{key}": value.detach() for key, value in parameters.items()}
    tensors |= {f"average.{key}": value for key, value in average.items()}
    for key, value in parameters.items():
        state = optimizer.state[value]
        tensors[f"first.{key}"], tensors[f"second.{key}"] = state["exp_avg"], state["exp_avg_sq"]
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    # One file, replaced at once: a state is whole or absent, even if the machine stops here.
    partial = path.with_suffix(".partial")
    save_file(contiguous, partial, {"state": json.dumps({**identity, "step": step})})
    os.replace(partial, path)


def _load(
    path: Path,
    identity: dict[str, object],
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    with safe_open(path, "pt") as file, torch.no_grad():
        state = json.loads((file.metadata() or {}).get("state", "{}"))
        step = state.pop("step", None)
        if step is None or state != identity:
            raise IntegrityError(
                f"{path} belongs to another training: it has {state}, this one is {identity}. "
                "Choose another folder or remove the file."
            )
        for key, value in parameters.items():
            value.copy_(file.get_tensor(f"model.{key}"))
            average[key].copy_(file.get_tensor(f"average.{key}"))
            # empty_like keeps the memory format, which decides the order of later sums.
            first, second = torch.empty_like(value), torch.empty_like(value)
            optimizer.state[value] = {
                "step": torch.tensor(float(step)),
                "exp_avg": first.copy_(file.get_tensor(f"first.{key}")),
                "exp_avg_sq": second.copy_(file.get_tensor(f"second.{key}")),
            }
    return int(step)
