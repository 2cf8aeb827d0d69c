"""Plain LoRAs: one beside ours that belongs to the reference, one that ours starts from."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from morl.errors import ConfigError, IntegrityError
from morl.lora.collapse import export_lora
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig

OBJECTIVES = ("aesthetic", "alignment", "safety")
W = torch.tensor([0.5, 0.2, 0.3])
FAMILIES = ("auraflow", "flux", "sana", "sd", "sd3", "sdxl")


def part(pipe):
    return pipe.components["unet"] if "unet" in pipe.components else pipe.components["transformer"]


def inject(pipe, **settings):
    config = AdapterConfig(**{"rank": 6, "alpha": 3.0, **settings})
    return ConditionedAdapter.inject(part(pipe), OBJECTIVES, config, pipe=pipe)


@pytest.fixture
def plain(adapted, tmp_path):
    """Write a plain LoRA of rank 6 for a family: (family, layout) -> (file, inputs, its output)."""

    def make(name="sd", layout="diffusers"):
        case = adapted(name, core="constant")
        file = export_lora(case.adapter, W, tmp_path / f"{name}-{layout}.safetensors", layout)
        inputs = case.inputs(2)
        return str(file), inputs, case(inputs, W)

    return make


def run(pipe, inputs):
    return part(pipe)(**inputs, return_dict=False)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_beside_is_the_reference_and_ours_comes_on_top(name, plain, build_pipe) -> None:
    file, inputs, expected = plain(name)
    pipe = build_pipe(name)
    adapter = inject(pipe, beside=file)
    with adapter.bind(W):
        torch.testing.assert_close(run(pipe, inputs), expected, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        for layer in adapter.layers:
            layer.up.normal_(generator=torch.Generator().manual_seed(0))
    with adapter.disabled():
        torch.testing.assert_close(run(pipe, inputs), expected, atol=1e-4, rtol=1e-3)
    with adapter.bind(W):
        assert not torch.allclose(run(pipe, inputs), expected, atol=1e-2)
    trained = {id(p) for p in part(pipe).parameters() if p.requires_grad}
    assert trained == {id(p) for p in adapter.parameters()}


def test_merging_takes_the_one_beside_along(plain, build_pipe) -> None:
    file, inputs, reference = plain()
    pipe = build_pipe("sd")
    adapter = inject(pipe, beside=file)
    with torch.no_grad():
        for layer in adapter.layers:
            layer.up.normal_(generator=torch.Generator().manual_seed(0))
    with adapter.bind(W):
        expected = run(pipe, inputs)
    adapter.merge(W)
    torch.testing.assert_close(run(pipe, inputs), expected, atol=1e-4, rtol=1e-3)
    adapter.unmerge()
    with adapter.bind(W):
        assert torch.equal(run(pipe, inputs), expected)
    adapter.remove()
    torch.testing.assert_close(run(pipe, inputs), reference, atol=1e-4, rtol=1e-3)


def test_a_lora_that_the_user_loaded_stays_active(plain, build_pipe) -> None:
    file, inputs, expected = plain()
    pipe = build_pipe("sd")
    pipe.load_lora_weights(file, adapter_name="mine")
    adapter = inject(pipe)
    with adapter.disabled():
        torch.testing.assert_close(run(pipe, inputs), expected, atol=1e-4, rtol=1e-3)


def test_a_fused_lora_is_refused_since_peft_would_skip_ours(plain, build_pipe) -> None:
    pipe = build_pipe("sd")
    pipe.load_lora_weights(plain()[0])
    pipe.fuse_lora()
    with pytest.raises(ConfigError, match="unfuse_lora"):
        inject(pipe)


@pytest.mark.parametrize(
    ("name", "layout"), [*((name, "diffusers") for name in FAMILIES), ("sd", "kohya")]
)
@pytest.mark.parametrize("core", ["constant", "linear", "mlp"])
def test_starting_from_a_lora_is_that_lora_at_every_weight(
    name, layout, core, plain, build_pipe
) -> None:
    file, inputs, expected = plain(name, layout)
    pipe = build_pipe(name)
    targets = "attention+conv" if name.startswith("sd") and name != "sd3" else "attention"
    adapter = inject(pipe, init_from=file, core=core, targets=targets, alpha=3.0)
    with adapter.bind(torch.eye(3)[:2]):
        torch.testing.assert_close(run(pipe, inputs), expected, atol=1e-4, rtol=1e-3)
    assert set(part(pipe).peft_config) == {"morl"}


def test_a_lora_that_cannot_be_the_start_is_refused(plain, build_pipe) -> None:
    file = plain()[0]
    with pytest.raises(IntegrityError, match=r"has rank 6 at .*set adapter\.rank to 6 \(now 4\)"):
        inject(build_pipe("sd"), init_from=file, targets="attention+conv", rank=4)
    with pytest.raises(IntegrityError, match=r"changes 16 layers that adapter\.targets leaves out"):
        inject(build_pipe("sd"), init_from=file)


def test_a_text_encoder_part_would_be_lost_at_the_start(plain, build_pipe, tmp_path) -> None:
    tensors = load_file(plain()[0])
    tensors["text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"] = torch.ones(2, 16)
    file = str(tmp_path / "both.safetensors")
    save_file(tensors, file)
    with pytest.raises(IntegrityError, match=r"text encoder.*beside"):
        inject(build_pipe("sd"), init_from=file)


@pytest.mark.parametrize("field", ["init_from", "beside"])
def test_a_lora_of_another_model_is_refused(field, plain, build_pipe, tmp_path) -> None:
    with pytest.raises(IntegrityError, match="made for another model"):
        inject(build_pipe("sd3"), **{field: plain("sd")[0]})
    tensors = load_file(plain("sd")[0])
    partial = {key.replace("mid_block", "mid_blocks"): value for key, value in tensors.items()}
    file = str(tmp_path / "partial.safetensors")
    save_file(partial, file)
    with pytest.raises(IntegrityError, match=r"only \d+ of its 48 LoRA layers exist"):
        inject(build_pipe("sd"), **{field: file}, targets="attention+conv")
