"""Checkpoints of one file, in their authors' layout: the same model as the folder, or refused."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from original_layout import write_single_file
from safetensors.torch import save_file

from morl.diffusion.families import decode, family_of
from morl.diffusion.loading import base_identity, load_pipeline
from morl.diffusion.prompts import PromptCache
from morl.diffusion.rollout import initial_latents, sample
from morl.errors import DataError, IntegrityError

MODELS = {
    "sd": tiny_pipelines.stable_diffusion,
    # Two text encoders of one width could not be told apart in a single file.
    "sdxl": partial(tiny_pipelines.stable_diffusion_xl, second=2 * tiny_pipelines.TEXT),
}


def saved(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The same tiny model as a folder, and as a file beside a folder that has no weights."""
    monkeypatch.setitem(tiny_pipelines.BUILDERS, name, MODELS[name])
    pipe = tiny_pipelines.build(name)
    folder, config = path / "folder", path / "config"
    pipe.save_pretrained(folder)
    shutil.copytree(folder, config, ignore=shutil.ignore_patterns("*.safetensors"))
    return write_single_file(pipe, path / "model.safetensors"), config


@pytest.fixture
def sd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return saved("sd", tmp_path, monkeypatch)


def images(pipe) -> torch.Tensor:
    family = family_of(pipe)
    latents = initial_latents(pipe, family, 2, torch.Generator().manual_seed(0))
    conditioning = PromptCache(pipe, family)(["a red star", "a ring"])
    weights = torch.ones(2, 1)
    options = {"latents": latents, "steps": 2, "guidance": 3.0, "record": False}
    return decode(pipe, sample(pipe, family, conditioning, weights, **options).final)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_images_and_identity_are_those_of_the_folder(name, tmp_path, monkeypatch) -> None:
    file, config = saved(name, tmp_path, monkeypatch)
    ours = load_pipeline(str(file), config=str(config))
    folder = load_pipeline(str(config.with_name("folder")))
    assert type(ours) is type(folder)
    networks = [part for part, held in ours.components.items() if isinstance(held, torch.nn.Module)]
    for part in networks:
        expected = folder.components[part].state_dict()
        found = ours.components[part].state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
        assert not ours.components[part].training
        assert not any(parameter.requires_grad for parameter in ours.components[part].parameters())
    assert {"vae", "text_encoder", "unet"} <= set(networks)
    # Equal numbers elsewhere in memory may round another way.
    torch.testing.assert_close(images(ours), images(folder), atol=1e-5, rtol=0)
    one, other = base_identity(ours), base_identity(folder)
    assert one.pop("model") == "model.safetensors"  # without its place
    assert other.pop("model") == "folder"
    assert one == other


def test_the_autoencoder_is_read_in_fp32(sd) -> None:
    file, config = sd
    pipe = load_pipeline(str(file), dtype=torch.bfloat16, config=str(config))
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.bfloat16
    folder = load_pipeline(str(config.with_name("folder")))
    for name, parameter in folder.vae.named_parameters():
        assert torch.equal(pipe.vae.get_parameter(name), parameter)


def test_what_the_file_lacks_comes_from_the_folder(sd, tmp_path) -> None:
    whole = tiny_pipelines.build("sd")
    file = write_single_file(whole, tmp_path / "denoiser.safetensors", "_stage_model")
    pipe = load_pipeline(str(file), config=str(sd[1].with_name("folder")))
    torch.testing.assert_close(images(pipe), images(whole), atol=1e-5, rtol=0)
    file = write_single_file(whole, tmp_path / "textless.safetensors", "cond_stage_model")
    with pytest.raises(DataError, match=r"does not hold the StableDiffusionPipeline .*CLIPText"):
        load_pipeline(str(file), config=str(sd[1]))


def test_a_pickle_is_refused_by_content(tmp_path, sd) -> None:
    for name in ("model.ckpt", "model.safetensors"):
        torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / name)
        with pytest.raises(IntegrityError, match=rf"{name} is a pickle, which can run code"):
            load_pipeline(str(tmp_path / name), config=str(sd[1]))


def test_safetensors_under_another_name(sd) -> None:
    other = sd[0].rename(sd[0].with_suffix(".ckpt"))
    with pytest.raises(DataError, match=r"model.ckpt: holds safetensors; rename it to model.safe"):
        load_pipeline(str(other), config=str(sd[1]))


def test_a_truncated_file_is_refused(sd) -> None:
    file, config = sd
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        load_pipeline(str(file), config=str(config))


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("middle_block.1.norm", r"lacks 2 tensors, such as unet.mid_block.attentions.0"),
        ("decoder.norm_out.bias", r"lacks 1 tensors, such as vae.decoder.conv_norm_out.bias"),
        ("text_model.final_layer_norm.weight", r"lacks 1 tensors, such as text_encoder.*final_la"),
    ],
)
def test_missing_tensors_are_named(without, said, sd, tmp_path) -> None:
    pipe = tiny_pipelines.build("sd")
    file = write_single_file(pipe, tmp_path / "less.safetensors", without)
    with pytest.raises(IntegrityError, match=said):
        load_pipeline(str(file), config=str(sd[1]))


def test_another_models_configuration(sd, tmp_path) -> None:
    other = tiny_pipelines.build("sd2")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="does not hold the StableDiffusionPipeline that"):
        load_pipeline(str(sd[0]), config=str(tmp_path / "other"))


def test_offline_it_says_whose_configuration_is_needed(sd, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = str(sd[0])
    # The names of the tensors tell which model it is.
    with pytest.raises(DataError, match=r"hf download stable-diffusion-v1-5/\S+ --include '\*.js"):
        load_pipeline(file)
    with pytest.raises(DataError, match=r"hf download nobody/nothing --revision v2 .*base.config"):
        load_pipeline(file, config="nobody/nothing", revision="v2")


def test_a_lora_is_no_model(tmp_path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({"lora_unet_down.lora_up.weight": torch.ones(1)}, file)
    with pytest.raises(DataError, match=r"holds no model .* lora_unet_down.*adapter.init_from"):
        load_pipeline(str(file))


def test_a_configuration_is_of_a_single_file(sd) -> None:
    file, config = map(str, sd)
    with pytest.raises(DataError, match="`config` describes a single file"):
        load_pipeline(str(sd[1].with_name("folder")), config=config)
    with pytest.raises(DataError, match="`revision` 'v2' is for a Hub id"):
        load_pipeline(file, config=config, revision="v2")
    with pytest.raises(DataError, match=r"`config` must be .* got 'nowhere'"):
        load_pipeline(file, config="nowhere")
