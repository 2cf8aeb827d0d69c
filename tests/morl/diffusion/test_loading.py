"""Loading from folders and the Hub: what is accepted, what is refused, which model it is."""

import json
import shutil
from pathlib import Path

import diffusers.utils.logging
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from peft import LoraConfig

from morl.diffusion import loading
from morl.diffusion.families import decode, family_of
from morl.diffusion.loading import base_identity, load_pipeline
from morl.errors import DataError, IntegrityError, PipelineError
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig


@pytest.fixture
def folder(tmp_path: Path, build_pipe) -> Path:
    path = tmp_path / "tiny-base"
    build_pipe("sd").save_pretrained(path)
    return path


def unet_file(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def test_a_folder_is_loaded_frozen(folder: Path, build_pipe) -> None:
    pipe = load_pipeline(str(folder))
    for name, parameter in build_pipe("sd").unet.named_parameters():
        assert torch.equal(pipe.unet.get_parameter(name), parameter)
    for component in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert not component.training
        assert not any(parameter.requires_grad for parameter in component.parameters())
    assert pipe.safety_checker is None


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "auraflow"])
def test_the_other_families_are_loaded(tmp_path: Path, build_pipe, name: str) -> None:
    pipe = build_pipe(name)
    pipe.save_pretrained(tmp_path / name)
    assert type(load_pipeline(str(tmp_path / name))) is type(pipe)


def test_the_autoencoder_stays_fp32(folder: Path) -> None:
    pipe = load_pipeline(str(folder), dtype=torch.bfloat16)
    assert pipe.unet.dtype == torch.bfloat16
    assert pipe.text_encoder.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32


def test_another_scheduler_becomes_ddim(tmp_path: Path, build_pipe) -> None:
    pipe = build_pipe("sd")
    pipe.scheduler = PNDMScheduler(beta_start=0.001, skip_prk_steps=True, steps_offset=1)
    pipe.save_pretrained(tmp_path / "pndm")
    scheduler = load_pipeline(str(tmp_path / "pndm")).scheduler
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.config.beta_start == 0.001
    assert not scheduler.config.clip_sample


def test_a_flow_model_needs_its_scheduler(tmp_path: Path, build_pipe) -> None:
    pipe = build_pipe("sd3")
    pipe.scheduler = EulerDiscreteScheduler()
    pipe.save_pretrained(tmp_path / "euler")
    with pytest.raises(PipelineError, match="must be FlowMatchEulerDiscreteScheduler"):
        load_pipeline(str(tmp_path / "euler"))


def test_a_pickle_is_refused(folder: Path) -> None:
    weights = unet_file(folder)
    torch.save({"w": torch.ones(1)}, weights.with_suffix(".bin"))
    load_pipeline(str(folder))  # safetensors are there: the pickle is not read
    weights.unlink()
    with pytest.raises(IntegrityError, match=r"diffusion_pytorch_model.bin is a pickle"):
        load_pipeline(str(folder))


def test_a_pickle_under_another_name_is_refused(folder: Path) -> None:
    torch.save({"w": torch.ones(1)}, unet_file(folder))
    with pytest.raises(IntegrityError, match="is not a whole safetensors file"):
        load_pipeline(str(folder))


@pytest.mark.parametrize("kept", [0, 7, 9, 200, -1])
def test_a_truncated_file_is_refused(folder: Path, kept: int) -> None:
    weights = unet_file(folder)
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(IntegrityError, match="truncated"):
        load_pipeline(str(folder))


def test_a_component_without_weights(folder: Path) -> None:
    unet_file(folder).unlink()
    with pytest.raises(DataError, match="incomplete or inconsistent pipeline"):
        load_pipeline(str(folder))


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model_index.json is missing"):
        load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(DataError, match="not a pipeline index"):
        load_pipeline(str(tmp_path))


