"""The CLIP family, on tiny checkpoints of the genuine key layout with the genuine heads."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from properties import assert_gradient_matches_finite_difference
from safetensors.torch import load_file, save_file

from rewards.checkpoints import HEADS, CheckpointError
from rewards.encoder_settings import EncoderSettings, configure
from rewards.encoders import KEPT_PROMPTS, Encoder, encoder_of
from rewards.panel import Panel
from rewards.pixels import CLIP_MEAN, CLIP_STD, PixelPlan
from rewards.registry import build
from rewards.reward import ImageBatch
from rewards.scorers.clip_tower import ClipTower, logit_scale
from rewards.scorers.facts import REAL_MODELS
from rewards.scorers.heads import ASSETS, affine, cosine, load_head, unit
from rewards.scorers.safety import SAFE, UNSAFE, nsfw_logit, q16_logits
from rewards.truncation import TruncatedPromptWarning

# Test folders are no packages: the plain forward lies beside this file.
_spec = importlib.util.spec_from_file_location("reference", Path(__file__).parent / "reference.py")
ref = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ref)

PROMPTS = ["a red cat", "a blue dog", "a red cat", "two birds on a wire, at dusk"]
FIVE_ON_L14 = [
    "laion_aesthetic_v2",
    "laion_aesthetic_v1_l14",
    "clip_score",
    "laion_nsfw_l14",
    "clip_diversity",
]
# AlexNet reads no images as small as these; HPSv3 makes large ones of them and has its own tests.
OURS = [facts.name for facts in REAL_MODELS if facts.encoder not in ("alexnet", "hpsv3")]


def images(count: int = 4, height: int = 28, width: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 4, **shape) -> ImageBatch:
    return ImageBatch(images(count, **shape), PROMPTS[:count])


@pytest.fixture
def complete(installed, tmp_path, monkeypatch):
    """The tiny checkpoints, and the two heads that a user would bring."""
    from rewards.convert import convert

    for name in ("q16", "siglip_head"):
        if not (installed / name).is_dir():
            generator = torch.Generator().manual_seed(3)
            if name == "q16":
                pair = torch.randn(2, 768, generator=generator).numpy()
                np.savez(tmp_path / "q16.npz", **{"ViT-L-14": pair})
                convert(name, tmp_path / "q16.npz")
            else:
                weight = torch.randn(1, 64, generator=generator)
                save_file({"weight": weight, "bias": torch.ones(1)}, tmp_path / "h.safetensors")
                convert(name, tmp_path / "h.safetensors")
    return installed


def scores(name: str, of: ImageBatch) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the licence of Q16 is said once
        return build(name).score(of).values


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def unit_vectors(width: int) -> dict[str, torch.Tensor]:
    """The three inputs of the golden table: all equal, the first basis vector, alternating."""
    alternating = torch.ones(width)
    alternating[1::2] = -1
    first = torch.zeros(width)
    first[0] = 1
    return {"u": torch.ones(width) / width**0.5, "e0": first, "alt": alternating / width**0.5}


class TestGoldenValuesOfTheShippedHeads:
    """Computed in float64 from the authors' files."""

    @pytest.mark.parametrize(
        ("name", "width", "at", "expected"),
        [
            ("laion_aesthetic_v2", 768, "u", 4.88328485),
            ("laion_aesthetic_v2", 768, "e0", 4.54505240),
            ("laion_aesthetic_v1_l14", 768, "u", 1.51313),
            ("laion_aesthetic_v1_b32", 512, "u", 3.90816),
            ("laion_aesthetic_v1_b16", 512, "u", 1.25785),
        ],
    )
    def test_affine_heads(self, name, width, at, expected):
        head = load_head(name, {"weight", "bias"})
        value = affine(unit_vectors(width)[at][None], head["weight"], head["bias"]).item()
        assert value == pytest.approx(expected, rel=1e-5)

    def test_the_head_has_the_published_norm_and_offset(self):
        head = load_head("laion_aesthetic_v2", {"weight", "bias"})
        assert head["weight"].norm().item() == pytest.approx(17.99562478, rel=1e-6)
        assert head["bias"].item() == pytest.approx(5.23664584, rel=1e-6)

    @pytest.mark.parametrize(
        ("name", "width", "at", "expected"),
        [
            ("laion_nsfw_l14", 768, "u", -11.0424035),
            ("laion_nsfw_l14", 768, "e0", -4.6993384),
            ("laion_nsfw_l14", 768, "alt", -9.7684955),
            ("laion_nsfw_b32", 512, "u", -15.3820584),
            ("laion_nsfw_b32", 512, "e0", -20.8981475),
            ("laion_nsfw_b32", 512, "alt", -16.0472259),
        ],
    )
    def test_nsfw_logits(self, name, width, at, expected):
        head = load_file(ASSETS / name / "head.safetensors")
        assert nsfw_logit(unit_vectors(width)[at][None], head).item() == pytest.approx(
            expected, rel=1e-5
        )

    def test_every_shipped_head_has_its_licence_stated(self):
        text = (ASSETS / "LICENCES.md").read_text(encoding="utf-8")
        shipped = {folder.name for folder in ASSETS.iterdir() if folder.is_dir()}
        assert shipped == {name for name, head in HEADS.items() if head.shipped}
        assert all(
            name in text or name.removeprefix("laion_aesthetic_v1") in text for name in shipped
        )


