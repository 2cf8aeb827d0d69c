"""One call of a pipeline, with its arguments checked before any network runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from morl.diffusion.families import Family
from morl.diffusion.prompts import Conditioning
from morl.diffusion.trajectory import Call, argument_names, call_of
from morl.errors import PipelineError


@dataclass(frozen=True)
class Request:
    """What to draw: guidance >= 1 where it is classifier-free, `latents` in image layout.

    Raises ValueError for arguments out of range or of another batch, PipelineError for a scheduler
    that cannot be recorded.
    """

    pipe: DiffusionPipeline
    family: Family
    conditioning: Conditioning
    latents: Tensor
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}")
        if self.family.classifier_free and not self.guidance >= 1:
            raise ValueError(f"`guidance` must be >= 1, 1 being none; got {self.guidance}")
        check_rows("latents", self.latents, self.conditioning)
        found = type(self.pipe.scheduler).__name__
        if found != self.family.scheduler:
            raise PipelineError(
                f"{self.family.pipeline}: the scheduler must be {self.family.scheduler}, "
                f"got {found}; `morl.diffusion.loading.load_pipeline` sets it"
            )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the pipeline's call."""
        height, width = self.latents.shape[-2:]
        scale = self.pipe.vae_scale_factor
        embeddings = self.conditioning.arguments(self.family.groups(self.guidance) == 2)
        # Some pipelines cast given latents to this dtype and some do not.
        latents = self.latents.to(embeddings["prompt_embeds"].dtype)
        return {
            **embeddings,
            "latents": self.family.pack(latents),
            "height": height * scale,
            "width": width * scale,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            **self.family.call_arguments,
            "output_type": "latent",
            "return_dict": False,
        }


def check_rows(name: str, rows: Tensor, conditioning: Conditioning) -> None:
    """Raise ValueError unless a tensor has one row a prompt."""
    batch = len(conditioning)
    if len(rows) != batch:
        raise ValueError(f"`{name}` must have one row a prompt, {batch}; got {len(rows)}")


def first_call(
    pipe: DiffusionPipeline,
    family: Family,
    conditioning: Conditioning,
    latents: Float[Tensor, "batch channel height width"],
    *,
    guidance: float = 1.0,
) -> Call:
    """Return what the pipeline would give the denoiser first, without running the denoiser.

    It is the conditioning that `morl.diffusion.replay.denoise` needs for images that no rollout
    made. `latents` only set the size. Raises as `sample` does.
    """
    request = Request(pipe, family, conditioning, latents, 1, guidance)
    denoiser = family.denoiser_of(pipe)
    names = argument_names(family, denoiser)

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(call_of(family, names, len(conditioning), args, kwargs))

    hook = denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        pipe(**request.arguments())
    except _Reached as reached:
        return reached.call
    finally:
        hook.remove()
    raise PipelineError(f"{family.pipeline}: the pipeline never called its {family.denoiser}")


class _Reached(Exception):
    """Carries the first denoiser call out of the pipeline."""

    def __init__(self, call: Call) -> None:
        self.call = call
