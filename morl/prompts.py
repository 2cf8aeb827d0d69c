"""Prompts of a run: a file with one prompt a line, records, or the embedded world's own grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from morl.errors import DataError
from morl.prompt_sets import PROMPT_SETS, located

WORLD = "shapes"  # the embedded world writes its own prompts
# Every combination of attributes (1,344 and 576) at least once, in varied wording.
WORLD_TRAIN_PROMPTS = 4096
WORLD_HELD_OUT_PROMPTS = 1024
MAX_CHARACTERS = 10_000  # far beyond what any text encoder reads; longer lines are not prompts


class Prompt(str):
    """A prompt with what its file says of it, such as the objects that GenEval looks for.

    It is the text wherever a text is read, so that a record costs the code between file and reward
    nothing; `records` takes it out again. Equality is that of the text.
    """

    record: Mapping[str, Any]

    def __new__(cls, text: str, record: Mapping[str, Any] | None = None) -> Prompt:
        prompt = super().__new__(cls, text)
        prompt.record = record or {}
        return prompt


def records(prompts: Sequence[str]) -> list[Mapping[str, Any]] | None:
    """The record of each prompt, as `ImageBatch.metadata`: {} for one without, None for none."""
    if not any(isinstance(prompt, Prompt) for prompt in prompts):
        return None
    return [prompt.record if isinstance(prompt, Prompt) else {} for prompt in prompts]


def read_prompts(path: str | Path) -> list[str]:
    """Read a UTF-8 file with one prompt a line, or a .jsonl of records that hold a `prompt`.

    The name of a published list (`morl.prompt_sets`) stands for its file. A byte order mark and
    Windows line ends are accepted; blank lines, and comments that begin with "# ", are passed over.
    A record's other fields travel with its prompt. Raises DataError, with the line number, for a
    missing or empty file, bytes that are not UTF-8, control characters, a line beyond
    `MAX_CHARACTERS`, or what is no record with a `prompt`.
    """
    path = located(path)
    if path.suffix == ".jsonl":
        return [as_prompt(record, place) for record, place in read_records(path)]
    prompts = [text for text, _ in _lines(path) if not text.startswith("# ") and text != "#"]
    if not prompts:
        raise DataError(f"prompts {str(path)!r}: no prompt in it; write one a line")
    return prompts


def read_records(path: str | Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each JSON object of a .jsonl file, and how a message names its place."""
    empty = True
    for line, place in _lines(path):
        empty = False
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f'{place}: must be an object, like {{"prompt": ...}}; got {line[:60]}')
        yield record, place
    if empty:
        raise DataError(f"prompts {str(path)!r}: no record in it; write one a line")


def as_prompt(record: Mapping[str, Any], place: str) -> Prompt:
    """The `prompt` of a record with its other fields; DataError where there is none."""
    text = record.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{place}: needs a text `prompt`; got {text!r}, and the keys {', '.join(record)}"
        )
    return Prompt(text.strip(), {key: value for key, value in record.items() if key != "prompt"})


def read_text(path: str | Path) -> str:
    """The whole of a UTF-8 file; DataError, with the line number, where it is none."""
    lines = _raw(path).split(b"\n")
    return "\n".join(_decode(line, _place(path, i)) for i, line in enumerate(lines, start=1))


def _lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Every line that is not blank, and how a message names its place."""
    for number, line in enumerate(_raw(path).split(b"\n"), start=1):
        place = _place(path, number)
        if text := _decode(line, place).strip():
            yield text, place


def _raw(path: str | Path) -> bytes:
    file = Path(path)
    if not file.is_file():
        kind = "a folder, not a file" if file.is_dir() else "no such file"
        raise DataError(
            f"prompts {str(path)!r}: {kind} (looked for {file.absolute()}); published lists by "
            f"name: {', '.join(PROMPT_SETS)}"
        )
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"prompts {str(path)!r}: cannot be read: {error.strerror}") from error


def _place(path: str | Path, line: int) -> str:
    return f"prompts {str(path)!r}, line {line}"


def _decode(line: bytes, place: str) -> str:
    try:
        text = line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise DataError(
            f"{place}: byte 0x{byte:02x} at column {error.start + 1} is not UTF-8; "
            "save the file as UTF-8"
        ) from error
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"{place}: {len(text):,} characters; at most {MAX_CHARACTERS:,}")
    control = next((c for c in text if ord(c) < 32 and c != "\t"), None)
    if control is not None:
        raise DataError(f"{place}: holds the control character U+{ord(control):04X}; remove it")
    return text


def load_prompts(source: str, part: Literal["train", "held_out"], seed: int) -> list[str]:
    """Return the prompts of a file, or the embedded world's own of that part.

    The two parts of the world share no attribute combination. Raises DataError as `read_prompts`.
    """
    if source != WORLD:
        return read_prompts(source)
    from rewards.shapes.captions import held_out_prompts, train_prompts

    if part == "train":
        return train_prompts(WORLD_TRAIN_PROMPTS, seed)
    return held_out_prompts(WORLD_HELD_OUT_PROMPTS, seed)
