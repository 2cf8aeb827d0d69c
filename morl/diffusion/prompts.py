"""Text conditioning: each prompt goes through the text encoders once."""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from morl.diffusion.families import Family
from rewards.truncation import say_truncated

LIBRARIES = (diffusers.utils.logging, transformers.utils.logging)


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, under the argument names of the pipeline's own call.

    `positive` tensors have one row a prompt; `negative` ones (the empty prompt) have one row and
    are used under classifier-free guidance only.
    """

    prompts: tuple[str, ...]
    positive: Mapping[str, Tensor]
    negative: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.prompts)

    def arguments(self, guided: bool) -> dict[str, Tensor]:
        """Return what is passed to the pipeline; negatives are expanded without a copy."""
        if not guided:
            return dict(self.positive)
        batch = len(self.prompts)
        expanded = {name: row.expand(batch, *row.shape[1:]) for name, row in self.negative.items()}
        return {**self.positive, **expanded}


class PromptCache:
    """Encodes prompts with one pipeline's frozen text encoders and keeps the last `capacity`.

    Prompts are encoded one by one: a batched encoder rounds differently for each batch size, and
    a run that is resumed with a cold cache would no longer repeat bit for bit. With `offload` the
    text encoders stay on the CPU but for the moments in which a prompt is new. `truncated` counts
    the prompts that were cut, by the tokenizer that did, each once while it is kept.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        family: Family,
        capacity: int = 4096,
        *,
        offload: bool = False,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1; got {capacity}")
        self._encoders = _text_encoders(pipe) if offload else []
        self._move("cpu")
        self._pipe = pipe
        self._family = family
        self._capacity = capacity
        self._rows: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._negative: dict[str, Tensor] | None = None
        self._limits = dict(_limits(pipe))
        self.truncated: Counter[str] = Counter()

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning of a batch, in order; raises ValueError for no prompts."""
        if isinstance(prompts, str) or len(prompts) == 0:
            raise ValueError(f"`prompts` must be a non-empty sequence of texts; got {prompts!r}")
        with self._at_hand(prompts):
            rows = [self._row(prompt) for prompt in prompts]
            if self._negative is None:
                self._negative = self._encode("", negative=True)
        positive = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return Conditioning(tuple(prompts), positive, self._negative)

    @contextmanager
    def _at_hand(self, prompts: Sequence[str]) -> Iterator[None]:
        """Have offloaded text encoders on the device while a prompt is new."""
        if self._negative is not None and all(prompt in self._rows for prompt in prompts):
            yield
            return
        self._move(self._pipe.device)
        try:
            yield
        finally:
            self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for encoder in self._encoders:
            encoder.to(device)

    def _row(self, prompt: str) -> dict[str, Tensor]:
        if prompt not in self._rows:
            with _silent_libraries():  # they would say it again for every prompt
                self._count_truncated(prompt)
                self._rows[prompt] = self._encode(prompt, negative=False)
            if len(self._rows) > self._capacity:
                self._rows.popitem(last=False)
        self._rows.move_to_end(prompt)
        return self._rows[prompt]

    def _count_truncated(self, prompt: str) -> None:
        for name, (tokenizer, most) in self._limits.items():
            found = len(tokenizer(prompt)["input_ids"])
            if found > most:
                say_truncated(f"the pipeline's {name}", prompt, found, most, self.truncated[name])
                self.truncated[name] += 1

    @torch.no_grad()
    def _encode(self, prompt: str, negative: bool) -> dict[str, Tensor]:
        family = self._family
        if negative and not family.classifier_free:
            return {}
        arguments = dict(family.encode_arguments)
        if family.classifier_free:
            arguments["do_classifier_free_guidance"] = negative
        encoded = self._pipe.encode_prompt(
            prompt=[prompt],
            device=self._pipe.device,
            num_images_per_prompt=1,
            **arguments,
        )
        named = {name: row for name, row in zip(family.encoded, encoded, strict=True) if name}
        return {
            name: row.detach() for name, row in named.items() if name.startswith("neg") == negative
        }


def _limits(pipe: DiffusionPipeline) -> Iterator[tuple[str, tuple[Any, int]]]:
    """Each tokenizer by name, and how many tokens of a prompt the pipeline takes from it."""
    asked = inspect.signature(pipe.encode_prompt).parameters.get("max_sequence_length")
    for name, tokenizer in pipe.components.items():
        if name.startswith("tokenizer") and tokenizer is not None:
            # Pipelines choose a length for T5 and the like; CLIP's is its table of positions.
            if asked is None or isinstance(tokenizer, CLIPTokenizer):
                yield name, (tokenizer, tokenizer.model_max_length)
            else:
                yield name, (tokenizer, asked.default)


@contextmanager
def _silent_libraries() -> Iterator[None]:
    before = [(library, library.get_verbosity()) for library in LIBRARIES]
    for library in LIBRARIES:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in before:
            library.set_verbosity(level)


def _text_encoders(pipe: DiffusionPipeline) -> list[nn.Module]:
    return [
        component
        for name, component in pipe.components.items()
        if name.startswith("text_encoder") and isinstance(component, nn.Module)
    ]
