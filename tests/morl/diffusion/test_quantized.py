"""A frozen denoiser in 8 bits: nearly the same images, the same identity, a LoRA that learns."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from diffusers import BitsAndBytesConfig

from morl.config import check, load_config
from morl.diffusion import quantized
from morl.diffusion.loading import base_identity, load_pipeline
from morl.diffusion.quantized import quantization_of
from morl.errors import ConfigError
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig

with_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is optional")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    tiny_pipelines.build("sd3").save_pretrained(tmp_path / "sd3")
    return str(tmp_path / "sd3")


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_without_its_package_one_error_names_the_extra(kind, package, folder, monkeypatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda _name: None)
    (problem,) = check(load_config("shapes", [f"base.quantize={kind}"]))
    assert f"{kind} needs the package {package}" in problem
    assert "pip install 'morl-diffusion[quantize]'" in problem
    with pytest.raises(ConfigError, match=f"needs the package {package}"):
        load_pipeline(folder, quantize=kind)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is optional")
def test_4_bits_are_asked_of_the_denoiser_alone() -> None:
    found = quantization_of("nf4", "transformer", torch.bfloat16).quant_mapping
    assert list(found) == ["transformer"]
    assert isinstance(found["transformer"], BitsAndBytesConfig)
    assert found["transformer"].load_in_4bit
    assert found["transformer"].bnb_4bit_quant_type == "nf4"
    assert found["transformer"].bnb_4bit_compute_dtype == torch.bfloat16


def test_a_single_file_is_not_quantised(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda _name: object())
    (tmp_path / "model.safetensors").touch()
    chosen = [f"base.model={tmp_path}/model.safetensors", "base.quantize=int8"]
    (problem,) = check(load_config("shapes", chosen))
    assert "is a single file; save it with save_pretrained" in problem


@with_torchao
@pytest.mark.filterwarnings("ignore")
class TestEightBits:
    def inputs(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "hidden_states": (4, 8, 8),
            "encoder_hidden_states": (5, 32),
            "pooled_projections": (32,),
        }
        rows = {name: torch.randn(2, *s, generator=generator) for name, s in shapes.items()}
        return {**rows, "timestep": torch.tensor([300.0, 700.0])}

    def test_predictions_and_identity(self, folder) -> None:
        whole, small = load_pipeline(folder), load_pipeline(folder, quantize="int8")
        layer = small.transformer.transformer_blocks[0].attn.to_q
        assert type(layer.weight).__module__.startswith("torchao")
        assert base_identity(small) == base_identity(whole)
        expected = whole.transformer(**self.inputs(), return_dict=False)[0]
        out = small.transformer(**self.inputs(), return_dict=False)[0]
        assert not torch.equal(out, expected)
        assert (out - expected).norm() < 0.05 * expected.norm()

    def test_the_adapter_learns_in_fp32_and_does_not_merge(self, folder) -> None:
        pipe = load_pipeline(folder, quantize="int8")
        identity = base_identity(pipe)
        before = pipe.transformer(**self.inputs(), return_dict=False)[0]
        adapter = ConditionedAdapter.inject(pipe.transformer, ("a", "b"), AdapterConfig(rank=2))
        assert base_identity(pipe) == identity
        weights = torch.tensor([[1.0, 0.0], [0.3, 0.7]])
        with adapter.bind(weights):
            out = pipe.transformer(**self.inputs(), return_dict=False)[0]
        assert torch.equal(out, before)  # B = 0
        out.square().mean().backward()
        ups = [p for name, p in adapter.named_parameters() if name.endswith("lora_B.weight")]
        assert all(p.dtype == torch.float32 for p in ups)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in ups)
        with pytest.raises(ConfigError, match="the base is quantised"):
            adapter.merge(weights[0])
