"""What each pipeline class declares, prompt encoding, packing and decoding."""

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline

from morl.diffusion.families import FAMILIES, decode, family_of, latent_channels
from morl.diffusion.prompts import PromptCache
from morl.errors import PipelineError
from rewards.truncation import TruncatedPromptWarning


class Derived(StableDiffusionPipeline):
    """A user's own subclass."""


def test_every_family_is_found(case) -> None:
    family = family_of(case.pipe)
    assert family.pipeline == type(case.pipe).__name__
    assert type(case.pipe.scheduler).__name__ == family.scheduler
    assert latent_channels(case.pipe, family) == case.pipe.vae.config.latent_channels


def test_a_subclass_has_the_family_of_its_base(build_pipe) -> None:
    components = build_pipe("sd").components
    assert family_of(Derived(**components)).pipeline == "StableDiffusionPipeline"


def test_unknown_pipeline_class(build_pipe) -> None:
    components = build_pipe("sd").components
    pipe = StableDiffusionInpaintPipeline(**components)
    with pytest.raises(PipelineError, match=r"StableDiffusionInpaintPipeline .* StableDiffusion"):
        family_of(pipe)


def test_denoiser_with_extra_channels(build_pipe) -> None:
    pipe = build_pipe("sd")
    pipe.unet.register_to_config(in_channels=9)
    with pytest.raises(PipelineError, match="takes 9 channels"):
        family_of(pipe)


def test_guidance_formula_by_hand() -> None:
    # u = 1, c = 3, guidance 2.5: 1 + 2.5 (3 - 1) = 6
    family = FAMILIES[0]
    output = torch.tensor([[1.0], [3.0]])
    assert family.combine(output, 2, 2.5).item() == 6
    assert family.combine(output, 1, 2.5) is output
    assert [family.groups(guidance) for guidance in (1.0, 1.5)] == [1, 2]


def test_packing_is_that_of_flux() -> None:
    family = next(family for family in FAMILIES if family.pipeline == "FluxPipeline")
    latents = torch.arange(2 * 4 * 6 * 8.0).view(2, 4, 6, 8)
    packed = family.pack(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(family.unpack(packed, 6, 8), latents)


def test_images_of_one_token_are_not_packed() -> None:
    latents = torch.ones(2, 4, 6, 8)
    assert FAMILIES[0].pack(latents) is latents
    assert FAMILIES[0].unpack(latents, 6, 8) is latents


def test_decode_is_that_of_the_pipeline(case) -> None:
    final = case.sample().final
    config = case.pipe.vae.config
    shift = config.get("shift_factor") or 0.0
    pixels = case.pipe.vae.decode(final / config.scaling_factor + shift)
    expected = case.pipe.image_processor.postprocess(pixels.sample, output_type="pt")
    torch.testing.assert_close(decode(case.pipe, final), expected)


def test_decode_undoes_shift_and_channel_statistics(build_pipe) -> None:
    pipe = build_pipe("sd")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = decode(pipe, latents)
    # With scale s, std d and mean m the decoder sees latents d / s + m; choose latents' so that
    # it sees the same as before.
    pipe.vae.register_to_config(latents_mean=[0.5] * 4, latents_std=[2.0] * 4)
    torch.testing.assert_close(decode(pipe, (latents - 0.25) / 2), plain)
    pipe.vae.register_to_config(latents_mean=None, latents_std=None, shift_factor=0.5)
    torch.testing.assert_close(decode(pipe, latents - 0.25), plain)


def test_saturated_pixels_keep_their_gradient(build_pipe) -> None:
    pipe = build_pipe("sd")
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.zero_()
        pipe.vae.decoder.conv_out.bias.fill_(10.0)
    bias = pipe.vae.decoder.conv_out.bias.requires_grad_(True)
    images = decode(pipe, torch.zeros(1, 4, 8, 8))
    assert images.eq(1).all()
    images.sum().backward()
    # d(pixel / 2 + 1/2) / d(bias) = 1/2 for each of the 16 x 16 pixels of a channel.
    torch.testing.assert_close(bias.grad, torch.full((3,), 128.0))


def test_prompts_are_encoded_as_the_pipeline_does(case) -> None:
    prompts = ["a red star", "x"]
    conditioning = PromptCache(case.pipe, case.family)(prompts)
    arguments = dict(case.family.encode_arguments)
    if case.family.classifier_free:
        arguments["do_classifier_free_guidance"] = True
    encoded = case.pipe.encode_prompt(
        prompt=prompts, device="cpu", num_images_per_prompt=1, **arguments
    )
    ours = conditioning.arguments(guided=case.family.classifier_free)
    named = dict(zip(case.family.encoded, encoded, strict=True))
    named.pop(None, None)
    assert ours.keys() == named.keys()
    for name, expected in named.items():
        torch.testing.assert_close(ours[name], expected)


def test_a_prompt_is_encoded_once(build_pipe) -> None:
    pipe = build_pipe("sd")
    seen = []
    pipe.text_encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0]))
    cache = PromptCache(pipe, family_of(pipe))
    first = cache(["a", "b", "a"])
    assert first.prompts == ("a", "b", "a")
    assert torch.equal(first.positive["prompt_embeds"][0], first.positive["prompt_embeds"][2])
    cache(["b", "a"])
    assert seen == [1, 1, 1, 1]  # a, b and the empty prompt, which stands on both sides


