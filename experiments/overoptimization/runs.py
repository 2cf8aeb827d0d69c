"""Train the policies of a batch of cases against one cure, and look at the truth on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.overoptimization.arms import Arm, value
from experiments.overoptimization.gate import kl_gate
from experiments.overoptimization.learners import inputs_of
from experiments.overoptimization.policies import Policies, Rollout, RunAdam, rollout
from experiments.overoptimization.proxies import Proxies
from experiments.overoptimization.watch import Alarm, Levers, Watch
from experiments.overoptimization.world import (
    DIM,
    PROMPTS,
    STEPS,
    drawn_prompts,
    prompt_means,
    step_noise,
)
from morl.algorithms.advantages import group_advantages
from morl.algorithms.draft import draft_loss
from morl.algorithms.policy_gradient import PolicyGradient
from morl.algorithms.settings import PolicyGradientSettings

Method = Literal["policy_gradient", "reward_gradient"]
METHODS: tuple[Method, ...] = ("policy_gradient", "reward_gradient")
UPDATES = 120
EVERY = 5  # updates between looks, of the guard and at the truth
LEARNING_RATE = {"policy_gradient": 3e-3, "reward_gradient": 1e-3}
GROUPS, GROUP_SIZE = 8, 4  # of an update: different prompts, samples of each
JUDGED = 16  # samples of each prompt at a look, half of them to choose by and half to measure on
JUDGING_SEED = 1_000_000
# A run's own kl_coef stands in the KL already, as it may differ between the runs of a batch.
POLICY_GRADIENT = PolicyGradient(PolicyGradientSettings(group_size=GROUP_SIZE, kl_coef=1.0))


@dataclass(frozen=True)
class Curves:
    """What looks at the policies saw, the untouched base first; gold and proxy in base std.

    chosen, measured: mean gold on the two halves of the judged samples. kl: nats of a trajectory.
    """

    updates: tuple[int, ...]
    proxy: Float[Tensor, "look run"]
    chosen: Float[Tensor, "look run"]
    measured: Float[Tensor, "look run"]
    kl: Float[Tensor, "look run"]
    alarms: tuple[Alarm, ...]


def train(
    proxies: Proxies, arm: Arm, method: Method, updates: int = UPDATES, every: int = EVERY
) -> Curves:
    """Train all cases side by side; each as if it were alone, with the draws of its own seed."""
    seeds = [case.seed for case in proxies.cases]
    policies = Policies(seeds)
    optimiser = RunAdam(policies, LEARNING_RATE[method])
    levers = Levers.of(len(seeds), arm.pessimism, arm.kl_coef)
    watch = Watch(proxies, arm, policies, optimiser, levers)
    seen, alarms = [judge(policies, proxies, arm)], list[Alarm]()
    for update in range(1, updates + 1):
        means, noise = _questions(seeds, update)
        through = method == "reward_gradient"
        drawn = rollout(policies, means, noise, through_latents=through)
        loss = _loss(drawn, means.mean(dim=1), proxies, arm, levers, method)
        optimiser.step(loss, levers.active)
        if update % every:
            continue
        before = now = judge(policies, proxies, arm)
        if raised := watch.look(len(seen)):
            now = judge(policies, proxies, arm)
        gold = [(look[1] + look[2]) / 2 for look in (before, now)]
        alarms += [
            replace(alarm, before=float(gold[0][alarm.run]), after=float(gold[1][alarm.run]))
            for alarm in raised
        ]
        seen.append(now)
    proxy, chosen, measured, kl = (torch.stack(column) for column in zip(*seen, strict=True))
    marks = tuple(every * number for number in range(len(seen)))
    return Curves(marks, proxy, chosen, measured, kl, tuple(alarms))


@torch.no_grad()
def judge(policies: Policies, proxies: Proxies, arm: Arm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean proxy, gold on either half, and KL of each run, on noise that all runs share."""
    count = PROMPTS * JUDGED
    means = prompt_means().repeat_interleave(JUDGED, dim=0).repeat(policies.runs, 1, 1)
    noise = step_noise(JUDGING_SEED, 0, "judge", count).repeat(1, policies.runs, 1)
    drawn = rollout(policies, means, noise, through_latents=False)
    samples, centres = (x.view(policies.runs, count, DIM) for x in (drawn.final, means.mean(dim=1)))
    true = proxies.gold(samples, centres).unflatten(1, (PROMPTS, JUDGED))
    half = JUDGED // 2
    proxy, _ = value(proxies, arm, inputs_of(samples, centres))
    kl = drawn.kl.sum(dim=0).view(policies.runs, count).mean(dim=1)
    return (
        proxy.mean(dim=1),
        true[:, :, :half].mean(dim=(1, 2)),
        true[:, :, half:].mean(dim=(1, 2)),
        kl,
    )


def _loss(
    drawn: Rollout,
    centres: Float[Tensor, "rows dim"],
    proxies: Proxies,
    arm: Arm,
    levers: Levers,
    method: Method,
) -> Float[Tensor, ""]:
    """The sum over runs of each run's loss, by the toolkit's own loss of the method."""
    runs = len(levers.active)
    inputs = inputs_of(drawn.final, centres).view(runs, -1, 2 * DIM)
    mean, std = value(proxies, arm, inputs)
    utility = mean - levers.pessimism[:, None] * std
    coefficient = levers.kl_coef[:, None].expand_as(utility)
    if arm.gate:
        with torch.no_grad():
            others = proxies.bootstraps.score(inputs)
            coefficient = coefficient * kl_gate(utility, others, arm.gate)
    coefficient = coefficient.flatten()
    if method == "reward_gradient":
        return draft_loss(utility.flatten(), coefficient * drawn.kl.sum(dim=0), 1.0).loss * runs
    flat = utility.detach().reshape(-1, 1)
    group = torch.arange(len(flat)) // GROUP_SIZE
    clip = POLICY_GRADIENT.advantage_clip
    advantages = group_advantages(flat, torch.ones_like(flat).bool(), group, clip)[:, 0]
    # All steps in one loss: its mean over steps and samples is the toolkit's step by step.
    output = POLICY_GRADIENT.loss(
        drawn.log_probs.flatten(),
        drawn.log_probs.detach().flatten(),
        advantages.repeat(STEPS),
        (coefficient * drawn.kl / DIM).flatten(),
        DIM,
    )
    return output.loss * runs


def _questions(
    seeds: Sequence[int], update: int
) -> tuple[Float[Tensor, "rows component dim"], Float[Tensor, "level rows dim"]]:
    """The mixtures and the noise of an update; runs of one seed are asked the same."""
    prompts = {s: drawn_prompts(s, update, GROUPS, GROUP_SIZE) for s in set(seeds)}
    noise = {s: step_noise(s, update, "train", GROUPS * GROUP_SIZE) for s in set(seeds)}
    rows = torch.cat([prompts[seed] for seed in seeds])
    return prompt_means()[rows], torch.cat([noise[seed] for seed in seeds], dim=1)