class TestAgainstThePlainForward:
    """Images have the towers' own size, so that only network and formula are compared."""

    def features(self, home, name, act=ref.quick_gelu):
        state = ref.read(home / name)
        got = batch()
        return (
            ref.image_features(normalised(got.images), state, act),
            ref.text_features(PROMPTS, state, act),
            state["logit_scale"].exp().item(),
        )

    def test_aesthetics(self, installed):
        image, _, _ = self.features(installed, "clip_vit_l_14")
        head = load_file(ASSETS / "laion_aesthetic_v2" / "head.safetensors")
        expected = (F.normalize(image) * head["weight"]).sum(1) + head["bias"]
        torch.testing.assert_close(
            scores("laion_aesthetic_v2", batch()), expected, rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize(
        ("name", "formula"),
        [
            ("clip_score", lambda cos, scale: cos),
            ("clip_score_100", lambda cos, scale: 100 * cos),
            ("clip_logit", lambda cos, scale: scale * cos),
        ],
    )
    def test_scales_of_the_clip_score(self, installed, name, formula):
        image, text, scale = self.features(installed, "clip_vit_l_14")
        expected = formula(ref.row_cosine(image, text), scale)
        torch.testing.assert_close(scores(name, batch()), expected, rtol=1e-4, atol=1e-5)

    def test_the_papers_clip_score_has_a_prefix_and_no_negative_values(self, installed):
        state = ref.read(installed / "clip_vit_b_32")
        image = ref.image_features(normalised(batch().images), state, ref.quick_gelu)
        text = ref.text_features(["A photo depicts " + p for p in PROMPTS], state, ref.quick_gelu)
        expected = 2.5 * ref.row_cosine(image, text).clamp(min=0)
        torch.testing.assert_close(
            scores("clip_score_hessel", batch()), expected, rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize(
        ("name", "folder", "scaled"),
        [
            ("pickscore", "pickscore_v1", True),
            ("hpsv2", "hpsv2", False),
            ("hpsv2_1", "hpsv2_1", False),
            ("open_clip_score", "open_clip_vit_h_14", False),
        ],
    )
    def test_tuned_towers(self, installed, name, folder, scaled):
        image, text, scale = self.features(installed, folder, F.gelu)
        expected = ref.row_cosine(image, text) * (scale if scaled else 1)
        torch.testing.assert_close(scores(name, batch()), expected, rtol=1e-4, atol=1e-5)

    def test_hps_sees_zeros_around_a_wide_image(self, installed):
        wide = images(4, 14, 28)
        padded = F.pad(wide, (0, 0, 7, 7))
        state = ref.read(installed / "hpsv2")
        expected = ref.row_cosine(
            ref.image_features(normalised(padded), state, F.gelu),
            ref.text_features(PROMPTS, state, F.gelu),
        )
        got = scores("hpsv2", ImageBatch(wide, PROMPTS))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    def test_steering(self, installed):
        state = ref.read(installed / "hpsv2")
        image = F.normalize(ref.image_features(normalised(batch().images), state, F.gelu))
        safe, unsafe, text = (
            F.normalize(ref.text_features(list(p), state, F.gelu)) for p in (SAFE, UNSAFE, PROMPTS)
        )
        direction = F.normalize(safe.mean(0) - unsafe.mean(0), dim=0)
        expected = ref.row_cosine(image, text + 0.5 * direction)
        torch.testing.assert_close(
            scores("steering_similarity", batch()), expected, rtol=1e-4, atol=1e-5
        )

    def test_q16(self, complete):
        image, _, _ = self.features(complete, "clip_vit_l_14")
        pair = load_file(complete / "q16" / "head.safetensors")["prompts"]
        p = (100 * F.normalize(image) @ F.normalize(pair).T).softmax(1)[:, 1]
        torch.testing.assert_close(scores("q16", batch()).sigmoid(), p, rtol=1e-4, atol=1e-6)

    def test_siglip(self, complete):
        from transformers import SiglipModel

        model = SiglipModel.from_pretrained(complete / "siglip_so400m_384").eval()
        ids = torch.tensor([[2, 3, 5, 0, 0, 0], [2, 4, 6, 0, 0, 0]])
        with torch.no_grad():
            said = model(input_ids=ids, pixel_values=(images(2) - 0.5) / 0.5)
        expected = ref.row_cosine(said.image_embeds, said.text_embeds)
        got = scores("siglip_score", batch(2))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OURS)
class TestEveryScorer:
    def test_values_are_finite_in_range_and_one_an_image(self, complete, name):
        got = scores(name, batch(height=45, width=31))
        facts = next(facts for facts in REAL_MODELS if facts.name == name)
        assert got.shape == (4,)
        assert torch.isfinite(got).all()
        assert got.min() >= facts.low - 1e-5 or facts.granularity == "group"
        assert got.max() <= facts.high + 1e-5

    def test_a_permuted_batch_gives_permuted_scores(self, complete, name):
        got, order = batch(), [2, 0, 3, 1]
        turned = ImageBatch(got.images[order], [PROMPTS[i] for i in order])
        torch.testing.assert_close(
            scores(name, turned), scores(name, got)[order], rtol=1e-4, atol=1e-4
        )

    def test_the_prompt_plays_no_part_where_none_is_read(self, complete, name):
        facts = next(facts for facts in REAL_MODELS if facts.name == name)
        got = batch()
        same = torch.equal(scores(name, got), scores(name, ImageBatch(got.images, PROMPTS[::-1])))
        # The first and the last of the prompts differ: only groups are alike in both orders.
        assert same != facts.reads_prompt or facts.granularity == "group"

    def test_a_batch_scores_as_its_images_alone(self, complete, name):
        facts = next(facts for facts in REAL_MODELS if facts.name == name)
        if facts.granularity == "group":
            pytest.skip("a measure of groups")
        got = batch()
        alone = [scores(name, ImageBatch(got.images[i : i + 1], [PROMPTS[i]])) for i in range(4)]
        torch.testing.assert_close(scores(name, got), torch.cat(alone), rtol=1e-4, atol=1e-4)

    def test_gradient_flows_to_every_pixel_of_its_image(self, complete, name):
        if not next(facts for facts in REAL_MODELS if facts.name == name).differentiable:
            pytest.skip("declares no gradient")
        pixels = images(4, 40, 28).requires_grad_()
        scores(name, ImageBatch(pixels, ["a red cat"] * 4)).sum().backward()
        assert torch.isfinite(pixels.grad).all()
        if name == "clip_score_hessel":  # 0 below a cosine of 0, as published
            return
        assert (pixels.grad.flatten(1).abs().amax(1) > 0).all()

    def test_a_panel_takes_it(self, complete, name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            table = Panel([build(name)])(ImageBatch(images(), ["a red cat"] * 4))
        assert table.valid.all()


class TestGradient:
    def test_it_is_that_of_finite_differences(self, installed):
        torch.manual_seed(0)
        reward = build("clip_score")
        assert isinstance(reward.encoder.tower, ClipTower)
        reward.encoder.tower.double()
        pixels = images(1, 28, 28).double() * 0.6 + 0.2
        features = F.normalize(reward.encoder.tower.encode_text(["a cat"]).double())
        plan = PixelPlan(28)
        mean, std = (torch.tensor(v).double()[:, None, None] for v in (plan.mean, plan.std))

        def cos(x):
            model = reward.encoder.tower.model
            seen = model.get_image_features(pixel_values=(x - mean) / std).pooler_output
            return (F.normalize(seen) * features).sum(1)

        assert_gradient_matches_finite_difference(cos, pixels)


class TestSharing:
    def test_five_scorers_on_l14_are_one_forward(self, installed, monkeypatch):
        calls = []
        encode = ClipTower.encode_image
        monkeypatch.setattr(
            ClipTower, "encode_image", lambda self, x: calls.append(len(x)) or encode(self, x)
        )
        panel = Panel([build(name) for name in FIVE_ON_L14])
        panel(ImageBatch(images(), ["a red cat"] * 4))
        assert calls == [4]
        panel(ImageBatch(images(seed=1), ["a red cat"] * 4))
        assert calls == [4, 4]

    def test_prompts_are_encoded_once(self, installed, monkeypatch):
        calls = []
        encode = ClipTower.encode_text
        monkeypatch.setattr(
            ClipTower, "encode_text", lambda self, p: calls.append(list(p)) or encode(self, p)
        )
        rewards = [build("clip_score"), build("clip_score_100")]
        for _ in range(2):
            Panel(rewards)(batch())
        assert calls == [["a red cat", "a blue dog", "two birds on a wire, at dusk"]]

    def test_old_prompts_are_forgotten(self, monkeypatch):
        monkeypatch.setattr("rewards.encoders.KEPT_PROMPTS", 2)
        asked = []

        class Lengths:
            def encode_image(self, pixels):
                return pixels.mean((2, 3))

            def encode_text(self, prompts):
                asked.append(list(prompts))
                return torch.tensor([[float(len(p))] for p in prompts])

        encoder = Encoder("lengths", Lengths())
        assert encoder.text_features(["a", "bb", "ccc"]).tolist() == [[1], [2], [3]]
        encoder.text_features(["ccc"])
        encoder.text_features(["a"])
        assert asked == [["a", "bb", "ccc"], ["a"]]
        assert KEPT_PROMPTS > 1000

    def test_two_checkpoints_are_two_encoders(self, installed):
        a, b = build("hpsv2"), build("hpsv2_1")
        assert a.encoder is not b.encoder
        assert encoder_of("hpsv2") is a.encoder

    def test_an_encoder_is_freed_with_its_last_scorer(self, installed):
        import gc
        import weakref

        alive = weakref.ref(build("hpsv2").encoder)
        gc.collect()
        assert alive() is None


class TestSettings:
    def test_parts_of_a_batch_give_the_same_values_and_gradients(self, installed):
        pixels = images(4, 40, 28)
        got = []
        for size in (None, 3, 1):
            configure("clip_vit_l_14", EncoderSettings(micro_batch=size))
            asked = pixels.clone().requires_grad_()
            values = build("clip_score").score(ImageBatch(asked, PROMPTS)).values
            values.sum().backward()
            got.append((values.detach(), asked.grad))
        for values, gradient in got[1:]:
            torch.testing.assert_close(values, got[0][0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(gradient, got[0][1], rtol=1e-4, atol=1e-6)

    def test_half_precision_towers_have_float32_heads(self, installed):
        whole = scores("laion_aesthetic_v2", batch())
        configure("clip_vit_l_14", EncoderSettings(dtype="bfloat16"))
        reward = build("laion_aesthetic_v2")
        values = reward.score(batch()).values
        assert values.dtype == torch.float32
        assert next(reward.encoder.tower.model.parameters()).dtype == torch.bfloat16
        assert values.tolist() == pytest.approx(whole.tolist(), abs=0.5)
        # Read before the cast, in which 14.29 would become 14.25
        assert logit_scale(reward.encoder) == pytest.approx(1 / 0.07, rel=1e-4)

    def test_both_pixel_modes_agree_within_a_hundredth_of_the_spread(self, installed):
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(16, 3, 12, 12, generator=generator)
        pixels = F.interpolate(coarse, (97, 75), mode="bilinear")
        pixels = (pixels * 255).round() / 255
        asked = ImageBatch(pixels, ["a cat"] * 16)
        smooth = scores("laion_aesthetic_v2", asked)
        configure("clip_vit_l_14", EncoderSettings(pixels="exact"))
        exact = scores("laion_aesthetic_v2", ImageBatch(pixels, ["a cat"] * 16))
        assert not torch.equal(exact, smooth)
        assert (exact - smooth).abs().mean() <= 0.01 * exact.std()

    def test_exact_pixels_refuse_a_gradient(self, installed):
        configure("clip_vit_l_14", EncoderSettings(pixels="exact"))
        with pytest.raises(Exception, match="'differentiable'"):
            build("clip_score").score(ImageBatch(images().requires_grad_(), PROMPTS))

    def test_a_folder_is_taken(self, installed, tmp_path, monkeypatch):
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))
        configure("clip_vit_l_14", EncoderSettings(folder=str(installed / "clip_vit_l_14")))
        assert torch.isfinite(scores("clip_score", batch())).all()


class TestPrompts:
    def test_long_prompts_are_cut_counted_and_said_once(self, installed):
        reward = build("clip_score")
        long = "cat " * 100
        with pytest.warns(TruncatedPromptWarning, match="reads 75 tokens") as said:
            first = reward.score(ImageBatch(images(2), [long, long + "dog"])).values
        assert len(said) == 1
        assert reward.encoder.tower.truncated == 2
        # What is cut plays no part: both are 75 times "cat"
        same = reward.score(ImageBatch(images(1).repeat(2, 1, 1, 1), [long, long + "dog"])).values
        assert same[0].item() == pytest.approx(same[1].item(), abs=1e-6)
        assert torch.isfinite(first).all()

    @pytest.mark.parametrize(
        "prompt", ["", " ", "🐈‍⬛ on a 🛹", "قطة حمراء", "<|endoftext|>", "\x00"]
    )
    def test_any_text_is_read(self, installed, prompt):
        assert torch.isfinite(scores("clip_score", ImageBatch(images(1), [prompt]))).all()

    def test_siglip_cuts_too(self, complete):
        reward = build("siglip_score")
        with pytest.warns(TruncatedPromptWarning, match="reads 6 tokens"):
            reward.score(ImageBatch(images(1), ["a red cat a blue dog a cat"]))
        assert reward.encoder.tower.truncated == 1


class TestImages:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 3), (29, 27), (300, 200)])
    def test_any_size_is_read(self, installed, shape):
        for name in ("clip_score", "hpsv2"):
            got = scores(name, ImageBatch(images(1, *shape), ["a cat"]))
            assert torch.isfinite(got).all()


