"""The toolkit's guard, run by run: its own signals, rules and decisions, on samples of a vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from experiments.overoptimization.arms import Arm, value
from experiments.overoptimization.learners import inputs_of
from experiments.overoptimization.policies import Policies, RunAdam, rollout
from experiments.overoptimization.proxies import Proxies
from experiments.overoptimization.world import DIM, PROMPTS, prompt_means, step_noise
from morl.errors import ConfigError
from morl.guard.readings import STATISTICS, Look, View, held_out_utility, is_best, readings
from morl.guard.rules import Tally, decide
from morl.guard.settings import Action, GuardConfig

NAME = "reward"
SETTINGS = GuardConfig()
EACH = SETTINGS.images_per_prompt
"""Samples of each of the 16 prompts at a look of the guard: the toolkit's defaults."""


@dataclass
class Levers:
    """What the guard may change in each run."""

    pessimism: Float[Tensor, " run"]
    kl_coef: Float[Tensor, " run"]
    active: Bool[Tensor, " run"]

    @classmethod
    def of(cls, runs: int, pessimism: float, kl_coef: float) -> Levers:
        return cls(
            torch.full((runs,), pessimism),
            torch.full((runs,), kl_coef),
            torch.ones(runs, dtype=torch.bool),
        )


@dataclass(frozen=True)
class Alarm:
    """A rule that acted at a look of a run, with the true reward before and after it acted.

    back_to: the look whose parameters were best until then, 0 for the base.
    """

    look: int
    run: int
    signal: str
    reading: float
    do: tuple[Action, ...]
    back_to: int
    before: float = 0.0
    after: float = 0.0


class Watch:
    """Looks at every run as the toolkit's guard does, and does what the rules say.

    A rule whose signal cannot be read here (images' statistics and fine detail) never acts. Where
    a run has no ensemble, disagreement cannot be read either. Raises ConfigError for rules that the
    toolkit would refuse, ValueError for actions that mean nothing with one objective.
    """

    def __init__(
        self,
        proxies: Proxies,
        arm: Arm,
        policies: Policies,
        optimiser: RunAdam,
        levers: Levers,
    ) -> None:
        self.proxies, self.arm = proxies, arm
        self.policies, self.optimiser, self.levers = policies, optimiser, levers
        if not arm.rules:
            return
        _require_possible(arm)
        runs = policies.runs
        self.means = prompt_means().repeat_interleave(EACH, dim=0).repeat(runs, 1, 1)
        seeds = [case.seed for case in proxies.cases]
        noise = {seed: step_noise(seed, 0, "guard", PROMPTS * EACH) for seed in set(seeds)}
        self.noise = torch.cat([noise[seed] for seed in seeds], dim=1)
        self.base = self._views()
        self.best = policies.snapshot()
        self.best_look = [0] * runs
        self.best_utility: list[Tensor | None] = [None] * runs
        self.tallies = [Tally.none(arm.rules)] * runs

    @torch.no_grad()
    def look(self, number: int) -> list[Alarm]:
        """Look at every run that goes on and act; `number` counts the looks from 1."""
        if not self.arm.rules:
            return []
        alarms = list[Alarm]()
        for run, view in enumerate(self._views()):
            if self.levers.active[run]:
                alarms += self._look(number, run, view)
        return alarms

    def _look(self, number: int, run: int, view: View) -> list[Alarm]:
        seen = Look(torch.ones(1, 1), (NAME,), (view,))
        found = readings(seen, self.base[run], (NAME,), self.best_utility[run])
        decisions, self.tallies[run] = decide(self.arm.rules, found, self.tallies[run])
        utility = held_out_utility(seen, self.base[run])
        if is_best(utility, self.best_utility[run], decisions, self.tallies[run]):
            self.best_utility[run], self.best_look[run] = utility, number
            for name, value in self.policies.named_parameters():
                self.best[name][run] = value[run]
        alarms = []
        for decision in decisions:
            rule, evidence = self.arm.rules[decision.rule], decision.reading.value
            back_to = self.best_look[run]
            alarms.append(Alarm(number, run, decision.signal, evidence, tuple(rule.do), back_to))
            for action in rule.do:
                self._act(action, rule.amount, run)
        return alarms

    def _act(self, action: Action, amount: Callable[[Action], float], run: int) -> None:
        match action:
            case "raise_pessimism":
                self.levers.pessimism[run] += amount(action)
            case "raise_kl":
                self.levers.kl_coef[run] *= amount(action)
            case "roll_back":
                self._roll_back(run)
            case "stop":
                self._roll_back(run)
                self.levers.active[run] = False

    def _roll_back(self, run: int) -> None:
        chosen = torch.zeros(self.policies.runs, dtype=torch.bool)
        chosen[run] = True
        self.policies.restore(self.best, chosen)
        self.optimiser.forget(chosen)

    @torch.no_grad()
    def _views(self) -> list[View]:
        shape = (self.policies.runs, PROMPTS * EACH, DIM)
        drawn = rollout(self.policies, self.means, self.noise, through_latents=False)
        samples, centres = drawn.final.view(shape), self.means.mean(dim=1).view(shape)
        inputs = inputs_of(samples, centres)
        proxy, std = value(self.proxies, self.arm, inputs)
        kind = self.arm.held_out
        held_out = None if kind is None else self.proxies.held_out[kind].score(inputs)
        # As `morl.guard.signals.group_distance`, without an image to shrink first.
        distance = 2 * samples.unflatten(1, (PROMPTS, EACH)).var(dim=2).mean(dim=(1, 2))
        valid = torch.ones(PROMPTS * EACH, 1, dtype=torch.bool)
        flat = torch.zeros(PROMPTS * EACH, len(STATISTICS))  # no images: nothing to be read
        return [
            View(
                proxy[run, :, None],
                valid,
                std[run, :, None],
                None if held_out is None else held_out[run],
                None if held_out is None else valid,
                flat,
                float(distance[run]),
                detail=0.0,
            )
            for run in range(self.policies.runs)
        ]


def _require_possible(arm: Arm) -> None:
    held_out: dict[str, str] = {} if arm.held_out is None else {NAME: arm.held_out}
    settings = GuardConfig(every=1, held_out=held_out, rules=list(arm.rules))
    if problems := list(settings.problems([NAME], arm.kl_coef)):
        raise ConfigError("; ".join(problems))
    asked = {action for rule in arm.rules for action in rule.do}
    if beyond := sorted(asked & {"lower_share", "refresh_reference"}):
        raise ValueError(f"with one objective and a fixed base there is no {', '.join(beyond)}")
