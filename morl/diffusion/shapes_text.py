"""How the embedded world reads: a CLIP tokenizer and a small CLIP text encoder, taught to parse."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rewards.shapes.captions import parse
from rewards.shapes.scenes import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES

MAX_TOKENS = 32
WIDTH = 128
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
ANSWERS = (SHAPES, COLORS, BACKGROUNDS, POSITIONS, SIZES, ("asked",))  # what a caption can name


class Reader(nn.Module):
    """The text encoder with one linear question a caption must answer for every attribute.

    Diffusion models take their text encoder trained. Trained together with the denoiser from
    nothing, this one kept the denoiser blind to positions for over a thousand steps.
    """

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.questions = nn.Linear(WIDTH, sum(len(words) + 1 for words in ANSWERS))


def reading_loss(
    reader: Reader, token_ids: Int[Tensor, "batch token"], labels: Int[Tensor, "batch attribute"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the attributes, summed; asked of the end token and of all the padding.

    Every one of these tokens then carries the whole caption, so that attention of a new denoiser,
    which is nearly uniform, finds it. labels: from `reading_labels`.
    """
    end = reader.text_encoder.config.eos_token_id
    states: Tensor = reader.text_encoder(token_ids)[0]
    asked = token_ids == end
    logits = reader.questions(states[asked]).split([len(words) + 1 for words in ANSWERS], dim=1)
    answers = labels.repeat_interleave(asked.sum(dim=1), dim=0).unbind(dim=1)
    parts = [functional.cross_entropy(*pair) for pair in zip(logits, answers, strict=True)]
    return torch.stack(parts).sum()


def reading_labels(prompts: Sequence[str]) -> Int[Tensor, "batch attribute"]:
    """What each prompt names: 0 is not named, 1... the words of `ANSWERS` in order."""
    rows = []
    for prompt in prompts:
        a = parse(prompt)
        named = (a.shape, a.color, a.background, a.position, a.size, "asked" if a.asks_mark else "")
        rows.append(
            [
                words.index(word) + 1 if word else 0
                for word, words in zip(named, ANSWERS, strict=True)
            ]
        )
    return torch.tensor(rows)


def build_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """Two layers, 128 wide, with random weights."""
    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer with one token for every word of `words`, and bytes for all others."""
    bytes_ = _byte_symbols()
    symbols = [*bytes_, *(symbol + WORD_END for symbol in bytes_)]
    merges = learn_merges(words)
    tokens = [*symbols, *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # The annotation of `merges` asks for strings; the tokenizer itself takes pairs.
    pairs = cast(list[str], merges)
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=MAX_TOKENS)


def tokenize(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Int[Tensor, "batch token"]:
    """Token ids, padded and cut to the model's length, as the pipeline itself does."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    token_ids: Tensor = tokens.input_ids
    return token_ids


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding until every word is one token: the most frequent pair first.

    Ties go to the alphabetically first pair, so the result depends on the set of words only.
    """
    pieces = [[*word[:-1], word[-1] + WORD_END] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _byte_symbols() -> list[str]:
    """One printable character for every byte: itself if printable, else one from 256 up.

    The byte-level convention of GPT-2 and CLIP vocabularies.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]
