"""Count parameters, and what one differentiated denoiser call keeps, for published models.

    python -m experiments.memory.run

The networks are built on the meta device from their published configurations, so no weight and no
activation exists. What a backward pass would need is counted as autograd saves it, with a LoRA on
the attention layers and every weight frozen. Attention saves its inputs and
output, as the fused kernels of a GPU do. Printed in values, for one image; times the size of the
number format that is bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from experiments.memory.models import BUILDERS, Model, build
from morl.lora.targets import JOINT_ATTENTION

RANK = 16


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        context.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def _fused_attention() -> Iterator[None]:
    own = functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        output: Tensor = _FusedAttention.apply(query, key, value)
        return output

    functional.scaled_dot_product_attention = fused  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


@contextmanager
def _saved(skip: set[int]) -> Iterator[dict[int, int]]:
    """Elements of every tensor that autograd keeps in the block, by storage; parameters apart."""
    found: dict[int, int] = {}
    alive: list[Any] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in skip:
            alive.append(storage)  # its address is its name, and must not be given again
            found[storage._cdata] = storage.nbytes() // tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def kept(model: Model, *, checkpointed: bool) -> int:
    """Values that the backward pass of one denoiser call on one image needs.

    checkpointed: the inputs of all blocks, and what the largest keeps while it is run again.
    """
    model.denoiser.requires_grad_(False)
    model.denoiser.add_adapter(LoraConfig(r=RANK, target_modules=list(JOINT_ATTENTION)))
    timestep = torch.empty(1, device="meta")
    return _count(
        model.denoiser,
        lambda: model.denoiser(timestep=timestep, **model.inputs, return_dict=False),
        checkpointed,
    )


def kept_by_decoding(model: Model, side: int, *, checkpointed: bool) -> int:
    """The same for decoding one image of `side` pixels, which a reward gradient passes."""
    channels = int(model.vae.config.latent_channels)
    latents = torch.empty(1, channels, side // 8, side // 8, device="meta", requires_grad=True)
    model.vae.requires_grad_(False)
    return _count(model.vae, lambda: model.vae.decode(latents), checkpointed)


def _count(network: Any, call: Callable[[], Any], checkpointed: bool) -> int:
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}
    inputs, largest = [0], [0]

    def block(module: nn.Module, *arguments: Any) -> Any:
        inputs[0] += sum(a.numel() for a in arguments if isinstance(a, Tensor))
        with _saved(parameters) as inside:
            output = module(*arguments)
        largest[0] = max(largest[0], sum(inside.values()))
        return output

    if checkpointed:
        network.enable_gradient_checkpointing(gradient_checkpointing_func=block)
    with _fused_attention(), _saved(parameters) as outside:
        call()
    return sum(outside.values()) + inputs[0] + largest[0]


def main() -> None:
    for name in BUILDERS:
        model = build(name)
        counts = [
            sum(p.numel() for p in module.parameters())
            for module in (model.denoiser, *model.text_encoders, model.vae)
        ]
        print(name, "denoiser, text encoders, autoencoder:", counts)
        for checkpointed in (False, True):
            values = kept(build(name), checkpointed=checkpointed)
            decoding = kept_by_decoding(build(name), 512, checkpointed=checkpointed)
            print(f"  checkpointed={checkpointed}: {values:,}; decoding 512 pixels {decoding:,}")


if __name__ == "__main__":
    main()
