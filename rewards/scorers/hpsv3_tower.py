"""HPSv3's network: Qwen2-VL reads instruction, image and prompt; a head reads one token's state."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.layouts import State
from rewards.pixels import CLIP_MEAN, CLIP_STD, PixelMode, resized_to
from rewards.scorers.loading import load_pretrained
from rewards.truncation import say_truncated

# 256 squares of 28 pixels: what the image has in all, whatever its shape.
PIXELS = 256 * 28 * 28
REWARD_TOKEN, IMAGE_TOKEN = "<|Reward|>", "<|image_pad|>"
INSTRUCTIONS = "data_collator_qwen.py"
# The names under which the authors' file holds the text before and after the prompt.
TEXTS = ("INSTRUCTION", "prompt_with_special_token")
SLOT = "{text_prompt}"
LONGEST_PROMPT = 2000  # characters; a megabyte of text would fill any memory

Images = Float[Tensor, "batch 3 height width"]
Values = Float[Tensor, " batch"]


class Hpsv3Tower(nn.Module):
    """Image side once a batch; then the language model reads every prompt with its own image.

    `instruction` holds `{text_prompt}`, and `<|Reward|>` after it. `truncated` counts the different
    prompts that were cut.
    """

    def __init__(
        self,
        network: Qwen2VLModel,
        head: State,
        tokenizer: Any,
        instruction: str,
        mode: PixelMode = "differentiable",
        name: str = "hpsv3",
    ) -> None:
        super().__init__()
        self.network = network
        self.mode: PixelMode = mode
        self.name = name
        # No parameters, so that no cast reaches them: heads are in float32.
        self._head = [(head[f"rm_head.{i}.weight"], head[f"rm_head.{i}.bias"]) for i in (0, 3, 5)]
        self._tokenizer = tokenizer
        self._instruction = instruction
        self._special = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._reward, self._pad = tokenizer.convert_tokens_to_ids([REWARD_TOKEN, IMAGE_TOKEN])
        self._cut: set[str] = set()

    @property
    def truncated(self) -> int:
        return len(self._cut)

    def encode_image(self, images: Images) -> Float[Tensor, "batch token feature"]:
        """Words of the image, a square of 28 pixels each, for images in [0, 1] of any size."""
        visual = self.network.visual
        patches, grid = patchified(prepared(images, self.mode))
        grid_of_each = torch.tensor([[1, *grid]] * len(images), device=visual.device)
        found = visual(patches.to(visual.device, visual.dtype), grid_thw=grid_of_each)
        return found.pooler_output.unflatten(0, (len(images), -1))

    def rate(
        self, words: Float[Tensor, "batch token feature"], prompts: Sequence[str]
    ) -> tuple[Values, Values]:
        """Mean and standard deviation of the score; differentiable in `words`.

        The authors call the language model without the image's grid, so that positions simply
        count through words and image; so do we. The head's second number is the logarithm of the
        deviation.
        """
        model = self.network.language_model
        rows = [self.tokens(prompt, words.shape[1]) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        tokens = torch.stack([F.pad(torch.tensor(row), (0, longest - len(row))) for row in rows])
        mask = torch.arange(longest) < lengths[:, None]
        image = ((tokens == self._pad) & mask).to(words.device)
        reward = ((tokens == self._reward) & mask).to(words.device)
        embedded = model.embed_tokens(tokens.to(words.device))
        embedded = embedded.masked_scatter(image[:, :, None], words.to(embedded.dtype))
        # Padding stands on the right, so that counting from 0 is right for every row.
        states = model(
            inputs_embeds=embedded, attention_mask=mask.long().to(words.device), use_cache=False
        ).last_hidden_state
        mean, log_std = self._rated(states[reward].float()).unbind(dim=1)
        return mean, log_std.exp()

    def tokens(self, prompt: str, image_words: int) -> list[int]:
        """Numbers of the whole conversation, with as many places as the image has words."""
        text = self._instruction.replace(SLOT, self._clean(prompt))
        chat: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        chat = chat.replace(IMAGE_TOKEN, IMAGE_TOKEN * image_words)
        numbers: list[int] = self._tokenizer(chat, add_special_tokens=False)["input_ids"]
        return numbers

    def _clean(self, prompt: str) -> str:
        """Without control tokens, as a second <|Reward|> would be read; cut where too long."""
        prompt = prompt.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair
        for token in self._special:
            prompt = prompt.replace(token, " ")
        if len(prompt) > LONGEST_PROMPT and prompt not in self._cut:
            say_truncated(
                self.name, prompt, len(prompt), LONGEST_PROMPT, self.truncated, "characters"
            )
            self._cut.add(prompt)
        return prompt[:LONGEST_PROMPT]

    def _rated(self, states: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch 2"]:
        """Three layers with ReLU between them."""
        head = [(weight.to(states), bias.to(states)) for weight, bias in self._head]
        for weight, bias in head[:-1]:
            states = F.linear(states, weight, bias).relu()
        return F.linear(states, *head[-1])


def prepared(images: Images, mode: PixelMode) -> Float[Tensor, "batch 3 rows columns"]:
    """Resized to multiples of 28 pixels a side, `PIXELS` in all at most, and normalised."""
    target = smart_resize(*images.shape[2:], factor=28, min_pixels=PIXELS, max_pixels=PIXELS)
    resized = resized_to(images.float(), target, mode)
    mean, std = (resized.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (resized - mean) / std


def patchified(
    pixels: Float[Tensor, "batch 3 rows columns"],
) -> tuple[Float[Tensor, "patch number"], tuple[int, int]]:
    """Patches of 14 pixels, each square of 2 x 2 in a row, and the grid's height and width.

    Every patch holds its pixels twice: Qwen2-VL reads two frames, and an image is a still.
    """
    rows, columns = (side // 14 for side in pixels.shape[2:])
    squares = pixels.reshape(len(pixels), 3, rows // 2, 2, 14, columns // 2, 2, 14)
    # batch, square row, square column, row, column, channel, pixel row, pixel column
    ordered = squares.permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = ordered[:, :, :, :, :, :, None].expand(*ordered.shape[:6], 2, 14, 14)
    return frames.reshape(len(pixels) * rows * columns, -1), (rows, columns)


def hpsv3_qwen(folder: Path, settings: EncoderSettings) -> Hpsv3Tower:
    """HPSv3, its tokenizer and its instruction, of one folder."""
    network = load_pretrained(Qwen2VLModel, folder, unused=("rm_head.",))
    head = {
        name: tensor.float()
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.startswith("rm_head.")
    }
    tokenizer = reward_tokenizer(folder, network.config.text_config.vocab_size)
    text = instruction(folder / INSTRUCTIONS)
    return Hpsv3Tower(network, head, tokenizer, text, settings.pixels, folder.name)


def reward_tokenizer(folder: Path, size: int) -> Any:
    """Qwen2-VL's tokenizer with the one token that HPSv3 added; at most `size` numbers."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no tokenizer that can be read: {error}") from error
    tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
    if tokenizer.chat_template is None:
        raise CheckpointError(f"{folder} holds no chat template; Qwen2-VL's tokenizer has one")
    if len(tokenizer) > size:
        raise CheckpointError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, not {size}")
    return tokenizer


def instruction(file: Path) -> str:
    """What the model is told before and after the prompt, read from the authors' file.

    Their Python is parsed and never run. Raises CheckpointError where it holds not these texts.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found = {
            target.id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id in TEXTS
        }
        text = "".join(found[name] for name in TEXTS)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} holds not the texts {' and '.join(TEXTS)} of HPSv3: {error!r}"
        ) from error
    if text.count(SLOT) != 1 or text.count(REWARD_TOKEN) != 1:
        raise CheckpointError(f"{file}: the texts must hold {SLOT} and {REWARD_TOKEN} once each")
    return text
