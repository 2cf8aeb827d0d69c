"""torch.compile, block by block: the parts of a denoiser that repeat compile once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from morl.errors import PipelineError

# One block's code serves every width, with and without gradients, with gates and without: more
# variants than dynamo's default of 8, beyond which it silently goes back to eager.
VARIANTS = 64


def compile_blocks(denoiser: nn.Module, backend: str = "inductor") -> list[str]:
    """Compile a diffusers denoiser's repeated blocks in place, and return their class names.

    Call it after an adapter has been injected. Weight vectors stay ordinary inputs: they are made
    into gates outside of the blocks, so that other weights, steps and noise compile nothing anew;
    another batch size, gradients or the adapter switched off do, once each. Compiled kernels round
    in their own way: a replayed log-prob then equals the recorded one up to rounding, not bit for
    bit. backend: of torch.compile; inductor needs a C++ compiler (on the CPU) or Triton (on a GPU).
    Raises PipelineError for a class that names no such blocks.
    """
    model: Any = denoiser
    names = list(model._repeated_blocks or model._no_split_modules or ())
    blocks: list[Any] = [m for m in denoiser.modules() if type(m).__name__ in names]
    if not blocks:
        raise PipelineError(
            f"base.compile: {type(denoiser).__name__} names no repeated blocks to compile; set "
            "base.compile: false"
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    for block in blocks:
        block.compile(backend=backend)
    return sorted({type(block).__name__ for block in blocks})
