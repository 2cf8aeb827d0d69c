"""What the package must know of each pipeline class; a new family is one entry of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from morl.errors import PipelineError


@dataclass(frozen=True)
class Family:
    """Facts of one pipeline class; every one is checked against what the pipeline really does.

    pipeline: class name, or that of a base class. denoiser: its attribute. scheduler: diffusers
    class of its steps. sample_argument: the denoiser's name for the noisy latents.
    timestep_divisor: denoiser timestep = scheduler timestep / divisor. per_sample: denoiser
    arguments with one row a sample (all entries of a nested dict). encoded: what `encode_prompt`
    returns, in order, by the pipeline's argument names (None: not passed on). encode_arguments:
    its other arguments; call_arguments: those of the pipeline's call. classifier_free: whether
    guidance > 1 doubles the batch to [unconditional..., conditional...] and combines
    u + guidance (c - u); else guidance is an input of the network. fp32_guidance: whether
    predictions become fp32 before they are combined. patch: side of the squares that are packed
    into one token before the denoiser. default_size: (height, width) of the latents.
    """

    pipeline: str
    denoiser: str
    scheduler: str
    sample_argument: str
    per_sample: frozenset[str]
    encoded: tuple[str | None, ...]
    default_size: Callable[[DiffusionPipeline], tuple[int, int]]
    encode_arguments: Mapping[str, Any] = field(default_factory=dict)
    call_arguments: Mapping[str, Any] = field(default_factory=dict)
    timestep_divisor: float = 1.0
    classifier_free: bool = True
    fp32_guidance: bool = False
    patch: int = 1

    def denoiser_of(self, pipe: DiffusionPipeline) -> nn.Module:
        """Return the network that is adapted, recorded and replayed."""
        module: nn.Module = getattr(pipe, self.denoiser)
        return module

    def groups(self, guidance: float) -> int:
        """Rows of the denoiser batch for each sample."""
        return 2 if self.classifier_free and guidance > 1 else 1

    def combine(
        self, output: Float[Tensor, "rows ..."], groups: int, guidance: float
    ) -> Float[Tensor, "batch ..."]:
        """The declared guidance formula: u + guidance (c - u), in the pipeline's own order."""
        if self.fp32_guidance:
            output = output.float()
        if groups == 1:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def pack(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch ..."]:
        """From image layout to the denoiser's: [B,C,h,w], or [B, h w / p^2, C p^2] tokens."""
        if self.patch == 1:
            return latents
        b, c, h, w = latents.shape
        p = self.patch
        squares = latents.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
        return squares.reshape(b, (h // p) * (w // p), c * p * p)

    def unpack(
        self, latents: Float[Tensor, "batch ..."], height: int, width: int
    ) -> Float[Tensor, "batch channel height width"]:
        """Undo `pack`; `height` and `width` are those of the latents in image layout."""
        if self.patch == 1:
            return latents
        b, p = latents.shape[0], self.patch
        squares = latents.reshape(b, height // p, width // p, -1, p, p).permute(0, 3, 1, 4, 2, 5)
        return squares.reshape(b, -1, height, width)


MASKED = ("prompt_embeds", "prompt_attention_mask")

FAMILIES = (
    Family(
        pipeline="StableDiffusionPipeline",
        denoiser="unet",
        scheduler="DDIMScheduler",
        sample_argument="sample",
        per_sample=frozenset({"encoder_hidden_states", "timestep_cond"}),
        encoded=("prompt_embeds", "negative_prompt_embeds"),
        default_size=lambda pipe: _pair(pipe.unet.config.sample_size),
    ),
    Family(
        pipeline="StableDiffusionXLPipeline",
        denoiser="unet",
        scheduler="DDIMScheduler",
        sample_argument="sample",
        per_sample=frozenset({"encoder_hidden_states", "timestep_cond", "added_cond_kwargs"}),
        encoded=(
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        ),
        default_size=lambda pipe: _pair(pipe.unet.config.sample_size),
    ),
    Family(
        pipeline="StableDiffusion3Pipeline",
        denoiser="transformer",
        scheduler="FlowMatchEulerDiscreteScheduler",
        sample_argument="hidden_states",
        per_sample=frozenset({"encoder_hidden_states", "pooled_projections"}),
        encoded=(
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        ),
        encode_arguments={"prompt_2": None, "prompt_3": None},
        default_size=lambda pipe: _pair(pipe.transformer.config.sample_size),
    ),
    Family(
        pipeline="FluxPipeline",
        denoiser="transformer",
        scheduler="FlowMatchEulerDiscreteScheduler",
        sample_argument="hidden_states",
        per_sample=frozenset({"encoder_hidden_states", "pooled_projections", "guidance"}),
        encoded=("prompt_embeds", "pooled_prompt_embeds", None),
        encode_arguments={"prompt_2": None},
        default_size=lambda pipe: _pair(pipe.default_sample_size),
        timestep_divisor=1000.0,
        classifier_free=False,
        patch=2,
    ),
    Family(
        pipeline="SanaPipeline",
        denoiser="transformer",
        scheduler="FlowMatchEulerDiscreteScheduler",
        sample_argument="hidden_states",
        per_sample=frozenset({"encoder_hidden_states", "encoder_attention_mask"}),
        encoded=(*MASKED, *(f"negative_{name}" for name in MASKED)),
        # Prompts are encoded as they stand, without the instruction that asks to enhance them.
        call_arguments={"use_resolution_binning": False, "negative_prompt": None},
        default_size=lambda pipe: _pair(pipe.transformer.config.sample_size),
        fp32_guidance=True,
    ),
    Family(
        pipeline="AuraFlowPipeline",
        denoiser="transformer",
        scheduler="FlowMatchEulerDiscreteScheduler",
        sample_argument="hidden_states",
        per_sample=frozenset({"encoder_hidden_states"}),
        encoded=(*MASKED, *(f"negative_{name}" for name in MASKED)),
        default_size=lambda pipe: _pair(pipe.transformer.config.sample_size),
        timestep_divisor=1000.0,
    ),
)


def family_of(pipe: DiffusionPipeline) -> Family:
    """Return the family of a pipeline, by its class or the nearest known base class.

    Raises PipelineError for an unknown class, and for a denoiser whose input is more than latents
    (inpainting, depth), naming the known classes.
    """
    known = {family.pipeline: family for family in FAMILIES}
    for base in type(pipe).__mro__:
        if base.__name__ in known and base.__module__.startswith("diffusers."):
            family = known[base.__name__]
            _refuse_extra_channels(pipe, family)
            return family
    raise PipelineError(
        f"pipeline class {type(pipe).__name__} is not supported; known: {', '.join(known)}"
    )


def latent_channels(pipe: DiffusionPipeline, family: Family) -> int:
    """Return the channels of the latents in image layout."""
    return int(getattr(pipe, family.denoiser).config.in_channels) // family.patch**2


def decode(
    pipe: DiffusionPipeline, latents: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch 3 pixel_row pixel_column"]:
    """Decode latents in image layout to images in [0, 1], differentiably, as one batch.

    The clamp to [0, 1] passes gradients straight through: a plain clamp has none in saturated
    pixels, which a reward could then never move back. Latents are cast to the autoencoder's dtype
    (keep it fp32: the SDXL autoencoder overflows in fp16).
    """
    config = pipe.vae.config
    latents = latents.to(pipe.vae.dtype) / config.scaling_factor
    mean, std, shift = (config.get(key) for key in ("latents_mean", "latents_std", "shift_factor"))
    if mean is not None and std is not None:
        column = (1, -1, 1, 1)
        latents = latents * latents.new_tensor(std).view(column)
        latents = latents + latents.new_tensor(mean).view(column)
    elif shift is not None:
        latents = latents + shift
    pixels = pipe.vae.decode(latents, return_dict=False)[0]
    images: Tensor = _StraightThroughClamp.apply(pixels / 2 + 0.5)
    return images


class _StraightThroughClamp(torch.autograd.Function):
    """Clamp to [0, 1] forward, identity backward."""

    @staticmethod
    def forward(_context: Any, images: Tensor) -> Tensor:
        return images.clamp(0, 1)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient


def _pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def _refuse_extra_channels(pipe: DiffusionPipeline, family: Family) -> None:
    found, expected = latent_channels(pipe, family), int(pipe.vae.config.latent_channels)
    if found != expected:
        raise PipelineError(
            f"{family.pipeline}: the {family.denoiser} takes {found} channels and the autoencoder "
            f"makes {expected}; only text-to-image denoisers are supported"
        )
