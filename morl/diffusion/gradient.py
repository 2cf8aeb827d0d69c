"""Which denoiser calls of a sampling are differentiated, and how far their gradients reach."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GradientSteps:
    """The differentiated calls, as indices of sampler steps.

    through_latents: True follows the gradient also through the latents that the denoiser reads,
    which is exact and needs an unbroken run of steps up to the last; False cuts it there, so that
    every chosen call is credited through the scheduler's linear steps alone and any set will do.
    """

    steps: frozenset[int]
    through_latents: bool = True

    @property
    def first(self) -> int:
        """The first differentiated step; before it no gradient is kept."""
        return min(self.steps)

    def check(self, total: int) -> None:
        """Raise ValueError for steps that a sampling with `total` steps does not have."""
        chosen = sorted(self.steps)
        if not chosen or chosen[0] < 0 or chosen[-1] >= total:
            raise ValueError(
                f"gradient steps must lie in 0..{total - 1}, one at least; got {chosen}"
            )
        if self.through_latents and chosen != list(range(chosen[0], total)):
            raise ValueError(
                "a gradient through the latents needs every step from its first to the last, "
                f"{total - 1}; got {chosen}"
            )


def last_steps(total: int, count: int) -> GradientSteps:
    """The last `count` of `total` steps, differentiated in full (DRaFT-K, arXiv 2309.17400).

    Raises ValueError unless 1 <= count <= total.
    """
    if not 1 <= count <= total:
        raise ValueError(f"`last_steps` must lie in 1..{total} (`steps`); got {count}")
    return GradientSteps(frozenset(range(total - count, total)))


def drawn_steps(total: int, window: int, count: int, generator: torch.Generator) -> GradientSteps:
    """One step at random from each of `count` equal parts of the last `window` of `total` steps.

    Gradients stop at the latents that the denoiser reads. Raises ValueError unless
    1 <= count <= window <= total. Source: DRTune, arXiv 2405.00760, algorithm 1 (equally spaced
    steps with a random offset there; drawn part by part here, so that every step has its turn).
    """
    if not 1 <= count <= window <= total:
        raise ValueError(f"needs 1 <= count <= window <= total; got {count}, {window} and {total}")
    ends = torch.linspace(0, window, count + 1).round().long()
    share = torch.rand(count, generator=generator)
    inside = ends[:-1] + (share * (ends[1:] - ends[:-1])).long()
    chosen = (total - window + inside).tolist()
    return GradientSteps(frozenset(chosen), through_latents=False)
