"""Compiled blocks: the same predictions and gradients, and nothing compiled anew at a later step.

The backend is AOTAutograd without a code generator: what is captured, guarded and differentiated is
what inductor gets, and no C++ compiler runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_pipelines
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from morl.diffusion.compiled import compile_blocks
from morl.diffusion.families import family_of
from morl.diffusion.prompts import PromptCache
from morl.diffusion.rollout import initial_latents, sample
from morl.errors import PipelineError
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig

# Dynamo looks at `.grad` of the gates, which are no leaves.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def adapted(name: str) -> tuple[object, ConditionedAdapter]:
    pipe = tiny_pipelines.build(name)
    denoiser = family_of(pipe).denoiser_of(pipe)
    adapter = ConditionedAdapter.inject(denoiser, ("a", "b"), AdapterConfig(rank=2, alpha=2.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return pipe, adapter


def drawn(pipe, adapter: ConditionedAdapter, first: float, seed: int = 0) -> Tensor:
    family = family_of(pipe)
    latents = initial_latents(pipe, family, 2, torch.Generator().manual_seed(seed))
    conditioning = PromptCache(pipe, family)(["a red star", "a ring"])
    weights = torch.tensor([[first, 1 - first], [0.5, 0.5]])
    options = {"latents": latents, "steps": 3, "bind": adapter.bind, "record": False}
    return sample(pipe, family, conditioning, weights, **options).final


def compilations() -> int:
    return counters["stats"]["unique_graphs"]


def test_the_same_images_and_no_compilation_for_other_weights_steps_or_noise() -> None:
    pipe, adapter = adapted("sd")
    expected = [drawn(pipe, adapter, 0.2), drawn(pipe, adapter, 0.9, seed=1)]
    assert compile_blocks(adapter.denoiser, backend="aot_eager") == ["BasicTransformerBlock"]
    counters.clear()
    torch.testing.assert_close(drawn(pipe, adapter, 0.2), expected[0], atol=1e-4, rtol=1e-4)
    before = compilations()
    assert before > 0
    again = drawn(pipe, adapter, 0.9, seed=1)
    torch.testing.assert_close(again, expected[1], atol=1e-4, rtol=1e-4)
    assert compilations() == before
    # Switched off it is the base, which compiles once more: other operations.
    family, inputs = family_of(pipe), noise((4, 8, 8), (5, 16))
    twin = family.denoiser_of(tiny_pipelines.build("sd"))
    with torch.no_grad(), adapter.disabled():
        out = adapter.denoiser(inputs[0], torch.tensor(3), inputs[1], return_dict=False)[0]
        reference = twin(inputs[0], torch.tensor(3), inputs[1], return_dict=False)[0]
    torch.testing.assert_close(out, reference, atol=1e-5, rtol=1e-4)


def noise(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *shape, generator=generator) for shape in shapes]


def test_the_same_gradients() -> None:
    sample, text, pooled = noise((4, 8, 8), (5, 32), (32,))

    def gradients(compiled: bool) -> Tensor:
        _, adapter = adapted("sd3")
        if compiled:
            assert compile_blocks(adapter.denoiser, "aot_eager") == ["JointTransformerBlock"]
        with adapter.bind(torch.tensor([[0.3, 0.7], [1.0, 0.0]])):
            out = adapter.denoiser(sample, text, pooled, torch.ones(2), return_dict=False)[0]
        out.square().mean().backward()
        # The last block's text side reaches no output.
        parts = [p.grad for p in adapter.parameters() if p.grad is not None]
        return torch.cat([part.flatten() for part in parts])

    torch.testing.assert_close(gradients(True), gradients(False), atol=1e-5, rtol=1e-3)


def test_a_network_without_repeated_blocks() -> None:
    class Bare(nn.Module):
        _repeated_blocks = ()
        _no_split_modules = None

    with pytest.raises(PipelineError, match="Bare names no repeated blocks"):
        compile_blocks(Bare())
