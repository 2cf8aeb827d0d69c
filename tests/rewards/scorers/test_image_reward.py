"""ImageReward against its forward pass written from the formulas, on the authors' key layout."""

from __future__ import annotations

import re

import pytest
import tiny_scorers
import torch
import torch.nn.functional as F
from properties import assert_gradient_along_itself
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewards.blip_layout import image_reward_to_transformers
from rewards.checkpoints import CheckpointError
from rewards.convert import convert
from rewards.encoder_settings import EncoderSettings, configure
from rewards.pixels import CLIP_MEAN, CLIP_STD
from rewards.registry import build
from rewards.reward import ImageBatch
from rewards.scorers.blip_tower import BlipTower
from rewards.truncation import TruncatedPromptWarning

PROMPTS = ["a red cat", "a blue dog on a wire", "a red cat", "birds, two"]
# [CLS] 2, [SEP] 3, [PAD] 0, and numbers of WORDS.
NUMBERS = [[2, 5, 6, 8, 3], [2, 5, 7, 9, 13, 5, 14, 3], [2, 5, 6, 8, 3], [2, 12, 15, 11, 3]]


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def batch(count: int = 4) -> ImageBatch:
    return ImageBatch(images()[:count], PROMPTS[:count])


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(x: Tensor, state: dict[str, Tensor], name: str, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Heads of 64 in a loop; `mask` [batch, key] is 0 where nothing may be read."""
    parts = []
    for q, k, v in zip(query.split(64, -1), key.split(64, -1), value.split(64, -1), strict=True):
        logits = q @ k.transpose(1, 2) / 8
        if mask is not None:
            logits = logits.masked_fill(mask[:, None] == 0, -torch.inf)
        parts.append(logits.softmax(-1) @ v)
    return torch.cat(parts, -1)


def expected_image_side(pixels: Tensor, state: dict[str, Tensor]) -> Tensor:
    start = "blip.visual_encoder."
    proj = start + "patch_embed.proj"
    x = F.conv2d(pixels, state[f"{proj}.weight"], state[f"{proj}.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state[start + "cls_token"].expand(len(x), 1, -1), x], 1)
    x = x + state[start + "pos_embed"]
    for i in range(tiny_scorers.LAYERS):
        block = f"{start}blocks.{i}."
        parts = linear(norm(x, state, block + "norm1", 1e-6), state, block + "attn.qkv")
        x = x + linear(attention(*parts.chunk(3, -1)), state, block + "attn.proj")
        y = linear(norm(x, state, block + "norm2", 1e-6), state, block + "mlp.fc1")
        x = x + linear(F.gelu(y), state, block + "mlp.fc2")
    return norm(x, state, start + "norm", 1e-6)


def expected_first_state(pixels: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The text side's state of [CLS], prompts filled up to 35 tokens."""
    seen = expected_image_side(pixels, state)
    tokens = torch.tensor([[*row, *[0] * (35 - len(row))] for row in NUMBERS])
    mask = (tokens != 0).long()
    start = "blip.text_encoder."
    x = state[start + "embeddings.word_embeddings.weight"][tokens]
    x = x + state[start + "embeddings.position_embeddings.weight"][:35]
    x = norm(x, state, start + "embeddings.LayerNorm", 1e-12)
    for i in range(tiny_scorers.LAYERS):
        layer = f"{start}encoder.layer.{i}."
        for part, read, hidden in (("attention", None, mask), ("crossattention", seen, None)):
            name = f"{layer}{part}."
            other = x if read is None else read
            mixed = attention(
                linear(x, state, name + "self.query"),
                linear(other, state, name + "self.key"),
                linear(other, state, name + "self.value"),
                hidden,
            )
            x = x + linear(mixed, state, name + "output.dense")
            x = norm(x, state, name + "output.LayerNorm", 1e-12)
        y = F.gelu(linear(x, state, layer + "intermediate.dense"))
        x = norm(x + linear(y, state, layer + "output.dense"), state, layer + "output.LayerNorm", 0)
    return x[:, 0]


def expected_score(pixels: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = expected_first_state(pixels, state)
    for number in (0, 2, 4, 6, 7):
        x = linear(x, state, f"mlp.layers.{number}")
    return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072


def normalised(pixels: Tensor) -> Tensor:
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


class TestAgainstThePlainForward:
    def test_the_score(self, installed):
        expected = expected_score(normalised(images()), tiny_scorers.image_reward())
        got = build("image_reward").score(batch()).values
        assert expected.std() > 0.05
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    def test_five_layers_without_activation_are_the_stored_affine_map(self, installed):
        state = tiny_scorers.image_reward()
        x = torch.randn(50, tiny_scorers.BERT, generator=torch.Generator().manual_seed(1))
        layered = x
        for number in (0, 2, 4, 6, 7):
            layered = linear(layered, state, f"mlp.layers.{number}")
        stored = load_file(installed / "image_reward" / "model.safetensors")
        torch.testing.assert_close(linear(x, stored, "head"), layered, rtol=1e-4, atol=1e-5)

    def test_prompts_become_the_numbers_of_berts_vocabulary(self, installed):
        tower = build("image_reward").encoder.tower_as(BlipTower)
        tokens, mask = tower.tokens(PROMPTS)
        assert tokens.shape == mask.shape == (4, 35)
        for row, lit, numbers in zip(tokens.tolist(), mask.tolist(), NUMBERS, strict=True):
            assert row == [*numbers, *[0] * (35 - len(numbers))]
            assert lit == [*[1] * len(numbers), *[0] * (35 - len(numbers))]

    def test_capitals_accents_and_unknown_words_are_berts(self, installed):
        tower = build("image_reward").encoder.tower_as(BlipTower)
        tokens, _ = tower.tokens(["A  RÉD cats \U0001f600 [ENC]"])
        # "cats" is cat + ##s; the emoji is [UNK]; [ENC] is the second word beyond the file's.
        end = len(tiny_scorers.WORDS) + 1
        assert tokens[0, :9].tolist() == [2, 5, 6, 8, 10, 1, end, 3, 0]


class TestBehaviour:
    def test_the_prompt_and_the_image_both_count(self, installed):
        scorer = build("image_reward")
        base = scorer.score(batch()).values
        other = scorer.score(ImageBatch(images(), ["two dogs"] * 4)).values
        turned = scorer.score(ImageBatch(images().flip(0), PROMPTS)).values
        assert (base - other).abs().min() > 1e-3
        assert (base - turned).abs().min() > 1e-3

    def test_a_permuted_batch_gives_permuted_scores(self, installed):
        scorer, order = build("image_reward"), [2, 0, 3, 1]
        permuted = ImageBatch(images()[order], [PROMPTS[i] for i in order])
        torch.testing.assert_close(
            scorer.score(permuted).values, scorer.score(batch()).values[order]
        )

    def test_scores_do_not_depend_on_the_rest_of_the_batch(self, installed):
        scorer = build("image_reward")
        alone = [
            scorer.score(ImageBatch(images()[i : i + 1], [PROMPTS[i]])).values for i in range(4)
        ]
        torch.testing.assert_close(torch.cat(alone), scorer.score(batch()).values)

    def test_gradient_to_pixels(self, installed):
        scorer = build("image_reward")

        def score(pixels):
            return scorer.score(ImageBatch(pixels, PROMPTS)).values

        assert_gradient_along_itself(score, images() * 0.8 + 0.1)

    def test_micro_batches_change_nothing(self, installed):
        whole = build("image_reward").score(batch()).values
        configure("image_reward", EncoderSettings(micro_batch=3))
        pixels = images().requires_grad_()
        parts = build("image_reward").score(ImageBatch(pixels, PROMPTS)).values
        parts.sum().backward()
        torch.testing.assert_close(parts, whole)
        assert (pixels.grad.abs().amax((1, 2, 3)) > 0).all()

    def test_the_image_side_runs_once_a_batch(self, installed, monkeypatch):
        scorer, calls = build("image_reward"), []
        tower = scorer.encoder.tower_as(BlipTower)
        real = tower.encode_image
        monkeypatch.setattr(tower, "encode_image", lambda x: calls.append(len(x)) or real(x))
        one = batch()
        scorer.score(one)
        scorer.score(one)
        assert calls == [4]

    def test_bfloat16_keeps_the_head_in_float32(self, installed):
        full = build("image_reward").score(batch()).values
        configure("image_reward", EncoderSettings(dtype="bfloat16"))
        half = build("image_reward").score(batch()).values
        assert half.dtype == torch.float32
        assert not torch.equal(half, full)
        torch.testing.assert_close(half, full, rtol=0.1, atol=0.3)

    def test_a_long_prompt_is_cut_with_its_end_kept_and_said_once(self, installed):
        scorer = build("image_reward")
        tower = scorer.encoder.tower_as(BlipTower)
        long = "a red cat " * 20
        with pytest.warns(TruncatedPromptWarning, match="reads 33 tokens .* has 60"):
            tokens, mask = tower.tokens([long])
        tower.tokens([long, "birds " * 40])
        assert tower.truncated == 2
        assert tokens[0, -1] == 3
        assert mask.sum() == 35


class TestFilesThatAreNotIt:
    def test_convert_reads_the_published_file(self, tmp_path):
        file = tiny_scorers.write_image_reward(tmp_path / "from")
        folder = convert("image_reward", file, out=tmp_path / "to")
        assert {path.name for path in folder.iterdir()} == {
            "card.json",
            "config.json",
            "model.safetensors",
            "vocab.txt",
        }

    def test_convert_names_the_vocabulary_that_must_lie_beside(self, tmp_path):
        file = tiny_scorers.write_image_reward(tmp_path)
        (tmp_path / "vocab.txt").unlink()
        with pytest.raises(CheckpointError, match=r"put vocab.txt of google-bert/bert-base"):
            convert("image_reward", file, out=tmp_path / "to")

    @pytest.mark.parametrize(
        ("vocabulary", "message"),
        [(None, "no vocabulary that can be read"), ("[PAD]\ncat\n", "must hold 16 words .* got 2")],
    )
    def test_loading_names_a_vocabulary_that_is_absent_or_another(
        self, tmp_path, monkeypatch, vocabulary, message
    ):
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))
        folder = convert("image_reward", tiny_scorers.write_image_reward(tmp_path / "from"))
        (folder / "vocab.txt").unlink()
        if vocabulary:
            (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
        with pytest.raises(CheckpointError, match=message) as caught:
            build("image_reward")
        assert str(folder / "vocab.txt") in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("blip.visual_encoder.blocks.0.attn.rel_pos", "no place in ImageReward's image side"),
            ("blip.itm_head.weight", "no place in ImageReward"),
        ],
    )
    def test_convert_names_a_tensor_without_a_place(self, name, message):
        state = {**tiny_scorers.image_reward(), name: torch.zeros(1)}
        with pytest.raises(CheckpointError, match=message) as caught:
            image_reward_to_transformers(state)
        assert name in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop("vision_model.encoder.layers.1.mlp.fc2.bias"), "misses"),
            (lambda state: state.update(surplus=torch.zeros(1)), "has unknown tensors surplus"),
            (lambda state: state["head.weight"].fill_(torch.nan), "NaN .* head.weight"),
        ],
    )
    def test_loading_names_missing_extra_and_broken_tensors(
        self, tmp_path, monkeypatch, change, message
    ):
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))
        folder = convert("image_reward", tiny_scorers.write_image_reward(tmp_path / "from"))
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=re.compile(message)):
            build("image_reward")

    def test_absent_weights_name_both_downloads(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))
        with pytest.raises(CheckpointError, match="download THUDM/ImageReward Im") as caught:
            build("image_reward")
        assert "hf download google-bert/bert-base-uncased vocab.txt" in str(caught.value)
        assert "morl rewards convert image_reward ImageReward.pt" in str(caught.value)
