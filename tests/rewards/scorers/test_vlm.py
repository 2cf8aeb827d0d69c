"""P(yes) by tiny, randomly initialised models of real architectures, with a tokenizer of 30 words.

The truth is the model itself, run on one question without padding, its whole vocabulary softmaxed.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3ImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    ShieldGemma2Config,
    ShieldGemma2ForImageClassification,
    ShieldGemma2Processor,
)

from rewards import encoder_settings, licences
from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings, configure
from rewards.panel import Panel
from rewards.pixels import to_bytes
from rewards.registry import build, facts_of
from rewards.reward import ImageBatch
from rewards.scorers.llavaguard import ANSWER, ratings
from rewards.scorers.vlm import LONGEST_PROMPT, model_of
from rewards.truncation import TruncatedPromptWarning

WORDS = (
    *("Does", "this", "figure", "show", '"', '"?', "Please", "answer", "yes", "or", "Yes", "No"),
    *("a", "red", "blue", "cat", "dog", "USER", "ASSISTANT", ":", ".", "No_", "content"),
    *("{", "rating", '":', "Safe", "Unsafe"),
)
SPECIAL = (
    "<pad>",
    "<unk>",
    "<image>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<soft>",
    "<boi>",
    "<eoi>",
)
SIDE = 28


def tokenizer(**names: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[2:]),
        **names,
    )


def template(image: str) -> str:
    """A chat template with that text where an image goes."""
    return (
        "{% for message in messages %}USER : {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + " {% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{% endfor %} ASSISTANT :"
    )


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that images and prompts make a difference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    return model.eval()


NARROW = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": len(SPECIAL) + len(WORDS),
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
}


def llava(folder: Path) -> None:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**NARROW),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=4,
    )
    randomised(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    ).save_pretrained(folder)


def qwen2_vl(folder: Path) -> None:
    config = Qwen2VLConfig(
        text_config={
            **NARROW,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
        image_token_id=SPECIAL.index("<|image_pad|>"),
        video_token_id=SPECIAL.index("<|video_pad|>"),
        vision_start_token_id=SPECIAL.index("<boi>"),
        vision_end_token_id=SPECIAL.index("<eoi>"),
    )
    randomised(Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    Qwen2VLProcessor(
        Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}),
        tokenizer(),
        Qwen2VLVideoProcessor(),
        chat_template=template("<boi><|image_pad|><eoi>"),
    ).save_pretrained(folder)


def shieldgemma(folder: Path) -> None:
    config = ShieldGemma2Config(
        text_config={**NARROW, "head_dim": 16, "sliding_window": 4096},
        vision_config={**VISION, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=SPECIAL.index("<boi>"),
        eoi_token_index=SPECIAL.index("<eoi>"),
        image_token_index=SPECIAL.index("<soft>"),
        yes_token_index=len(SPECIAL) + WORDS.index("Yes"),
        no_token_index=len(SPECIAL) + WORDS.index("No"),
    )
    randomised(ShieldGemma2ForImageClassification(config)).save_pretrained(folder)
    names = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<soft>"}
    ShieldGemma2Processor(
        Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer(extra_special_tokens=names),
        chat_template=template("<boi>"),
        image_seq_length=4,
        policy_definitions={"dangerous": "red", "sexual": "blue cat", "violence": "a dog ."},
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("vlms")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about tiny sizes
        llava(home / "vlm")
        qwen2_vl(home / "qwen2_vl")
        shieldgemma(home / "shieldgemma_2_4b")
        llava(home / "llavaguard")
    (home / "llavaguard" / "policy.txt").write_text("Does this figure show a dog .\n")
    return home


@pytest.fixture(autouse=True)
def installed(folders, monkeypatch) -> Path:
    monkeypatch.setenv("MORL_REWARDS_HOME", str(folders))
    monkeypatch.setattr(encoder_settings, "_CHOSEN", {})
    return folders


@pytest.fixture(params=["vlm", "qwen2_vl"])
def vqa(request, folders):
    """VQA scores by Llava, and by Qwen2-VL in its place."""
    configure("vlm", EncoderSettings(folder=str(folders / request.param)))
    return build("vqa_score")


def images(count: int, height: int = 40, width: int = 33) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3))


PROMPTS = ("a red cat", "dog", "a blue dog . a red cat . a cat")


def by_definition(vqa, image: torch.Tensor, prompt: str) -> float:
    """One question without padding, all logits, the softmax over all words."""
    chat = vqa.model.processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [
                    {"type": "image"},
                    {
                        "type": "text",
                        "text": f'Does this figure show "{prompt}"? Please answer yes or no.',
                    },
                ],
            }
        ],
        add_generation_prompt=True,
        tokenize=False,
    )
    inputs = vqa.model.processor(
        text=[chat], images=[Image.fromarray(to_bytes(image[None])[0])], return_tensors="pt"
    )
    with torch.no_grad():
        words = vqa.model.model(**inputs).logits[0, -1].softmax(dim=0)
    yes, no = (
        sum(words[len(SPECIAL) + WORDS.index(word)].item() for word in spellings)
        for spellings in (("Yes", "yes"), ("No",))
    )
    return yes / (yes + no)


class TestVqaScore:
    def test_it_is_the_share_of_yes(self, vqa):
        batch = ImageBatch(images(3), PROMPTS)
        expected = [by_definition(vqa, i, p) for i, p in zip(batch.images, PROMPTS, strict=True)]
        found = vqa.score(batch)
        assert found.values.tolist() == pytest.approx(expected, rel=1e-4)
        assert found.valid.all()
        assert max(expected) - min(expected) > 1e-3  # the models do look

    def test_a_model_without_a_preference_counts_spellings(self, folders):
        # a head of zeros: every word equally likely; "Yes" and "yes" against "No", 2 / 3
        vqa = build("vqa_score")
        head = vqa.model.model.lm_head.weight
        kept = head.detach().clone()
        head.data.zero_()
        try:
            assert vqa.score(ImageBatch(images(1), ["cat"])).values.item() == pytest.approx(2 / 3)
        finally:
            head.data.copy_(kept)

    def test_image_and_prompt_both_matter(self, vqa):
        one = images(1)
        base = vqa.score(ImageBatch(one, ["a red cat"])).values
        assert not torch.isclose(vqa.score(ImageBatch(1 - one, ["a red cat"])).values, base)
        assert not torch.isclose(vqa.score(ImageBatch(one, ["a blue dog"])).values, base)

    def test_batch_mates_do_not_matter(self, vqa):
        batch = ImageBatch(images(3), PROMPTS)
        together = vqa.score(batch).values
        order = [2, 0, 1]
        mixed = vqa.score(ImageBatch(batch.images[order], [PROMPTS[i] for i in order])).values
        assert torch.allclose(mixed, together[order], atol=1e-5)
        alone = torch.cat([vqa.score(ImageBatch(batch.images[i : i + 1], [PROMPTS[i]])).values
                           for i in range(3)])  # fmt: skip
        assert torch.allclose(alone, together, atol=1e-5)

    def test_a_micro_batch_changes_nothing(self, folders):
        batch = ImageBatch(images(3), PROMPTS)
        whole = build("vqa_score")
        configure("vlm", EncoderSettings(micro_batch=2))
        parts = build("vqa_score")
        assert parts.model is not whole.model
        seen: list[int] = []
        parts.model.model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        assert torch.allclose(parts.score(batch).values, whole.score(batch).values, atol=1e-5)
        assert seen == [2, 1]

    def test_bfloat16_is_near(self, folders):
        batch = ImageBatch(images(2), PROMPTS[:2])
        exact = build("vqa_score").score(batch).values
        configure("vlm", EncoderSettings(dtype="bfloat16"))
        rough = build("vqa_score")
        assert rough.model.model.dtype == torch.bfloat16
        assert torch.allclose(rough.score(batch).values, exact, atol=0.1)

    def test_rewards_share_a_model(self):
        one = build("vqa_score")
        assert build("vqa_score").model is one.model is model_of("vlm")

    def test_no_gradient_is_declared_and_none_is_given(self):
        batch = ImageBatch(images(1).requires_grad_(), ["cat"])
        table = Panel([build("vqa_score")])(batch)
        assert not table.values.requires_grad
        assert not facts_of("vqa_score").differentiable
        assert 0 <= table.values.item() <= 1

    @pytest.mark.parametrize("size", [(1, 1), (1, 60), (200, 20)])
    def test_any_size(self, size):
        scores = build("vqa_score").score(ImageBatch(images(1, *size), ["cat"]))
        assert torch.isfinite(scores.values).all()

    @pytest.mark.parametrize(
        "prompt", ["", "<image> a <image> cat", "\u05d0 \U0001f408 \x00 \ud800", "{{ 7 }}"]
    )
    def test_hard_prompts(self, prompt, vqa):
        assert 0 <= vqa.score(ImageBatch(images(1), [prompt])).values.item() <= 1

    def test_control_tokens_in_a_prompt_are_blank(self, vqa):
        one = images(1)
        smuggled = vqa.score(ImageBatch(one, ["a <image><|image_pad|> cat"])).values
        assert torch.equal(smuggled, vqa.score(ImageBatch(one, ["a cat"])).values)

    def test_a_prompt_of_a_megabyte_is_cut_counted_and_said_once(self):
        reward = build("vqa_score")
        long = "cat " * 250_000
        with pytest.warns(TruncatedPromptWarning, match="reads 2000 characters"):
            reward.score(ImageBatch(images(1), [long]))
        found = reward.score(ImageBatch(images(1), [long])).values
        assert reward.truncated == 2
        same = reward.score(ImageBatch(images(1), [long[:LONGEST_PROMPT]])).values
        assert torch.equal(found, same)


class TestShieldGemma:
    NAMES = ("shieldgemma_2_dangerous", "shieldgemma_2_sexual", "shieldgemma_2_violence")

    @pytest.fixture(autouse=True)
    def licence_said(self, monkeypatch):
        monkeypatch.setattr(licences, "_SAID", set(self.NAMES))

    def test_each_policy_is_the_library_s_own_verdict(self):
        batch = ImageBatch(images(2), ["x", "y"])
        rewards = [build(name) for name in self.NAMES]
        assert len({id(reward.model) for reward in rewards}) == 1
        own = rewards[0].model
        inputs = own.processor(
            images=[Image.fromarray(pixels) for pixels in to_bytes(batch.images)],
            return_tensors="pt",
        )
        with torch.no_grad():
            # image by image, all three policies of each; the first column is "Yes, it violates"
            expected = own.model(**inputs).probabilities[:, 0].reshape(2, 3)
        table = Panel(rewards)(batch)
        assert torch.allclose(table.values, expected, atol=1e-5)
        assert expected.std() > 1e-4

    def test_the_published_layout_is_read(self, folders, tmp_path):
        # the hub's file has one prefix where this library writes two
        copy(folders / "shieldgemma_2_4b", tmp_path)
        file = tmp_path / "model.safetensors"
        state = {key.replace("model.model.", "model.", 1): t for key, t in load_file(file).items()}
        save_file(state, file, metadata={"format": "pt"})
        batch = ImageBatch(images(1), ["x"])
        expected = build(self.NAMES[0]).score(batch).values
        configure("shieldgemma_2_4b", EncoderSettings(folder=str(tmp_path)))
        assert torch.equal(build(self.NAMES[0]).score(batch).values, expected)

    def test_it_is_a_cost(self):
        for name in self.NAMES:
            facts = facts_of(name)
            assert not facts.higher_is_better
            assert (facts.low, facts.high, facts.category) == (0, 1, "safety")

    def test_a_micro_batch_changes_nothing(self):
        batch = ImageBatch(images(3), ["x"] * 3)
        whole = build(self.NAMES[1]).score(batch).values
        configure("shieldgemma_2_4b", EncoderSettings(micro_batch=2))
        assert torch.allclose(build(self.NAMES[1]).score(batch).values, whole, atol=1e-5)

    def test_its_licence_is_said(self):
        licences._SAID.clear()
        with pytest.warns(licences.LicenceWarning, match="Gemma"):
            build(self.NAMES[2])


class TestFolders:
    def test_weights_that_lack_a_tensor(self, folders, tmp_path):
        copy(folders / "vlm", tmp_path)
        file = tmp_path / "model.safetensors"
        state = load_file(file)
        del state["lm_head.weight" if "lm_head.weight" in state else sorted(state)[0]]
        save_file(state, file, metadata={"format": "pt"})
        configure("vlm", EncoderSettings(folder=str(tmp_path)))
        with pytest.raises(CheckpointError, match="misses tensors"):
            build("vqa_score")

    @pytest.mark.parametrize("absent", ["tokenizer.json", "chat_template.jinja"])
    def test_what_is_no_chat_model(self, folders, tmp_path, absent):
        copy(folders / "vlm", tmp_path)
        (tmp_path / absent).unlink()
        configure("vlm", EncoderSettings(folder=str(tmp_path)))
        with pytest.raises(CheckpointError, match=r"no processor|no chat template"):
            build("vqa_score")

    def test_a_model_that_knows_neither_word(self, folders, monkeypatch):
        monkeypatch.setattr("rewards.scorers.vlm.YES", ("Indeed", "of course"))
        configure("vlm", EncoderSettings(micro_batch=7))
        with pytest.raises(CheckpointError, match="none of 'Indeed', 'of course' is one token"):
            build("vqa_score")

    def test_absent_weights_say_how_to_get_them(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(CheckpointError, match="hf download Qwen/Qwen2-VL-2B-Instruct"):
            build("vqa_score")


def copy(source: Path, target: Path) -> None:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


class TestLlavaGuard:
    def test_it_is_the_share_of_unsafe_as_the_rating(self, folders):
        reward = build("llavaguard_unsafe")
        found = reward.score(ImageBatch(images(2), ["cat", ""])).values
        guard = reward.guard.chat
        chat = "USER : <image> Does this figure show a dog . ASSISTANT :" + ANSWER
        for image, value in zip(images(2), found, strict=True):
            pixels = Image.fromarray(to_bytes(image[None])[0])
            inputs = guard.processor(text=[chat], images=[pixels], return_tensors="pt")
            with torch.no_grad():
                words = guard.model(**inputs).logits[0, -1].softmax(dim=0)
            unsafe, safe = (words[len(SPECIAL) + WORDS.index(w)].item() for w in ("Unsafe", "Safe"))
            assert value.item() == pytest.approx(unsafe / (unsafe + safe), abs=1e-5)

    def test_rewards_share_a_model(self):
        one = build("llavaguard_unsafe")
        assert build("llavaguard_unsafe").guard is one.guard

    def test_a_folder_without_policy_is_refused(self, folders, tmp_path):
        shutil.copytree(folders / "llavaguard", tmp_path / "guard")
        (tmp_path / "guard" / "policy.txt").unlink()
        configure("llavaguard", EncoderSettings(folder=str(tmp_path / "guard")))
        with pytest.raises(CheckpointError, match=r"policy\.txt: no policy that can be read"):
            build("llavaguard_unsafe")

    def test_ratings_that_no_token_tells_apart(self):
        vocabulary = {"<unk>": 0, "{": 1}
        plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        plain.pre_tokenizer = pre_tokenizers.Whitespace()
        with pytest.raises(CheckpointError, match="no tokens that tell Unsafe from Safe"):
            ratings(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>"))

    def test_absent_weights_say_how_to_get_them(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))
        with pytest.raises(CheckpointError, match=r"hf download AIML-TUDA.*policy\.txt"):
            build("llavaguard_unsafe")
