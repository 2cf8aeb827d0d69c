"""The embedded base model: every stage trains, resumes bit for bit and loads in diffusers."""

import hashlib
import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from morl.diffusion.shapes import save_pipeline, train_base
from morl.diffusion.shapes_fit import Schedule, fit
from morl.diffusion.shapes_stages import Budget, fit_reader, fit_unet, fit_vae
from morl.diffusion.shapes_text import (
    Reader,
    build_text_encoder,
    build_tokenizer,
    learn_merges,
    reading_labels,
    reading_loss,
    tokenize,
)
from morl.diffusion.shapes_unet import (
    build_scheduler,
    build_unet,
    denoising_loss,
)
from morl.diffusion.shapes_vae import (
    build_vae,
    encode_moments,
    standardize_latents,
    training_crops,
)
from morl.errors import IntegrityError, NumericalError
from rewards.shapes.captions import caption, held_out_prompts, vocabulary
from rewards.shapes.render import render, sample_scenes

TINY = Budget(
    images=8,
    vae_steps=4,
    vae_batch=3,
    text_steps=3,
    text_batch=2,
    unet_steps=3,
    unet_batch=2,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(folder: Path) -> dict[str, Tensor]:
    return {
        f"{file.parent.name}.{key}": value
        for file in folder.rglob("*.safetensors")
        for key, value in load_file(file).items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_base(tmp_path_factory.mktemp("base"), seed=5, budget=TINY)


@pytest.fixture(scope="module")
def loaded(trained: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(trained, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_pipeline_loads_and_generates(loaded: StableDiffusionPipeline) -> None:
    images = loaded(
        ["a red star on a dark background"] * 2,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=generator(),
        output_type="pt",
    ).images
    assert images.shape == (2, 3, 64, 64)
    assert torch.isfinite(images).all()
    assert loaded.safety_checker is None
    assert loaded.unet.dtype == torch.float32


def test_scheduler_settings_survive_saving(loaded: StableDiffusionPipeline) -> None:
    config = loaded.scheduler.config
    assert (config.timestep_spacing, config.prediction_type) == ("trailing", "v_prediction")
    assert not config.clip_sample
    # Sampling starts from pure noise, so the noisiest training level must be that too.
    assert loaded.scheduler.alphas_cumprod[-1] < 1e-4
    loaded.scheduler.set_timesteps(10)
    assert loaded.scheduler.timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


def test_tokenizer_knows_every_word_and_survives_saving(loaded: StableDiffusionPipeline) -> None:
    built = build_tokenizer([*vocabulary(), ","])
    start, end = loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id
    for word in [*vocabulary(), ","]:
        ids = loaded.tokenizer(word).input_ids
        assert (len(ids), ids[0], ids[-1]) == (3, start, end), word
        assert ids == built(word).input_ids
    assert loaded.tokenizer.model_max_length == 32
    # The text encoder reads its summary at the end token, which must be the tokenizer's own.
    assert loaded.text_encoder.config.eos_token_id == end
    assert loaded.tokenizer.decode(loaded.tokenizer("zebra!").input_ids, True) == "zebra !"


def test_vocabulary_files_say_the_same_as_the_tokenizer(
    trained: Path, loaded: StableDiffusionPipeline
) -> None:
    words = json.loads((trained / "tokenizer" / "vocab.json").read_text())
    assert words == loaded.tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    merges = (trained / "tokenizer" / "merges.txt").read_text().splitlines()
    stored = json.loads((trained / "tokenizer" / "tokenizer.json").read_text())["model"]["merges"]
    assert merges[1:] == [" ".join(pair) for pair in stored]


def test_longest_caption_fits_the_text_encoder(loaded: StableDiffusionPipeline) -> None:
    g = generator()
    longest = max(len(loaded.tokenizer(caption(s, g)).input_ids) for s in sample_scenes(g, 500))
    assert 15 < longest <= 32


def test_checksums_match_the_files(trained: Path) -> None:
    sums = json.loads((trained / "checksums.json").read_text())
    files = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    assert set(sums) == files - {"checksums.json"}
    for name, digest in sums.items():
        assert hashlib.sha256((trained / name).read_bytes()).hexdigest() == digest
    assert sum((trained / name).stat().st_size for name in sums) < 11_000_000
    assert not [name for name in files if name.endswith((".bin", ".pt", ".ckpt", ".pkl"))]


def test_same_seed_same_weights_and_finished_state_is_not_trained_again(
    trained: Path, tmp_path: Path
) -> None:
    again = weights(train_base(tmp_path, seed=5, budget=TINY))
    first = weights(trained)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    log = (tmp_path / "state" / "train.log").read_text()
    assert train_base(tmp_path, seed=5, budget=TINY) == tmp_path / "pipeline"
    assert (tmp_path / "state" / "train.log").read_text() == log
    third = weights(tmp_path / "pipeline")
    assert all(torch.equal(first[key], third[key]) for key in first)


def test_another_seed_gives_other_weights_and_refuses_the_state(tmp_path: Path) -> None:
    scenes = sample_scenes(generator(), 8)
    images = render(scenes)
    fit_vae(build_vae(1), images, scenes, TINY, tmp_path, seed=1)
    with pytest.raises(IntegrityError, match=r"vae\.safetensors belongs to another training"):
        fit_vae(build_vae(2), images, scenes, TINY, tmp_path, seed=2)


def test_vae_resumes_bit_for_bit(tmp_path: Path) -> None:
    scenes = sample_scenes(generator(), 8)
    images = render(scenes)
    straight, halting = build_vae(0), build_vae(0)
    assert fit_vae(straight, images, scenes, TINY, tmp_path / "a", seed=0)
    assert not fit_vae(halting, images, scenes, TINY, tmp_path / "b", seed=0, stop_after=2)
    resumed = build_vae(99)  # everything must come from the state
    assert fit_vae(resumed, images, scenes, TINY, tmp_path / "b", seed=0)
    assert_same_state(tmp_path / "a" / "vae.safetensors", tmp_path / "b" / "vae.safetensors")
    for left, right in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


def test_reader_resumes_bit_for_bit(tmp_path: Path) -> None:
    scenes = sample_scenes(generator(), 8)
    tokenizer = build_tokenizer(vocabulary())

    def run(seed: int, folder: str, stop_after: int | None = None) -> bool:
        reader = Reader(build_text_encoder(tokenizer, seed))
        return fit_reader(reader, tokenizer, scenes, TINY, tmp_path / folder, 0, stop_after)

    torch.manual_seed(0)  # the questions start at random as well
    assert run(0, "a")
    torch.manual_seed(0)
    assert not run(0, "b", stop_after=1)
    assert run(99, "b")
    assert_same_state(tmp_path / "a" / "text.safetensors", tmp_path / "b" / "text.safetensors")


def test_unet_resumes_bit_for_bit(tmp_path: Path) -> None:
    scenes = sample_scenes(generator(), 8)
    latents = torch.randn(8, 4, 16, 16, generator=generator()), torch.full((8, 4, 16, 16), 0.1)
    tokenizer = build_tokenizer(vocabulary())
    text = build_text_encoder(tokenizer, 0)
    before = [parameter.clone() for parameter in text.parameters()]

    def run(seed: int, folder: str, stop_after: int | None = None) -> bool:
        unet, folder_path = build_unet(seed), tmp_path / folder
        return fit_unet(
            unet, text, tokenizer, latents, scenes, TINY, folder_path, 0, stop_after=stop_after
        )

    assert run(0, "a")
    assert not run(0, "b", stop_after=1)
    assert run(99, "b")
    assert_same_state(tmp_path / "a" / "unet.safetensors", tmp_path / "b" / "unet.safetensors")
    for left, right in zip(before, text.parameters(), strict=True):
        assert torch.equal(left, right)  # this stage only reads it


def assert_same_state(left: Path, right: Path) -> None:
    first, second = load_file(left), load_file(right)
    assert first.keys() == second.keys()
    assert {key.split(".")[0] for key in first} == {"model", "average", "first", "second"}
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_fit_finds_a_minimum_and_leaves_the_average(tmp_path: Path) -> None:
    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.tensor([4.0, -3.0]))

    model = Point()
    target = torch.tensor([1.0, 2.0])
    schedule = Schedule(steps=300, learning_rate=0.1, warmup=10, average=0.9, weight_decay=0.0)
    fit("point", model, lambda step, g: (model.x - target).square().sum(), schedule, tmp_path, 0)
    torch.testing.assert_close(model.x.detach(), target, atol=0.02, rtol=0)
    assert torch.equal(model.x, load_file(tmp_path / "point.safetensors")["average.x"])


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    schedule = Schedule(steps=110, learning_rate=2.0, warmup=10, average=0.9)
    assert schedule.rate(0) == pytest.approx(0.2)  # 2 * 1/10
    assert schedule.rate(9) == pytest.approx(2.0)
    assert schedule.rate(60) == pytest.approx(1.0)  # half of the cosine
    assert schedule.rate(110) == pytest.approx(0.0)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    schedule = Schedule(steps=3, learning_rate=0.1, warmup=1, average=0.9)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        return model.weight.sum() * (math.nan if step == 2 else 1.0)

    with pytest.raises(NumericalError, match="'bad' is nan at step 2"):
        fit("bad", model, loss, schedule, tmp_path, 0)


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "vae.safetensors")
    scenes = sample_scenes(generator(), 2)
    with pytest.raises(IntegrityError, match="Choose another folder or remove the file"):
        fit_vae(build_vae(0), render(scenes), scenes, TINY, tmp_path, seed=0)


def test_standardized_latents_decode_to_the_same_images() -> None:
    vae = build_vae(0)
    images = render(sample_scenes(generator(), 16))
    scaled = 2 * images - 1
    moments = encode_moments(vae, images, chunk=5)
    with torch.no_grad():
        before = vae.decode(vae.encode(scaled).latent_dist.mean).sample
        mean, std = standardize_latents(vae, moments)
        posterior = vae.encode(scaled).latent_dist
        after = vae.decode(posterior.mean).sample
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    torch.testing.assert_close(posterior.mean, mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(posterior.std, std, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(mean.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    assert vae.config.scaling_factor == 1.0


def test_crops_are_windows_of_the_images() -> None:
    scenes = sample_scenes(generator(), 4)
    images = render(scenes)
    crops = training_crops(images, scenes, 20, generator(1))
    assert crops.shape == (20, 3, 32, 32)
    windows = images.unfold(2, 32, 1).unfold(3, 32, 1).permute(0, 2, 3, 1, 4, 5)
    windows = windows.reshape(-1, 3, 32, 32)
    for crop in crops:
        assert (windows == crop).flatten(1).all(1).any()


def test_crops_favour_the_marks() -> None:
    # A crop centred on a mark holds all of its about 40 strongly coloured pixels, and 30 % of
    # the crops are: of 200, at least 60 - 3 * sqrt(200 * 0.3 * 0.7) = 41. By chance: about 5 %.
    scenes = [s for s in sample_scenes(generator(), 60) if s.mark]
    crops = training_crops(render(scenes), scenes, 200, generator(1))
    magenta = (crops[:, 0] > 0.85) & (crops[:, 1] < 0.15) & (crops[:, 2] > 0.6)
    share = magenta.flatten(1).sum(1).gt(20).float().mean()
    assert share > 41 / 200


def test_denoising_loss_of_a_silent_network_by_hand() -> None:
    # The prediction is 0, so the loss is the mean of v^2. With e = 2 and x = 1 everywhere,
    # v = 2 sqrt(a) - sqrt(1 - a); at the first level a = 1 - 1e-4: v^2 = (1.9999 - 0.01)^2
    # = 3.9597; at the last, a = 4e-5: v^2 = (0.0127 - 1)^2 = 0.9748.
    unet = build_unet(0)
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    clean, context = torch.ones(1, 4, 16, 16), torch.zeros(1, 3, 128)
    for timestep, expected in ((0, 3.9597), (999, 0.9748)):
        with torch.no_grad():
            loss = denoising_loss(
                unet, build_scheduler(), clean, context, 2 * clean, torch.tensor([timestep])
            )
        assert float(loss) == pytest.approx(expected, abs=3e-4)


def test_denoising_loss_counts_the_corners_twice() -> None:
    # A silent network and e = 0, so v^2 = (1 - a) x^2. Error only in the middle: 256 - 64 places
    # at weight 1 out of 192 + 64 * 2 = 320; error only in the corners: 64 * 2 out of 320.
    unet = build_unet(0)
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    near = (torch.arange(16) < 4) | (torch.arange(16) >= 12)
    corners = (near[:, None] & near[None, :]).float().expand(1, 4, 16, 16)
    losses = []
    for clean in (corners, 1 - corners):
        with torch.no_grad():
            loss = denoising_loss(
                unet,
                build_scheduler(),
                clean.contiguous(),
                torch.zeros(1, 3, 128),
                torch.zeros(1, 4, 16, 16),
                torch.tensor([999]),
            )
        losses.append(float(loss))
    assert losses == pytest.approx([0.4, 0.6], abs=1e-3)


def test_denoising_loss_agrees_with_the_scheduler() -> None:
    # A network that predicts the scheduler's own velocity has no loss: the conventions agree.
    scheduler = build_scheduler()
    latents, noise = torch.randn(2, 4, 4, 16, 16, generator=generator())
    steps = torch.tensor([0, 250, 700, 999])

    class Oracle(nn.Module):
        def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> SimpleNamespace:
            torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, timesteps))
            return SimpleNamespace(sample=scheduler.get_velocity(latents, noise, timesteps))

    # Unwrapped, because the shape checker would ask for a genuine U-Net.
    loss = inspect.unwrap(denoising_loss)(
        Oracle(), scheduler, latents, torch.zeros(4, 3, 128), noise, steps
    )
    assert loss < 1e-10


def test_denoising_loss_has_a_finite_gradient_everywhere() -> None:
    unet = build_unet(0)
    latents, noise = torch.randn(2, 2, 4, 16, 16, generator=generator())
    context = torch.randn(2, 3, 128, generator=generator(), requires_grad=True)
    denoising_loss(
        unet, build_scheduler(), latents, context, noise, torch.tensor([0, 999])
    ).backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert context.grad is not None
    assert context.grad.abs().max() > 0


def test_reading_labels_by_hand() -> None:
    prompts = ["a small red star at the top on a sky background with a magenta mark", ""]
    # star is the 4th shape, red the 1st color, sky the 3rd background, top the 4th position.
    assert reading_labels(prompts).tolist() == [[4, 1, 3, 4, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_text_encoder_learns_to_parse_unseen_captions(tmp_path: Path) -> None:
    g = generator(1)
    tokenizer = build_tokenizer([*vocabulary(), ","])
    reader = Reader(build_text_encoder(tokenizer, 0))
    plan = replace(TINY, text_steps=50, text_batch=24)
    fit_reader(reader, tokenizer, sample_scenes(g, 500), plan, tmp_path, seed=0)
    prompts = held_out_prompts(100, seed=0)
    with torch.no_grad():
        loss = reading_loss(reader, tokenize(tokenizer, prompts), reading_labels(prompts))
    # Guessing costs the sum of the logarithms of the class counts,
    # ln(7 * 9 * 5 * 6 * 3 * 2) = 9.3.
    assert loss < 2


def test_merges_by_hand() -> None:
    # "at", "hat": pairs (a, t</w>) twice, (h, a) once -> at</w>; then (h, at</w>) -> hat</w>.
    assert learn_merges(["hat", "at"]) == [("a", "t</w>"), ("h", "at</w>")]
    assert learn_merges(["at", "hat", "at"]) == learn_merges(["hat", "at"])
    assert learn_merges(["a"]) == []


def test_budget_scales_its_steps_only() -> None:
    full = Budget(vae_steps=20, text_steps=10, unet_steps=40)
    assert full.scaled(0.5) == Budget(vae_steps=10, text_steps=5, unet_steps=20)
    assert Budget().scaled(1e-9).vae_steps == 1
    with pytest.raises(ValueError, match="`budget_scale` must be > 0; got 0"):
        Budget().scaled(0)


def test_saving_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(vocabulary())
    text = build_text_encoder(tokenizer, 0)
    for name in ("one", "two"):
        save_pipeline(build_vae(0), tokenizer, text, build_unet(0), tmp_path / name)
    one, two = (tmp_path / name / "checksums.json" for name in ("one", "two"))
    assert one.read_text() == two.read_text()
