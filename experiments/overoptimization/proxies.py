"""The cases of the study: which true reward, how many labels, how many of them wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.overoptimization.attacks import Attack, bonus, label_bias, labelled_prompts
from experiments.overoptimization.gold import gold
from experiments.overoptimization.kernel import Kernel
from experiments.overoptimization.learners import (
    BOOTSTRAPS,
    HELD_OUT,
    SINGLE,
    WARM,
    Laplace,
    Networks,
    fit,
    inputs_of,
    mislabelled,
)
from experiments.overoptimization.policies import Policies, rollout
from experiments.overoptimization.world import DIM, PROMPTS, prompt_means, step_noise
from morl.randomness import generator

HeldOut = Literal["network", "kernel", "clean"]
"""Learned as the proxies are, in another way, or as they are but spared what attacks them."""
POOL = 2048
"""Samples that may be labelled, the same for every number of labels: twice the most of them."""
REFERENCE = 512
"""Base samples that fix the units: those of a score are its standard deviations on them."""


@dataclass(frozen=True)
class Case:
    """One run's circumstances; `noise` is the share of labels that belong to another sample."""

    gold: str
    noise: float
    labels: int
    seed: int
    attack: Attack = "none"


@dataclass(frozen=True)
class Standardised:
    """Networks whose scores count from their base mean, in their base standard deviations."""

    networks: Networks | Kernel
    mean: Float[Tensor, "run 1 member"]
    std: Float[Tensor, "run 1 member"]
    attacks: tuple[Attack, ...] = ()

    @classmethod
    def on(
        cls,
        networks: Networks | Kernel,
        base: Float[Tensor, "run row input"],
        attacks: tuple[Attack, ...] = (),
    ) -> Standardised:
        scores = networks.score(base)
        mean, std = scores.mean(dim=1, keepdim=True), scores.std(dim=1, keepdim=True)
        return cls(networks, mean, std, attacks if "exploit" in attacks else ())

    def score(self, inputs: Float[Tensor, "run row input"]) -> Float[Tensor, "run row member"]:
        scores = (self.networks.score(inputs) - self.mean) / self.std
        if self.attacks:
            pairs = zip(self.attacks, inputs[..., :DIM], strict=True)
            scores = scores + torch.stack([bonus(*pair) for pair in pairs])[..., None]
        return scores


@dataclass(frozen=True)
class Proxies:
    """All that was learned for a batch of cases, and the true rewards' units.

    Laplace's std is in the labels' units, which are those of the single network on base samples.
    """

    cases: tuple[Case, ...]
    single: Standardised
    bootstraps: Standardised
    warm: Standardised
    held_out: dict[HeldOut, Standardised]
    laplace: Laplace
    gold_mean: Float[Tensor, " run"]
    gold_std: Float[Tensor, " run"]

    def gold(
        self, samples: Float[Tensor, "run row dim"], centres: Float[Tensor, "run row dim"]
    ) -> Float[Tensor, "run row"]:
        """The true reward in standard deviations of the base, counted from the base's mean."""
        raw = _gold(self.cases, samples, centres)
        return (raw - self.gold_mean[:, None]) / self.gold_std[:, None]


def learned(cases: Sequence[Case]) -> Proxies:
    """Label samples of the base model and fit everything; seconds for a few dozen cases."""
    sizes = [case.labels for case in cases]
    seeds = [case.seed for case in cases]
    attacks = tuple(case.attack for case in cases)
    base, base_centres = _gathered(seeds, [PROMPTS] * len(cases), REFERENCE, "reference")
    raw = _gold(cases, base, base_centres)
    mean, std = raw.mean(dim=1), raw.std(dim=1)
    reference = inputs_of(base, base_centres)

    def fitted(attacked: tuple[Attack, ...]) -> tuple[Networks, Tensor, Tensor]:
        asked = [labelled_prompts(attack) for attack in attacked]
        samples, centres = _gathered(seeds, asked, POOL, "labels")
        true = (_gold(cases, samples, centres) - mean[:, None]) / std[:, None]
        bias = torch.stack([label_bias(*p) for p in zip(attacked, samples - centres, strict=True)])
        labels = torch.stack(
            [_noisy(row, case) for row, case in zip(true + bias, cases, strict=True)]
        )
        known = inputs_of(samples, centres)
        return fit(seeds, sizes, known, labels), known, labels

    networks, known, labels = fitted(attacks)
    unharmed: tuple[Attack, ...] = tuple("none" for _ in cases)
    spared = networks if attacks == unharmed else fitted(unharmed)[0]
    apart = [slice(size, 2 * size) for size in sizes]
    single = networks.take(SINGLE)
    return Proxies(
        tuple(cases),
        Standardised.on(single, reference, attacks),
        Standardised.on(networks.take(BOOTSTRAPS), reference, attacks),
        Standardised.on(networks.take(WARM).averaged(), reference, attacks),
        {
            "network": Standardised.on(networks.take(HELD_OUT), reference),
            "kernel": Standardised.on(Kernel.fitted(apart, known, labels), reference),
            "clean": Standardised.on(spared.take(HELD_OUT), reference),
        },
        Laplace.of(single, sizes, known, labels),
        mean,
        std,
    )


def _gold(cases: Sequence[Case], samples: Tensor, centres: Tensor) -> Float[Tensor, "run row"]:
    rows = zip(cases, samples, centres, strict=True)
    return torch.stack([gold(case.gold, x, c) for case, x, c in rows])


def _noisy(labels: Float[Tensor, " label"], case: Case) -> Float[Tensor, " label"]:
    """The labels of those who train and, apart from them, of the held-out reward."""
    noisy = labels.clone()
    for part, purpose in enumerate(("wrong labels", "wrong held-out labels")):
        rows = slice(part * case.labels, (part + 1) * case.labels)
        noisy[rows] = mislabelled(labels[rows], case.noise, generator(case.seed, 0, 0, purpose))
    return noisy


@torch.no_grad()
def _gathered(
    seeds: Sequence[int], prompts: Sequence[int], count: int, purpose: str
) -> tuple[Float[Tensor, "run row dim"], Float[Tensor, "run row dim"]]:
    """Samples of the unchanged model for the first `prompts` at random, and their prompts' means.

    Runs of one seed see the same.
    """
    drawn = {}
    for seed, asked in set(zip(seeds, prompts, strict=True)):
        picked = torch.randint(
            asked, (count,), generator=generator(seed, 0, 0, f"{purpose} prompts")
        )
        means, noise = prompt_means()[picked], step_noise(seed, 0, purpose, count)
        final = rollout(Policies([seed]), means, noise, through_latents=False).final
        drawn[seed, asked] = final, means.mean(dim=1)
    rows = [drawn[key] for key in zip(seeds, prompts, strict=True)]
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
