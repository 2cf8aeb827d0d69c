"""The slider: images from seeds and weights alone, on our pipeline or the user's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from safetensors.torch import load_file

from morl.config.guidance import GuidanceNote
from morl.diffusion.loading import base_identity
from morl.errors import ConfigError, DataError, IntegrityError, WeightError
from morl.inference import RegionNote, Slider, load
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.settings import AdapterConfig
from morl.lora.store import AdapterHeader, save_adapter
from morl.weights import WeightNote

NAMES = ("aesthetic", "alignment", "safety")
FAMILIES = ("auraflow", "flux", "sana", "sd", "sd2", "sd3", "sdxl")
MIX = {"aesthetic": 0.5, "alignment": 0.2, "safety": 0.3}
ONE_LEVEL = 1  # rounding of batched arithmetic may cross the edge between two of 255 levels


def part(pipe):
    return pipe.components["unet"] if "unet" in pipe.components else pipe.components["transformer"]


@pytest.fixture
def trained(tmp_path):
    """Write an adapter that changes images at every weight: family -> file."""

    def write(name: str = "sd", low=(0.0, 0.0, 0.0), **sampling) -> Path:
        pipe = tiny_pipelines.build(name)
        identity = base_identity(pipe)
        config = AdapterConfig(rank=3, alpha=3.0)
        adapter = ConditionedAdapter.inject(part(pipe), NAMES, config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
        header = AdapterHeader(
            objectives=NAMES,
            config=config,
            base=identity,
            region={"low": list(low), "high": [1.0] * 3},
            sampling=sampling or {"steps": 3, "guidance": 2.0},
        )
        return save_adapter(tmp_path / name / "adapter.safetensors", adapter, header)

    return write


@pytest.fixture
def slider(trained) -> Slider:
    return load(trained(), pipeline=tiny_pipelines.build("sd"))


def pixels(image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def distance(one, two) -> int:
    return int(np.abs(pixels(one) - pixels(two)).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_depends_on_its_prompt_weights_and_seed_alone(name, trained) -> None:
    slider = load(trained(name), pipeline=tiny_pipelines.build(name))
    prompts = ["a red star", "a ring", "a red star", "a ring"]
    weights = [MIX, {"safety": 1, "aesthetic": 0, "alignment": 0}, [0.2, 0.2, 0.6], "1,0,0"]
    seeds = [0, 1, 2, 3]
    batch = slider.generate(prompts, weights, seeds)
    small = slider.generate(prompts, weights, seeds, batch_size=3)
    for i in range(4):
        alone = slider.generate(prompts[i], weights[i], seeds[i])
        assert distance(batch[i], alone) <= ONE_LEVEL
        assert distance(small[i], alone) <= ONE_LEVEL
    again = slider.generate(prompts, weights, seeds)
    assert all(distance(one, two) == 0 for one, two in zip(batch, again, strict=True))
    assert distance(slider.generate("a ring", MIX), slider.generate("a ring", "1,0,0")) > 2
    assert distance(slider.generate("a ring", MIX), slider.generate("a ring", MIX, 1)) > 2
    side = 8 * slider.pipe.vae_scale_factor
    assert slider.generate("a ring", MIX).size == (side, side)


def test_what_the_pipeline_itself_draws_at_the_same_weights(trained) -> None:
    slider = load(trained(steps=4, guidance=1.0), pipeline=tiny_pipelines.build("sd"))
    ours = slider.generate("a red star", MIX, 5)
    from morl.diffusion.rollout import initial_latents
    from morl.randomness import generator

    latents = initial_latents(slider.pipe, slider._family, 1, generator(5, 0, 0, "latents"))
    with slider.at(MIX):
        theirs = slider.pipe(
            "a red star", latents=latents, num_inference_steps=4, guidance_scale=1.0
        ).images[0]
    assert distance(ours, theirs) <= ONE_LEVEL


def test_one_of_each_gives_an_image_and_anything_else_a_list(slider) -> None:
    assert slider.generate("a ring", MIX).info["morl"]
    for prompt, weights, seed in (
        (["a ring"], MIX, 0),
        ("a ring", [MIX], 0),
        ("a ring", torch.eye(3)[:1], 0),
        ("a ring", MIX, [0]),
    ):
        assert len(slider.generate(prompt, weights, seed)) == 1
    assert len(slider.generate("a ring", torch.eye(3))) == 3
    assert len(slider.generate("a ring", MIX, [1, 2])) == 2


def test_an_image_says_how_it_was_made(slider) -> None:
    said = json.loads(slider.generate(["a ring"], MIX, 7)[0].info["morl"])
    assert (said["prompt"], said["seed"]) == ("a ring", 7)
    assert said["weights"] == pytest.approx(MIX)


def test_counts_that_do_not_fit(slider) -> None:
    with pytest.raises(ConfigError, match="got 2 prompts, 3 weights, 1 seeds"):
        slider.generate(["a", "b"], torch.eye(3))
    with pytest.raises(ConfigError, match="got 0 prompts"):
        slider.generate([], MIX)


def test_weights_by_name_are_checked(slider) -> None:
    with pytest.raises(WeightError, match="nearest: 'aesthetic'"):
        slider.generate("a ring", {"asthetic": 1.0})
    with pytest.raises(WeightError, match="must give all 3"):
        slider.generate("a ring", [0.5, 0.5])
    with pytest.warns(WeightNote, match="leave out alignment, safety"):
        slider.generate("a ring", {"aesthetic": 1.0})


def test_weights_outside_the_trained_region_are_said(trained) -> None:
    slider = load(trained(low=(0.0, 0.0, 0.2)), pipeline=tiny_pipelines.build("sd"))
    slider.generate("a ring", [0.5, 0.2, 0.3])
    with pytest.warns(RegionNote, match=r"safety=0 \(trained in 0.2..1\)"):
        slider.generate("a ring", [0.5, 0.5, 0.0])


def test_a_schedule_gives_every_step_its_weights(slider) -> None:
    one, two = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    steps = []

    def late(step: int):
        steps.append(step)
        return one if step < 2 else two

    mixed = slider.generate("a ring", late)
    assert set(steps) == {0, 1, 2}  # the header's three steps
    assert (
        distance(slider.generate("a ring", lambda _step: one), slider.generate("a ring", one)) == 0
    )
    assert distance(mixed, slider.generate("a ring", one)) > 0
    assert distance(mixed, slider.generate("a ring", two)) > 0
    # The first two steps are those of `one`: a schedule that differs later only shares them.
    path = torch.tensor([one, one, two])
    assert distance(slider.generate("a ring", lambda step: path[step]), mixed) == 0


def test_a_sweep_goes_from_one_vertex_to_the_other(slider) -> None:
    strip = slider.sweep("a ring", "alignment", "safety", points=3, seed=4, steps=2)
    ends = [[0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    expected = slider.generate(["a ring"], [list(map(float, w)) for w in ends], 4, steps=2)
    assert [distance(a, b) for a, b in zip(strip, expected, strict=True)] == [0, 0, 0]
    with pytest.raises(WeightError, match="nearest: 'safety'"):
        slider.sweep("a ring", "alignment", "safty")


def test_steps_and_guidance_are_as_trained_unless_given(trained) -> None:
    slider = load(trained(steps=2, guidance=1.0), pipeline=tiny_pipelines.build("sd"))
    default = slider.generate("a ring", MIX)
    assert distance(default, slider.generate("a ring", MIX, steps=2, guidance=1.0)) == 0
    assert distance(default, slider.generate("a ring", MIX, steps=5)) > 0
    with pytest.warns(GuidanceNote, match="trained at guidance 1 and drawn at 5") as said:
        assert distance(default, slider.generate("a ring", MIX, guidance=5.0)) > 0
    assert len(said) == 1
    assert slider.generate("a ring", MIX, size=(32, 16)).size == (16, 32)  # PIL: width first


# diffusers 0.42 calls numpy 2.4 in a way that numpy will drop.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_any_scheduler_draws_a_function_of_the_seed(trained) -> None:
    pipe = tiny_pipelines.build("sd")
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    slider = load(trained(), pipeline=pipe)
    batch = slider.generate("a ring", MIX, [1, 2, 3])
    assert distance(batch[2], slider.generate("a ring", MIX, 3)) <= ONE_LEVEL
    assert distance(batch[1], batch[2]) > 2


def test_on_the_users_own_pipeline(slider) -> None:
    pipe = tiny_pipelines.build("sd")

    def call():
        generator = torch.Generator().manual_seed(0)
        return pipe("a ring", num_inference_steps=2, generator=generator).images[0]

    bare = call()
    mine = slider.apply(pipe, weights=MIX)
    held = call()
    assert distance(held, bare) > 2
    with mine.at([1.0, 0.0, 0.0]):
        assert distance(call(), held) > 0
    assert distance(call(), held) == 0
    mine.hold("1,0,0")
    assert distance(call(), held) > 0
    mine.remove()
    assert distance(call(), bare) == 0


def test_another_base_model_is_refused(trained) -> None:
    pipe = tiny_pipelines.build("sd")
    with torch.no_grad():
        pipe.unet.conv_in.weight.neg_()
    file = trained()
    with pytest.raises(IntegrityError, match="but this is"):
        load(file, pipeline=pipe)
    assert load(file, pipeline=pipe, force=True).generate("a ring", MIX)


def test_loading_by_file_and_by_run(trained, tmp_path, monkeypatch) -> None:
    file = trained()
    with pytest.raises(DataError, match=r"pass your own, load\(file, pipeline=pipe\)"):
        load(file)
    with pytest.raises(DataError, match=r"holds no adapter\.safetensors"):
        load(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "nothing", pipeline=tiny_pipelines.build("sd"))
    base = tmp_path / "base"
    tiny_pipelines.build("sd").save_pretrained(base)
    (file.parent / "config.yaml").write_text(
        f"base:\n  model: {base}\nobjective:\n  maximize:\n    aesthetic: shapes_aesthetic\n"
    )
    slider = load(file.parent)
    assert slider.names == NAMES
    assert not any(p.requires_grad for p in slider.pipe.vae.parameters())


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_an_export_draws_the_same_on_a_plain_pipeline(layout, slider, tmp_path) -> None:
    file = slider.export(MIX, tmp_path / "lora.safetensors", format=layout)
    pipe: DiffusionPipeline = tiny_pipelines.build("sd")
    pipe.load_lora_weights(str(file))

    def call(of):
        return of(
            "a ring", num_inference_steps=2, generator=torch.Generator().manual_seed(0)
        ).images[0]

    with slider.at(MIX):
        assert distance(call(pipe), call(slider.pipe)) <= ONE_LEVEL
    assert len(load_file(file)) == len(slider.adapter.layers) * (2 if layout == "diffusers" else 3)
    with pytest.raises(WeightError, match="nearest"):
        slider.export({"asthetic": 1.0}, tmp_path / "b.safetensors")


def test_images_are_drawn_at_the_size_that_was_trained(trained) -> None:
    file = trained(steps=2, guidance=1.0, size=24)
    slider = load(file, pipeline=tiny_pipelines.build("sd"))
    assert slider.generate("a red star", MIX).size == (24, 24)
    assert slider.generate("a red star", MIX, size=(16, 32)).size == (32, 16)
