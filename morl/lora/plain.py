"""Plain LoRA files of any layout, by diffusers' own loader: beside our adapter, or under it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from morl.errors import IntegrityError
from morl.lora.file import read_safetensors
from morl.lora.layer import GatedLayer

BESIDE = "beside"  # peft's name of the LoRA that stays frozen beside ours
SOURCE = "morl_source"  # and of the one that is only read
TEXT_KEYS = ("text_encoder", "lora_te")
UP_KEYS = ("lora_B.weight", "lora_up.weight", "lora.up.weight")
LISTED = 5


@dataclass(frozen=True)
class PlainLayer:
    """down [r, ...] and up [out, r, ...] of Delta W = scaling * up down."""

    down: Tensor
    up: Tensor
    scaling: float


def load_beside(pipe: DiffusionPipeline, denoiser: nn.Module, path: str) -> None:
    """Load a LoRA that becomes part of the reference, text encoders included.

    Raises IntegrityError unless every one of its tensors finds its layer.
    """
    _load(pipe, denoiser, path, BESIDE)


def read_plain(pipe: DiffusionPipeline, denoiser: nn.Module, path: str) -> dict[str, PlainLayer]:
    """Return the layers of a LoRA file by their path in the denoiser; the pipeline stays as it was.

    Raises IntegrityError for a file with text-encoder layers, which would be lost, or one that does
    not fit the denoiser.
    """
    if any(key.startswith(TEXT_KEYS) for key in read_safetensors(path)[1]):
        raise IntegrityError(
            f"{path}: also changes the text encoder, which is not trained here; use it as "
            "`beside`, which keeps all of it"
        )
    others = [name for layer in _wrapped(denoiser).values() for name in layer.active_adapters]
    _load(pipe, denoiser, path, SOURCE)
    layers = {
        name: PlainLayer(
            layer.lora_A[SOURCE].weight.detach().float(),
            layer.lora_B[SOURCE].weight.detach().float(),
            layer.scaling[SOURCE],
        )
        for name, layer in _wrapped(denoiser).items()
        if SOURCE in layer.lora_A
    }
    model: Any = denoiser
    if others:
        model.set_adapter(list(dict.fromkeys(others)))
        model.delete_adapters(SOURCE)
    else:
        model.unload_lora()
    return layers


def start_from(layers: Sequence[GatedLayer], plain: Mapping[str, PlainLayer], path: str) -> None:
    """Copy a plain LoRA into A and B, so that it and the adapter (at C(w) = 1) are the same.

    Layers that it lacks keep B = 0. Raises IntegrityError if it has another rank, or layers that
    the adapter does not target.
    """
    own = {layer.path: layer for layer in layers}
    strange = [name for name in plain if name not in own]
    if strange:
        raise IntegrityError(
            f"{path}: changes {len(strange)} layers that adapter.targets leaves out, such as "
            f"{', '.join(strange[:LISTED])}; extend the targets, or use it as `beside`"
        )
    for name, source in plain.items():
        layer = own[name]
        rank, wanted = source.down.shape[0], layer.down.shape[0]
        if rank != wanted:
            raise IntegrityError(
                f"{path}: has rank {rank} at {name}; set adapter.rank to {rank} (now {wanted})"
            )
        with torch.no_grad():
            layer.down.copy_(source.down)
            layer.up.copy_(source.up * (source.scaling / layer.scaling))


def _load(pipe: DiffusionPipeline, denoiser: nn.Module, path: str, name: str) -> None:
    keys = read_safetensors(path)[1].keys()
    loader: Any = pipe
    with several_adapters():
        loader.load_lora_weights(path, adapter_name=name)
    found = sum(name in layer.lora_A for layer in _wrapped(denoiser).values())
    # One tensor of a fused layout (qkv in one) becomes several layers, never fewer.
    wanted = sum(key.endswith(UP_KEYS) and not key.startswith(TEXT_KEYS) for key in keys)
    if found < max(wanted, 1):
        raise IntegrityError(
            f"{path}: only {found} of its {wanted} LoRA layers exist in this "
            f"{type(denoiser).__name__} (first key: {next(iter(keys), 'none')}); it was made for "
            "another model"
        )


def _wrapped(denoiser: nn.Module) -> dict[str, LoraLayer]:
    return {n: m for n, m in denoiser.named_modules() if isinstance(m, LoraLayer)}


@contextmanager
def several_adapters() -> Iterator[None]:
    """Silence peft's warning that a model has more than one adapter, which is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        yield
