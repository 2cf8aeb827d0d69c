"""At fixed weights: an ordinary LoRA, equal in fp32, under the names that other tools read."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from morl.errors import ConfigError
from morl.lora.collapse import collapse, export_lora, to_diffusers, to_kohya

FAMILIES = ("auraflow", "flux", "sana", "sd", "sd3", "sdxl")
W = torch.tensor([0.5, 0.2, 0.3])


@pytest.mark.parametrize("core", ["constant", "linear", "mlp", "experts"])
def test_every_layer_collapses_exactly_at_random_weights(core, adapted) -> None:
    case = adapted("sd", core=core, strength=0.8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        draws = -torch.rand(3, generator=generator).log()
        weights = draws / draws.sum()
        lora = collapse(case.adapter, weights)
        gates = case.adapter.layer_gates(weights)
        for layer, gate in zip(case.adapter.layers, gates, strict=True):
            x = torch.randn(3, layer.down.shape[1], *([6, 6] if layer.convolution else []))
            base = layer.module.get_base_layer()
            layer.gate = gate.expand(3, -1)
            conditioned = layer.module(x) - base(x)
            layer.gate = layer.unbound
            down, up = (lora[f"{layer.path}.lora_{f}.weight"] for f in "AB")
            if layer.convolution:
                hidden = torch.nn.functional.conv2d(x, down, None, base.stride, base.padding)
                plain = torch.nn.functional.conv2d(hidden, up)
            else:
                plain = x @ down.T @ up.T
            error = (conditioned - plain).abs().max() / plain.abs().max()
            # The difference of two outputs of size |base(x)| rounds at eps times that size.
            rounding = torch.finfo(torch.float32).eps * base(x).abs().max() / plain.abs().max()
            assert error < 1e-5 + 2 * rounding


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("name", FAMILIES)
def test_plain_diffusers_loads_the_file_onto_the_bare_denoiser(
    name, layout, adapted, build_pipe, tmp_path
) -> None:
    case = adapted(name, strength=0.6)
    inputs = case.inputs(2)
    file = tmp_path / "lora.safetensors"
    if layout == "kohya" and name in ("sd3", "flux", "sana", "auraflow"):
        with pytest.raises(ConfigError, match=r"fuses the layers .* 'diffusers'"):
            export_lora(case.adapter, W, file, "kohya")
        assert not file.exists()
        return
    export_lora(case.adapter, W, file, layout)
    pipe = build_pipe(name)
    pipe.load_lora_weights(str(file))
    denoiser = pipe.components["unet" if name.startswith("sd") and name != "sd3" else "transformer"]
    out = denoiser(**inputs, return_dict=False)[0]
    torch.testing.assert_close(out, case(inputs, W), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(out, case.reference(inputs), atol=1e-2)


PLAIN = """
import sys
sys.modules["morl"] = sys.modules["rewards"] = None  # importing them fails
import numpy, torch
from diffusers import DiffusionPipeline
folder = sys.argv[1]
for layout in ("diffusers", "kohya"):
    pipe = DiffusionPipeline.from_pretrained(folder + "/base", use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(folder, weight_name=layout + ".safetensors")
    images = pipe(["a red star", "a ring"], num_inference_steps=3, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0), output_type="np").images
    numpy.save(folder + "/" + layout + ".npy", images)
"""


def test_a_process_without_morl_draws_the_same_images(adapted, build_pipe, tmp_path) -> None:
    case = adapted("sd")
    build_pipe("sd").save_pretrained(tmp_path / "base")
    for layout in ("diffusers", "kohya"):
        export_lora(case.adapter, W, tmp_path / f"{layout}.safetensors", layout)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]

    def draw():
        settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}
        generator = torch.Generator().manual_seed(0)
        return case.pipe(["a red star", "a ring"], generator=generator, **settings).images

    with case.adapter.bind(W):
        ours = draw()
    with case.adapter.disabled():
        assert np.abs(draw() - ours).max() > 1e-2
    for layout in ("diffusers", "kohya"):
        assert np.abs(np.load(tmp_path / f"{layout}.npy") - ours).max() < 1e-4


def test_golden_keys() -> None:
    lora = {
        f"{path}.lora_{factor}.weight": torch.ones(2, 2)
        for path in (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "mid_block.resnets.1.conv2",
            "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_k",
        )
        for factor in "AB"
    }
    assert list(to_diffusers(lora, "unet")) == [
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight",
        "unet.mid_block.resnets.1.conv2.lora_A.weight",
        "unet.mid_block.resnets.1.conv2.lora_B.weight",
        "unet.up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_k.lora_A.weight",
        "unet.up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_k.lora_B.weight",
    ]
    assert list(to_kohya(lora)) == [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.alpha",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_up.weight",
        "lora_unet_mid_block_resnets_1_conv2.alpha",
        "lora_unet_mid_block_resnets_1_conv2.lora_down.weight",
        "lora_unet_mid_block_resnets_1_conv2.lora_up.weight",
        "lora_unet_up_blocks_0_attentions_2_transformer_blocks_0_attn2_to_k.alpha",
        "lora_unet_up_blocks_0_attentions_2_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "lora_unet_up_blocks_0_attentions_2_transformer_blocks_0_attn2_to_k.lora_up.weight",
    ]
    assert to_kohya(lora)["lora_unet_mid_block_resnets_1_conv2.alpha"] == 2  # alpha = rank


def test_the_file_says_what_it_is(adapted, tmp_path) -> None:
    case = adapted("sd")
    file = export_lora(
        case.adapter, W, tmp_path / "a.safetensors", "kohya", pipeline="StableDiffusionPipeline"
    )
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    shares = json.loads(metadata["morl_weights"])
    assert shares == pytest.approx({"aesthetic": 0.5, "alignment": 0.2, "safety": 0.3})
    assert metadata["ss_network_dim"] == "6"
    assert metadata["ss_network_alpha"] == "6.0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        export_lora(case.adapter, W, tmp_path / "a.ckpt")