class TestBrokenCheckpoints:
    @pytest.fixture
    def changed(self, installed, tmp_path, monkeypatch):
        """Write the tiny L/14 with its tensors changed, and let the scorers find it."""
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))

        def write(change):
            folder = tmp_path / "clip_vit_l_14"
            folder.mkdir()
            tensors = load_file(installed / "clip_vit_l_14" / "model.safetensors")
            change(tensors)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            config = (installed / "clip_vit_l_14" / "config.json").read_text()
            (folder / "config.json").write_text(config)

        return write

    def test_missing_tensors_are_named(self, changed):
        changed(lambda tensors: [tensors.pop(k) for k in list(tensors) if "q_proj" in k])
        with pytest.raises(CheckpointError, match=r"misses tensors .*q_proj.bias.* and 3 more"):
            build("clip_score")

    def test_extra_tensors_are_named(self, changed):
        changed(lambda tensors: tensors.update(extra_head=torch.zeros(2)))
        with pytest.raises(CheckpointError, match="has unknown tensors extra_head"):
            build("clip_score")

    def test_positions_of_old_files_are_no_fault(self, changed):
        positions = torch.arange(77)[None]
        key = "text_model.embeddings.position_ids"
        changed(lambda tensors: tensors.update({key: positions}))
        assert torch.isfinite(scores("clip_score", batch())).all()

    def test_another_shape_is_named(self, changed):
        changed(lambda tensors: tensors.update({"visual_projection.weight": torch.zeros(5, 64)}))
        with pytest.raises(CheckpointError, match=r"another shape tensors visual_projection"):
            build("clip_score")

    def test_values_that_are_not_finite_are_named(self, changed):
        def spoil(tensors):
            tensors["visual_projection.weight"][0, 0] = torch.nan

        changed(spoil)
        with pytest.raises(CheckpointError, match=r"NaN .* visual_projection\.weight"):
            build("clip_score")


class TestClosedForms:
    def test_unit_keeps_zero_and_its_gradient_finite(self):
        x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
        y = unit(x)
        torch.testing.assert_close(y, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
        y.sum().backward()
        assert torch.isfinite(x.grad).all()

    def test_cosine(self):
        # (1, 0).(1, 1) / (1 sqrt 2) = 0.7071; parallel 1; opposite -1
        a = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
        b = torch.tensor([[1.0, 1.0], [5.0, 0.0], [-3.0, -3.0]])
        assert cosine(a, b).tolist() == pytest.approx([0.7071068, 1, -1], abs=1e-6)

    def test_q16_logits(self):
        # cos (1,0) with (2,0): 1, with (0,3): 0
        prompts = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
        assert q16_logits(torch.tensor([[1.0, 0.0]]), prompts).tolist() == [[100.0, 0.0]]

    def test_the_nsfw_cost_is_bounded_and_its_gradient_is_not(self, installed):
        reward = build("laion_nsfw_b32")
        x = unit_vectors(512)["u"][None].clone().requires_grad_()
        value = reward.measure(x)
        assert value.item() == -10
        value.backward()
        assert x.grad.abs().max() > 0