def test_an_unsupported_class(tmp_path: Path) -> None:
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableCascadePriorPipeline"}))
    with pytest.raises(PipelineError, match=r"'StableCascadePriorPipeline' .*known: Stable"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("model", ["no/such/folder", "./missing", "shape"])
def test_neither_a_folder_nor_an_id(model: str) -> None:
    with pytest.raises(DataError, match=r"a Hub id 'owner/name'; got .* which is not there"):
        load_pipeline(model)


def test_a_revision_is_for_the_hub(folder: Path) -> None:
    with pytest.raises(DataError, match="`revision` 'main' is for a Hub id"):
        load_pipeline(str(folder), revision="main")


def test_offline_it_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"`hf download nobody/nothing-here --revision v2`"):
        load_pipeline("nobody/nothing-here", revision="v2")


def test_the_embedded_world(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "SHAPES", folder)
    assert base_identity(load_pipeline("shapes"))["model"] == "shapes"
    monkeypatch.setattr(loading, "SHAPES", tmp_path / "absent")
    with pytest.raises(DataError, match="morl world train"):
        load_pipeline("shapes")


def test_identity_does_not_depend_on_place_or_precision(folder: Path, tmp_path: Path) -> None:
    identity = base_identity(load_pipeline(str(folder)))
    assert identity["pipeline"] == "StableDiffusionPipeline"
    assert identity["model"] == "tiny-base"
    moved = tmp_path / "elsewhere" / "tiny-base"
    shutil.copytree(folder, moved)
    assert base_identity(load_pipeline(str(moved), dtype=torch.float16)) == identity


def test_identity_tells_models_apart(build_pipe) -> None:
    pipe = build_pipe("sd")
    identity = base_identity(pipe)
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] *= -1
    changed = base_identity(pipe)
    assert changed["denoiser"] != identity["denoiser"]
    assert base_identity(build_pipe("sdxl"))["pipeline"] != identity["pipeline"]


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl", "sd3", "flux", "sana", "auraflow"])
def test_identity_ignores_attached_adapters(build_pipe, name: str) -> None:
    pipe = build_pipe(name)
    identity = base_identity(pipe)
    denoiser = family_of(pipe).denoiser_of(pipe)
    denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]))
    assert base_identity(pipe) == identity
    ConditionedAdapter.inject(denoiser, ("a", "b"), AdapterConfig(rank=2))
    assert base_identity(pipe) == identity


def test_loading_shows_no_bars_and_leaves_them_on_for_others(capfd) -> None:
    load_pipeline("shapes")
    assert capfd.readouterr().err == ""
    assert diffusers.utils.logging.is_progress_bar_enabled()


class TestDecoding:
    """Less memory at once for the same images, or nearly the same across the seams of tiles."""

    @pytest.fixture
    def saved(self, build_pipe, tmp_path):
        build_pipe("sd").save_pretrained(tmp_path)
        return tmp_path

    def decoded(self, folder, side: int, **settings) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        pipe = load_pipeline(str(folder), **settings)
        shapes = []
        pipe.vae.decoder.register_forward_hook(lambda _m, args, _o: shapes.append(args[0].shape))
        latents = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
        return decode(pipe, latents), shapes

    def test_sliced(self, saved) -> None:
        whole, _ = self.decoded(saved, 8)
        sliced, shapes = self.decoded(saved, 8, decode="sliced")
        assert [shape[0] for shape in shapes] == [1, 1]
        torch.testing.assert_close(sliced, whole, atol=1e-5, rtol=1e-4)

    def test_tiled(self, saved) -> None:
        whole, _ = self.decoded(saved, 32)
        tiled, shapes = self.decoded(saved, 32, decode="tiled")
        assert max(shape[-1] for shape in shapes) < 32
        assert tiled.shape == whole.shape
        assert (tiled - whole).abs().mean() < 0.5 * whole.std()


def test_sana_brings_the_flow_of_its_own_solver(build_pipe, tmp_path) -> None:
    pipe = build_pipe("sana")
    pipe.scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    pipe.save_pretrained(tmp_path)
    found = load_pipeline(str(tmp_path)).scheduler
    found.set_timesteps(4)
    expected = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected.set_timesteps(4)
    assert torch.equal(found.sigmas, expected.sigmas)
