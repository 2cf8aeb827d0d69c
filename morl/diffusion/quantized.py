"""Frozen denoisers in 8 or 4 bits, through diffusers' own quantisation. Imports no torch.

The LoRA on top stays in fp32. Quantised parameters no longer tell which model they are of, so its
digest is taken from the files and travels with the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from morl.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from diffusers.quantizers import PipelineQuantizationConfig

Quantize = Literal["none", "int8", "nf4"]
PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}
DIGEST = "_morl_denoiser"  # where a quantised pipeline's configuration keeps its denoiser's digest


def quantize_problem(quantize: Quantize) -> str | None:
    """Return what stands against a quantised base on this machine, or None."""
    package = PACKAGES.get(quantize)
    if package is None or find_spec(package) is not None:
        return None
    return (
        f"base.quantize: {quantize} needs the package {package}, which is not installed: "
        "pip install 'morl-diffusion[quantize]', or set base.quantize: none"
    )


def quantization_of(
    quantize: Quantize, denoiser: str, dtype: torch.dtype
) -> PipelineQuantizationConfig:
    """Return the configuration that quantises a pipeline's denoiser, and it alone, as it is read.

    int8: torchao's weights of 8 bits, one scale a row; nf4: bitsandbytes' 4-bit normal floats.
    dtype: of the arithmetic. Raises ConfigError where the package is missing.
    """
    if problem := quantize_problem(quantize):
        raise ConfigError(problem)
    from diffusers import BitsAndBytesConfig, TorchAoConfig
    from diffusers.quantizers import PipelineQuantizationConfig

    chosen: Any
    if quantize == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        chosen = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        chosen = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return PipelineQuantizationConfig(quant_mapping={denoiser: chosen})


def stored_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a component's safetensors files by name, read one at a time."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                yield name, tensors.get_tensor(name)
