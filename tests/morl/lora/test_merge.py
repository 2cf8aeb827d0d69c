"""Merging: exact at the stated weights, clean to undo, refused without weights."""

import pytest
import torch

from morl.errors import ConfigError, WeightError

FAMILIES = ("auraflow", "flux", "sana", "sd", "sd3", "sdxl")
W = torch.tensor([0.5, 0.2, 0.3])


@pytest.mark.parametrize("core", ["constant", "linear", "mlp", "experts"])
@pytest.mark.parametrize("name", FAMILIES)
def test_merged_is_bound_and_unmerged_is_the_base(name, core, adapted) -> None:
    case = adapted(name, core=core, strength=0.7)
    inputs = case.inputs(2)
    expected = case(inputs, W)
    case.adapter.merge(W)
    merged = case.denoiser(**inputs, return_dict=False)[0]
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-3)
    case.adapter.unmerge()
    for layer in case.adapter.layers:
        original = case.base.get_submodule(layer.path).weight
        assert torch.equal(layer.module.get_base_layer().weight, original)
    assert torch.equal(case(inputs, W), expected)


def test_half_precision_comes_back_bit_for_bit(adapted) -> None:
    case = adapted("sd")
    case.denoiser.to(torch.float16)
    before = case.adapter.layers[0].module.get_base_layer().weight.clone()
    case.adapter.merge(W)
    case.adapter.unmerge()
    assert torch.equal(case.adapter.layers[0].module.get_base_layer().weight, before)


def test_weights_do_not_count_while_merged_and_are_refused(adapted) -> None:
    case = adapted("sd")
    case.adapter.merge(W)
    for attempt in (
        lambda: case(case.inputs(2), W),
        lambda: case.adapter.set_weights(W),
        lambda: case.adapter.merge(W),
        lambda: setattr(case.adapter, "strength", 2.0),
        lambda: case.adapter.disabled().__enter__(),
    ):
        with pytest.raises(ConfigError, match="layers are merged"):
            attempt()


def test_merging_needs_one_weight_vector(adapted) -> None:
    adapter = adapted("sd").adapter
    with pytest.raises(WeightError, match="one weight vector of 3"):
        adapter.merge(torch.ones(2))
    with pytest.raises(ConfigError, match="nothing is merged"):
        adapter.unmerge()


@pytest.mark.parametrize("safe", [False, True])
def test_fusing_without_weights_is_refused(safe, adapted) -> None:
    case = adapted("sd")
    inputs = case.inputs(2)
    expected = case(inputs, W)
    with pytest.raises(ConfigError, match="cannot be fused without"):
        case.pipe.fuse_lora(safe_fusing=safe)
    assert torch.equal(case(inputs, W), expected)


def test_unfusing_by_diffusers_undoes_a_merge_up_to_rounding(adapted) -> None:
    case = adapted("sd")
    inputs = case.inputs(2)
    case.adapter.merge(W)
    case.pipe.unfuse_lora()
    with case.adapter.disabled():
        out = case.denoiser(**inputs).sample
    torch.testing.assert_close(out, case.reference(inputs), atol=1e-4, rtol=1e-3)
    case.adapter.unmerge()
    with case.adapter.disabled():
        assert torch.equal(case.denoiser(**inputs).sample, case.reference(inputs))


def test_removal_of_a_merged_adapter_brings_the_base_back(adapted) -> None:
    case = adapted("sd")
    case.adapter.merge(W)
    case.adapter.remove()
    inputs = case.inputs(2)
    assert torch.equal(case.denoiser(**inputs).sample, case.reference(inputs))