def test_long_prompts_are_cut_counted_and_said_once(case, caplog) -> None:
    cache = PromptCache(case.pipe, case.family)
    present = sum(
        name.startswith("tokenizer") and part is not None
        for name, part in case.pipe.components.items()
    )
    long = "a red star, " * 200
    with pytest.warns(TruncatedPromptWarning, match="the pipeline's tokenizer") as said:
        cut = cache(["a ring", long, long + "blue", long])
    assert len(said) == present
    assert list(cache.truncated.values()) == [2] * present
    assert not caplog.records  # the libraries would say it for each prompt
    # What is cut plays no part.
    for rows in cut.positive.values():
        assert torch.equal(rows[1], rows[2])
        assert torch.isfinite(rows).all()
    cache(["short", long])
    assert list(cache.truncated.values()) == [2] * present


def test_any_text_is_encoded(case) -> None:
    prompts = ["", "🐈‍⬛ on a 🛹", "نجمة حمراء", "\x00"]
    conditioning = PromptCache(case.pipe, case.family)(prompts)
    assert all(torch.isfinite(rows).all() for rows in conditioning.positive.values())


def test_the_cache_forgets_the_oldest(build_pipe) -> None:
    pipe = build_pipe("sd")
    seen = []
    cache = PromptCache(pipe, family_of(pipe), capacity=2)
    cache(["a", "b"])
    pipe.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    cache(["a", "c"])  # forgets b
    cache(["a"])
    assert len(seen) == 1
    cache(["b"])
    assert len(seen) == 2


def test_encoding_does_not_depend_on_the_company(case) -> None:
    alone = PromptCache(case.pipe, case.family)(["a red star"])
    among = PromptCache(case.pipe, case.family)(["x", "a ring, blue", "a red star"])
    for name, rows in alone.positive.items():
        assert torch.equal(rows[0], among.positive[name][2])


@pytest.mark.parametrize("prompts", [[], "a red star"])
def test_bad_prompts(build_pipe, prompts) -> None:
    pipe = build_pipe("sd")
    with pytest.raises(ValueError, match="`prompts` must be a non-empty sequence"):
        PromptCache(pipe, family_of(pipe))(prompts)
    with pytest.raises(ValueError, match="`capacity`"):
        PromptCache(pipe, family_of(pipe), capacity=0)


def test_offloaded_text_encoders_come_only_for_new_prompts(case, monkeypatch) -> None:
    expected = PromptCache(case.pipe, case.family)(["a red star", "x"])
    moves = []
    for name, component in case.pipe.components.items():
        if name.startswith("text_encoder") and component is not None:
            monkeypatch.setattr(component, "to", lambda device: moves.append(str(device)))
    cache = PromptCache(case.pipe, case.family, offload=True)
    away = list(moves)
    assert set(away) == {"cpu"}
    moves.clear()
    found = cache(["a red star", "x"])
    assert moves == [str(case.pipe.device)] * len(away) + away
    moves.clear()
    cache(["x", "a red star"])
    assert moves == []
    for name, rows in expected.positive.items():
        assert torch.equal(found.positive[name], rows)
