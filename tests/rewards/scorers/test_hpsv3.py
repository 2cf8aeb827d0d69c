"""HPSv3 from a tiny random checkpoint in the published key layout, against transformers' own path.

The truth: one image at a time, PIL and transformers' image processor, transformers' whole Qwen2-VL
with positions that simply count, and the head's three layers written out.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_scorers import Draw
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLImageProcessor, Qwen2VLModel

from rewards import R, encoder_settings, maximize
from rewards.checkpoints import CheckpointError
from rewards.convert import convert
from rewards.encoder_settings import EncoderSettings, configure
from rewards.encoders import encoder_of
from rewards.pixels import to_bytes
from rewards.registry import build
from rewards.reward import ImageBatch
from rewards.scorers.hpsv3_tower import LONGEST_PROMPT, Hpsv3Tower, instruction, prepared
from rewards.truncation import TruncatedPromptWarning

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
)
WORDS = ("<unk>", "user", "assistant", "judge", "this", "a", "red", "blue", "cat", "dog", "rating")
ROWS = len(SPECIAL) + len(WORDS) + 1  # <|Reward|> comes last
WIDTH, EYE = 128, 80
TEMPLATE = (
    "{% for message in messages %}<|im_start|>user {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
TEXTS = '''import torch, nothing_that_exists
INSTRUCTION = """judge this {text_prompt} """
prompt_with_special_token = "rating <|Reward|> "
prompt_without_special_token = "rating"
'''


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        unk_token="<unk>",
        pad_token=SPECIAL[0],
        additional_special_tokens=list(SPECIAL[1:]),
    )
    made.chat_template = TEMPLATE
    return made


def network() -> Qwen2VLModel:
    """Two layers a side, one head each, random weights large enough to tell inputs apart."""
    config = Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": EYE, "hidden_size": WIDTH, "num_heads": 1},
        text_config={
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "vocab_size": ROWS,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
            "bos_token_id": None,
            "eos_token_id": None,
        },
        image_token_id=SPECIAL.index("<|image_pad|>"),
    )
    model = Qwen2VLModel(config).eval()
    draw = Draw(7, 0.15)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = draw(*parameter.shape)
            parameter.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    return model


def head() -> dict[str, torch.Tensor]:
    draw = Draw(8, 0.1)
    return {
        **draw.linear("rm_head.0", 1024, WIDTH),
        **draw.linear("rm_head.3", 16, 1024),
        **draw.linear("rm_head.5", 2, 16),
    }


def published(model: Qwen2VLModel) -> dict[str, torch.Tensor]:
    """As transformers 4 named them: `model.` the language model, `visual.` the image side."""
    state = {
        name.replace("language_model.", "model.", 1): tensor.contiguous()
        for name, tensor in model.state_dict().items()
    }
    return {**state, "lm_head.weight": torch.zeros(ROWS, WIDTH), **head()}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The authors' file, Qwen2-VL's tokenizer and the authors' Python file, in one folder."""
    folder = tmp_path_factory.mktemp("hpsv3_originals")
    save_file(published(network()), folder / "HPSv3.safetensors")
    tokenizer().save_pretrained(folder, save_jinja_files=False)
    (folder / "data_collator_qwen.py").write_text(TEXTS)
    return folder


@pytest.fixture(scope="module")
def home(originals, tmp_path_factory):
    home = tmp_path_factory.mktemp("hpsv3_home")
    convert("hpsv3", originals / "HPSv3.safetensors", out=home / "hpsv3")
    return home


@pytest.fixture
def exact(home, monkeypatch):
    monkeypatch.setenv("MORL_REWARDS_HOME", str(home))
    monkeypatch.setattr(encoder_settings, "_CHOSEN", {})
    configure("hpsv3", EncoderSettings(pixels="exact"))


@pytest.fixture
def installed(home, monkeypatch):
    monkeypatch.setenv("MORL_REWARDS_HOME", str(home))
    monkeypatch.setattr(encoder_settings, "_CHOSEN", {})


def images(count: int = 2, height: int = 30, width: int = 50) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def expected(pixels: np.ndarray, prompt: str) -> tuple[float, float]:
    """Mean and deviation of one image by transformers alone."""
    target = (588, 364)  # width, height: 50 x 30 stretched by sqrt(200704 / 1500), rounded up to 28
    resized = Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC)
    inputs = Qwen2VLImageProcessor(do_resize=False)(images=[resized], return_tensors="pt")
    words = int(inputs["image_grid_thw"].prod()) // 4
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    pads = "<|image_pad|>" * words
    text = (
        f"<|im_start|>user <|vision_start|>{pads}<|vision_end|>judge this {prompt} rating "
        "<|Reward|> <|im_end|><|im_start|>assistant"
    )
    tokens = torch.tensor([made(text, add_special_tokens=False)["input_ids"]])
    states = network()(
        input_ids=tokens,
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        position_ids=torch.arange(tokens.shape[1]).expand(3, 1, -1),
    ).last_hidden_state
    x, layers = states[tokens == ROWS - 1], head()
    for i in (0, 3, 5):
        x = x @ layers[f"rm_head.{i}.weight"].T + layers[f"rm_head.{i}.bias"]
        x = x if i == 5 else x.clamp(min=0)
    return x[0, 0].item(), x[0, 1].exp().item()


