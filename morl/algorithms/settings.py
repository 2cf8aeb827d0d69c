"""Hyperparameters of every algorithm, without importing torch: meaning, range, default, source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from morl.option import option

DDPO = "DDPO, arXiv 2305.13301"
DRAFT = "DRaFT, arXiv 2309.17400"
DRTUNE = "DRTune, arXiv 2405.00760"
NFT = "DiffusionNFT, arXiv 2509.16117"
FLOW_GRPO = "Flow-GRPO, arXiv 2505.05470"


@dataclass(frozen=True)
class Evaluations:
    """Network evaluations that one update spends on each of its images.

    `forward`: without gradient, the sampling steps included; `backward`: forward and backward;
    `kept`: how many of the latter wait for the same backward pass; `decoded`: finished latents that
    a gradient passes the decoder of.
    """

    forward: float
    backward: float
    kept: int = 1
    decoded: int = 0


@dataclass(frozen=True)
class DraftSettings:
    """DRaFT-K; DRaFT-LV with `renoise_copies` at one last step; DRTune with `drawn_steps`."""

    name: ClassVar[str] = "draft"
    group_size: ClassVar[int] = 1
    weights_per_prompt: ClassVar[int] = 1

    last_steps: int = option(
        1,
        "sampler steps that carry gradients, counted from the end (K)",
        low=1,
        source=f"{DRAFT}: K = 1 is the best trade-off; large K explodes without clipping",
    )
    drawn_steps: int = option(
        0,
        "of the last K steps, how many are differentiated, drawn anew at each update, with "
        "gradients that stop at the latents the denoiser reads (DRTune); 0 differentiates all K "
        "in full",
        low=0,
        source=f"{DRTUNE}: 5 of 50",
    )
    renoise_copies: int = option(
        2,
        "fresh re-noisings of each finished image at the last step (LV); needs last_steps = 1",
        low=0,
        source=f"{DRAFT}: n = 2",
    )
    kl_coef: float = option(
        0.0,
        "weight of the squared distance between the predictions of adapter and base, at the "
        "steps that carry gradients",
        unit="utility per unit of predicted noise squared",
        low=0,
        source="ours; DRaFT has none",
    )

    def problems(self, steps: int) -> list[str]:
        """Name the combinations that mean nothing when sampling with `steps` steps."""
        found = []
        if self.last_steps > steps:
            found.append(
                f"algorithm.last_steps: must be at most base.steps = {steps}; got {self.last_steps}"
            )
        if self.drawn_steps > self.last_steps:
            found.append(
                f"algorithm.drawn_steps: must be at most algorithm.last_steps = {self.last_steps}; "
                f"got {self.drawn_steps}"
            )
        if self.renoise_copies and self.last_steps > 1:
            found.append(
                "algorithm.renoise_copies: re-noised copies exist for the last step alone; set "
                f"last_steps: 1 or renoise_copies: 0 (got {self.last_steps} and "
                f"{self.renoise_copies})"
            )
        return found

    def evaluations(self, steps: int) -> Evaluations:
        sampled = self.drawn_steps or self.last_steps
        trained = sampled + self.renoise_copies
        reference = trained if self.kl_coef else 0
        return Evaluations(
            forward=steps - sampled + reference,
            backward=trained,
            kept=trained,
            decoded=1 + self.renoise_copies,
        )


@dataclass(frozen=True)
class PolicyGradientSettings:
    """Clipped policy gradient on recorded trajectories, with (prompt, weight vector) groups."""

    name: ClassVar[str] = "policy_gradient"

    group_size: int = option(
        8,
        "images that share prompt and weight vector; each is compared with the others",
        low=2,
        source=f"{FLOW_GRPO}: 24 on 32 GPUs, 8 in its preset for one GPU",
    )
    weights_per_prompt: int = option(
        2,
        "weight vectors that share a prompt in one batch: their contrast teaches the slider",
        low=1,
        source="ParetoSlider, arXiv 2604.20816: 3",
    )
    eta: float = option(
        1.0,
        "noise level of the sampler while training; 0 would have no log-probabilities",
        above=0,
        high=1,
        source=f"{DDPO}: 1",
    )
    noise_steps: int | None = option(
        None,
        "steps from the start that draw noise and are trained; the later ones are deterministic, "
        "which keeps their noise out of the image; all of them where omitted",
        low=1,
        source="MixGRPO, arXiv 2507.21802: 4 of 25, in a window that moves",
    )
    clip_range: float = option(
        1.64,
        "trust region of the log-ratio of one step, of the whole latent; divided by its number "
        "of elements where log-probabilities are element means",
        unit="nats",
        above=0,
        source=f"{DDPO}: 1e-4 of the mean over 16,384 elements",
    )
    advantage_clip: float = option(
        5.0, "bound on each advantage", unit="base standard deviations", above=0, source=DDPO
    )
    inner_epochs: int = option(1, "updates on one recorded batch", low=1, source=DDPO)
    timestep_fraction: float = option(
        1.0,
        "share of the steps with a log-probability that is trained, drawn anew for each batch",
        above=0,
        high=1,
        source=f"{DDPO}: 1; DanceGRPO, arXiv 2505.07818: 0.6",
    )
    kl_coef: float = option(
        0.0,
        "weight of the Gaussian KL of a step to the base model, mean over elements",
        unit="advantage per nat and element",
        low=0,
        source=f"{DDPO}: 0; coefficients of other conventions do not carry over",
    )

    def problems(self, steps: int) -> list[str]:
        """Name the combinations that mean nothing when sampling with `steps` steps."""
        if self.timestep_fraction * steps < 1:
            return [
                f"algorithm.timestep_fraction: {self.timestep_fraction} of {steps} steps is less "
                f"than one step; the least is {1 / steps:.3g}"
            ]
        if self.noise_steps is not None and self.noise_steps > steps:
            return [
                f"algorithm.noise_steps: must be at most base.steps = {steps}; "
                f"got {self.noise_steps}"
            ]
        return []

    def evaluations(self, steps: int) -> Evaluations:
        chosen = max(1, int(self.timestep_fraction * steps))
        trained = min(chosen, self.noise_steps or steps) * self.inner_epochs
        reference = trained if self.kl_coef else 0
        return Evaluations(forward=steps + reference, backward=trained)


@dataclass(frozen=True)
class NFTSettings:
    """DiffusionNFT: regression on finished images, contrasted by their advantage."""

    name: ClassVar[str] = "nft"

    group_size: int = option(
        8,
        "images that share prompt and weight vector; each is compared with the others",
        low=2,
        source=f"{NFT}: 24 on 8 GPUs",
    )
    weights_per_prompt: int = option(
        2,
        "weight vectors that share a prompt in one batch: their contrast teaches the slider",
        low=1,
        source="ParetoSlider, arXiv 2604.20816: 3",
    )
    noise_draws: int = option(
        4,
        "noised copies of each finished image in one update",
        low=1,
        source=f"{NFT}: one at each sampling step",
    )
    beta: float = option(
        1.0,
        "how far the implicit positive and negative denoisers lie from the sampling adapter; "
        "small values take larger steps",
        above=0,
        high=1,
        source=f"{NFT}: 1 for one reward, 0.1 for several",
    )
    advantage_clip: float = option(
        5.0,
        "bound on each advantage; an advantage at the bound is all positive or all negative",
        unit="base standard deviations",
        above=0,
        source=NFT,
    )
    old_decay_slope: float = option(
        0.001,
        "growth per update of the share of the sampling adapter that is kept",
        unit="1 / update",
        low=0,
        source=f"{NFT}: decay min(0.001 step, 0.5)",
    )
    old_decay_max: float = option(
        0.5, "largest share of the sampling adapter that is kept", low=0, below=1, source=NFT
    )
    kl_coef: float = option(
        1e-4,
        "weight of the squared distance between the clean-latent predictions of adapter and base",
        low=0,
        source=f"{NFT}: 1e-4 between velocities",
    )
    relabel_radius: float = option(
        0.0,
        "every second noised copy is trained for a weight vector that lies at most this far from "
        "the one its image was asked for",
        unit="L1 distance on the simplex",
        low=0,
        high=2,
        source="off: it has not been shown to help",
    )

    def problems(self, steps: int) -> list[str]:
        """Name the combinations that mean nothing when sampling with `steps` steps."""
        del steps  # the regression does not look at the sampler
        if self.relabel_radius and self.noise_draws < 2:
            return [
                f"algorithm.noise_draws: {self.noise_draws} leaves no second copy to relabel; "
                "set it to 2 or more, or algorithm.relabel_radius to 0"
            ]
        return []

    def evaluations(self, steps: int) -> Evaluations:
        # The old adapter's prediction and, for the pull, the base model's, at every draw.
        extra = self.noise_draws * (2 if self.kl_coef else 1)
        return Evaluations(forward=steps + extra, backward=self.noise_draws)


AlgorithmSettings = DraftSettings | PolicyGradientSettings | NFTSettings
