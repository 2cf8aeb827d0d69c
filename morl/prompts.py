"""Prompts of a run: a file with one prompt a line, or the embedded world's own grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from morl.errors import DataError

WORLD = "shapes"  # the embedded world writes its own prompts
# Every combination of attributes (1,344 and 576) at least once, in varied wording.
WORLD_TRAIN_PROMPTS = 4096
WORLD_HELD_OUT_PROMPTS = 1024
MAX_CHARACTERS = 10_000  # far beyond what any text encoder reads; longer lines are not prompts


def read_prompts(path: str | Path) -> list[str]:
    """Read a UTF-8 file with one prompt a line.

    A byte order mark and Windows line ends are accepted; blank lines, and comments that begin with
    "# ", are passed over. Raises DataError, with the line number, for a missing or empty file,
    bytes that are not UTF-8, control characters, or a line beyond `MAX_CHARACTERS`.
    """
    file = Path(path)
    if not file.is_file():
        kind = "a folder, not a file" if file.is_dir() else "no such file"
        raise DataError(f"prompts {str(path)!r}: {kind} (looked for {file.absolute()})")
    try:
        raw = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"prompts {str(path)!r}: cannot be read: {error.strerror}") from error
    prompts = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        prompt = _decode(line, f"prompts {str(path)!r}, line {number}").strip()
        if prompt and not prompt.startswith("# ") and prompt != "#":
            prompts.append(prompt)
    if not prompts:
        raise DataError(f"prompts {str(path)!r}: no prompt in it; write one a line")
    return prompts


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
