"""The guard at work: looks at fixed questions, reads its signals, acts, and writes down why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from morl.guard.readings import (
    Look,
    View,
    held_out_utility,
    image_statistics,
    is_best,
    readings,
    variety,
)
from morl.guard.readings import worst as worst_of
from morl.guard.rules import Decision, Tally, decide
from morl.guard.settings import Action
from morl.prompts import records
from morl.randomness import generator
from morl.training.assemble import Assembly
from morl.training.device import choose_device
from morl.training.judge import drawn_images
from morl.training.metrics import MetricsLog
from morl.training.module import AlignmentModule
from morl.training.run import GUARD_FILE, RunDirectory
from morl.weights import region_vertices
from rewards.objective import Objective
from rewards.parse import parse_expression
from rewards.reward import ImageBatch


class Probe:
    """The same prompts, noise and weight vectors at every look, scored by proxies and held-out.

    Watched are the corners of the trained part of the simplex and their mean. The prompts are
    training prompts, so that what the guard chose by is not what the front is judged on.
    """

    def __init__(self, parts: Assembly, prompts: Sequence[str]) -> None:
        config, guard = parts.config, parts.config.guard
        self.parts = parts
        self.per_prompt = guard.images_per_prompt
        distinct = list(dict.fromkeys(prompts))[-guard.prompts :]
        self.asked = [prompt for prompt in distinct for _ in range(self.per_prompt)]
        draw = generator(config.training.seed, 0, 0, "guard")
        self.noise = parts.sampler.noise(len(self.asked), draw)
        corners = region_vertices(len(config.names), *config.weights.bounds(config.names)).float()
        self.weights = torch.cat([corners, corners.mean(dim=0, keepdim=True)])
        device = choose_device(config.training.accelerator)
        self.proxy = replace(parts.objective, pessimism=0.0, constraints=()).bind(device)
        self.proxy.statistics.update(parts.bound.statistics)
        self.held_out = None
        if guard.held_out:
            checked = [(name, parse_expression(guard.held_out[name])) for name in config.names]
            self.held_out = Objective(tuple(checked)).bind(device)

    def base(self) -> View:
        """The base model's images; also what held-out expressions need to know of them."""
        return self._view(None, fit=True)

    def look(self) -> Look:
        """The adapter's images as it is now."""
        names = self.parts.config.names
        labels = tuple(_label(row, names) for row in self.weights.tolist())
        return Look(self.weights, labels, tuple(self._view(row) for row in self.weights))

    def _view(self, weights: Tensor | None, *, fit: bool = False) -> View:
        drawn = drawn_images(self.parts, self.asked, weights, self.noise)
        images = torch.cat([part for _, part in drawn])
        group = [i // self.per_prompt for i in range(len(self.asked))]
        batch = ImageBatch(images, self.asked, records(self.asked), group)
        held = None
        with self.parts.ledger.phase("score"):
            proxy = self.proxy(batch)
            if self.held_out is not None:
                raw = self.held_out.panel(batch)
                if fit:
                    self.held_out.fit([raw])
                held = self.held_out.table(raw)
        return View(
            proxy.rewards.cpu(),
            proxy.reward_valid.cpu(),
            proxy.std.cpu(),
            None if held is None else held.rewards.cpu(),
            None if held is None else held.reward_valid.cpu(),
            image_statistics(images).cpu(),
            *variety(images, self.per_prompt),
        )


class Guard(Callback):
    """Looks every `guard.every` updates at the averaged adapter and does what the rules say.

    The best look is, of those with no signal out of bounds, the one with the highest held-out
    utility, or the last where nothing is held out; before any, the adapter as it began. Must come
    before the callback that writes checkpoints.
    """

    def __init__(
        self, run: RunDirectory, parts: Assembly, module: AlignmentModule, prompts: Sequence[str]
    ) -> None:
        self.module = module
        self.parts = parts
        self.rules = parts.config.guard.rules
        self.every = parts.config.guard.every
        self.book = MetricsLog(run.path / GUARD_FILE)
        self.probe = Probe(parts, prompts)
        self.base: View | None = None
        self.best = module.ema.snapshot()
        self.best_utility: Tensor | None = None
        self.tally = Tally.none(self.rules)
        self.stopped = False

    @torch.no_grad()
    def begin(self) -> None:
        """Look at the base model, once for a run."""
        self.base = self.probe.base()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = int(batch) + 1
        if step % self.every:
            return
        for name, value in {**self.look(step), "actions": float(sum(self.tally.acted))}.items():
            pl_module.log(f"guard/{name}", value, prog_bar=name == "actions", batch_size=1)
        trainer.should_stop = trainer.should_stop or self.stopped

    @torch.no_grad()
    def look(self, step: int) -> dict[str, float]:
        """Look, decide, act and log; return the worst reading of each signal."""
        if self.base is None:
            raise RuntimeError("the guard looks at the base model first: call `begin`")
        with self.module.ema.applied(self.parts.adapter):
            seen = self.probe.look()
        found = readings(seen, self.base, self.parts.config.names, self.best_utility)
        decisions, self.tally = decide(self.rules, found, self.tally)
        utility = held_out_utility(seen, self.base)
        if is_best(utility, self.best_utility, decisions, self.tally):
            self.best_utility, self.best = utility, self.module.ema.snapshot()
        for decision in decisions:
            for action in self.rules[decision.rule].do:
                self._act(action, decision)
        self.book.append(
            step,
            {
                "signals": {name: [asdict(one) for one in many] for name, many in found.items()},
                "decisions": [
                    {**decision.to_dict(), "do": self.rules[decision.rule].do}
                    for decision in decisions
                ],
                **self.levers(),
            },
        )
        return worst_of(found)

    def levers(self) -> dict[str, Any]:
        """Everything that actions may have changed, as it stands."""
        return {
            "pessimism": self.parts.bound.objective.pessimism,
            "kl_coef": self.module.collector.algorithm.settings.kl_coef,
            "shares": self.module.utility.shares.tolist(),
            "stopped": self.stopped,
        }

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that the next look depends on."""
        if self.base is None:
            raise RuntimeError("the guard looks at the base model first: call `begin`")
        held = self.probe.held_out
        tensors = {f"best/{name}": value for name, value in self.best.items()}
        tensors |= {f"reference/{name}": v for name, v in self.parts.sampler.anchor.items()}
        tensors |= {f"base/{k}": v for k, v in vars(self.base).items() if isinstance(v, Tensor)}
        if self.best_utility is not None:
            tensors["best_utility"] = self.best_utility
        plain = {
            **self.levers(),
            **asdict(self.tally),
            "distance": self.base.distance,
            "detail": self.base.detail,
            "held_out_statistics": {} if held is None else held.statistics,
        }
        return {"tensors": tensors, "plain": plain}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take everything up again, also what actions have changed elsewhere."""
        tensors, plain = state_dict["tensors"], state_dict["plain"]
        self.best = _under("best/", tensors)
        self.best_utility = tensors.get("best_utility")
        base = {"held_out": None, "held_out_valid": None, **_under("base/", tensors)}
        self.base = View(**base, distance=plain["distance"], detail=plain["detail"])
        self.tally = Tally(tuple(plain["held"]), tuple(plain["acted"]))
        self.stopped = plain["stopped"]
        if self.probe.held_out is not None:
            known = plain["held_out_statistics"].items()
            self.probe.held_out.statistics = {name: (mean, std) for name, (mean, std) in known}
        self.parts.sampler.anchor.update(_under("reference/", tensors))
        self._set_pessimism(plain["pessimism"])
        self._set_kl_coef(plain["kl_coef"])
        self.module.utility.shares = torch.tensor(plain["shares"])

    def _act(self, action: Action, decision: Decision) -> None:
        rule, utility = self.rules[decision.rule], self.module.utility
        match action:
            case "raise_pessimism":
                self._set_pessimism(self.parts.bound.objective.pessimism + rule.amount(action))
            case "raise_kl":
                now = self.module.collector.algorithm.settings.kl_coef
                self._set_kl_coef(now * rule.amount(action))
            case "lower_share":
                k = self.parts.config.names.index(decision.reading.of)
                utility.shares[k] *= rule.amount(action)
            case "refresh_reference":
                self.parts.sampler.anchor.update(self.best)
            case "roll_back":
                self._roll_back()
            case "stop":
                self._roll_back()
                self.stopped = True

    def _set_pessimism(self, pessimism: float) -> None:
        bound = self.parts.bound
        bound.objective = replace(bound.objective, pessimism=pessimism)

    def _set_kl_coef(self, kl_coef: float) -> None:
        algorithm = self.module.collector.algorithm
        settings = replace(algorithm.settings, kl_coef=kl_coef)
        self.module.collector.algorithm = replace(algorithm, settings=settings)

    def _roll_back(self) -> None:
        self.module.adapter.load_state_dict(self.best)
        self.module.ema.load_state_dict(self.best)
        self.module.collector.load_state_dict(self.best)
        # Moments of the way that is given up would lead back to it.
        self.module.optimiser.optimizer.state.clear()


def _label(weights: Sequence[float], names: Sequence[str]) -> str:
    return " ".join(f"{name}={w:.3g}" for name, w in zip(names, weights, strict=True) if w)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