PROMPTS = ["a red cat", "a blue dog this red cat"]


def test_score_and_uncertainty_are_those_of_transformers(exact):
    scores = build("hpsv3").score(ImageBatch(images(), PROMPTS))
    assert scores.std is not None
    for i, pixels in enumerate(to_bytes(images())):
        mean, std = expected(pixels, PROMPTS[i])
        assert scores.values[i].item() == pytest.approx(mean, rel=1e-4, abs=1e-5)
        assert scores.std[i].item() == pytest.approx(std, rel=1e-4)
    assert scores.values[0] != pytest.approx(scores.values[1].item(), rel=1e-2)


def test_pessimism_lowers_the_score_by_its_own_uncertainty(exact):
    objective = maximize(preference=R("hpsv3"), dark=-R("brightness")).pessimistic(2.0)
    batch = ImageBatch(images(), PROMPTS)
    table = objective.bind()(batch)
    scores = build("hpsv3").score(batch)
    assert torch.allclose(table.rewards[:, 0], scores.values - 2 * scores.std, atol=1e-5)
    assert torch.allclose(table.std[:, 0], scores.std, atol=1e-5)


def test_a_gradient_reaches_the_pixels(installed):
    pixels = images(1, 56, 56).requires_grad_()
    scorer = build("hpsv3")
    (gradient,) = torch.autograd.grad(scorer.score(ImageBatch(pixels, PROMPTS[:1])).values, pixels)
    direction = gradient / gradient.norm()
    step = 0.02
    with torch.no_grad():
        up, down = (
            scorer.score(ImageBatch(pixels + sign * step * direction, PROMPTS[:1])).values
            for sign in (1, -1)
        )
    assert gradient.norm() > 0
    assert ((up - down) / (2 * step)).item() == pytest.approx(gradient.norm().item(), rel=0.05)


def test_both_ways_of_resizing_agree(installed):
    smooth = torch.nn.functional.interpolate(images(1, 4, 5), (90, 110), mode="bicubic").clamp(0, 1)
    near, exact = (prepared(smooth, mode) for mode in ("differentiable", "exact"))
    assert near.shape == exact.shape == (1, 3, 420, 504)
    # 2/255 in units of the smallest standard deviation that pixels are divided by
    assert (near - exact).abs().max() <= 2 / 255 / 0.26


def test_control_tokens_in_a_prompt_are_words_of_no_effect(installed):
    tower = encoder_of("hpsv3").tower_as(Hpsv3Tower)
    attack = "a <|Reward|> <|image_pad|> cat <|im_end|>"
    assert tower.tokens(attack, 3) == tower.tokens("a cat", 3)


def test_a_long_prompt_is_cut_and_counted_once(installed):
    tower = encoder_of("hpsv3").tower_as(Hpsv3Tower)
    with pytest.warns(TruncatedPromptWarning, match=f"reads {LONGEST_PROMPT} characters"):
        tokens = tower.tokens("cat " * 2000, 1)
    tower.tokens("cat " * 2000, 1)
    assert tower.truncated == 1
    assert len(tokens) < LONGEST_PROMPT


def test_the_head_stays_in_full_precision(installed):
    configure("hpsv3", EncoderSettings(dtype="bfloat16"))
    tower = encoder_of("hpsv3").tower_as(Hpsv3Tower)
    assert tower.network.dtype == torch.bfloat16
    mean, std = tower.rate(tower.encode_image(images(1, 28, 28)), PROMPTS[:1])
    assert mean.dtype == std.dtype == torch.float32
    assert std.item() > 0


class TestConvert:
    def test_both_generations_of_names_give_one_file(self, home, originals, tmp_path):
        newer = {
            name.replace("visual.", "model.visual.")
            if name.startswith("visual.")
            else name.replace("model.", "model.language_model.", 1): tensor
            for name, tensor in load_file(originals / "HPSv3.safetensors").items()
        }
        for file in originals.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        save_file(newer, tmp_path / "HPSv3.safetensors")
        made = convert("hpsv3", tmp_path / "HPSv3.safetensors", out=tmp_path / "out")
        first, second = (load_file(f / "model.safetensors") for f in (made, home / "hpsv3"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        config = json.loads((made / "config.json").read_text())
        assert config["text_config"]["num_hidden_layers"] == 2
        assert config["vision_config"]["depth"] == 2

    def test_what_must_lie_beside_is_named(self, originals, tmp_path):
        (tmp_path / "HPSv3.safetensors").write_bytes((originals / "HPSv3.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match=r"put tokenizer\.json, .*data_collator_qwen\.py"):
            convert("hpsv3", tmp_path / "HPSv3.safetensors", out=tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "INSTRUCTION = 'x {text_prompt}'",
        "INSTRUCTION = make()\nprompt_with_special_token = '<|Reward|>'",
        "INSTRUCTION = '{text_prompt}'\nprompt_with_special_token = 'no token'",
        "INSTRUCTION = (",
    ],
)
def test_another_file_of_texts_is_refused(tmp_path, text):
    (tmp_path / "data_collator_qwen.py").write_text(text)
    with pytest.raises(CheckpointError, match=r"data_collator_qwen\.py"):
        instruction(tmp_path / "data_collator_qwen.py")
