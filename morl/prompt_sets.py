"""Published prompt lists, usable by name; where each comes from and what its licence is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from morl.errors import DataError

FOLDER = Path(__file__).parent / "assets" / "prompts"


@dataclass(frozen=True)
class PromptSet:
    """One list. `file`: in the package, or None where its licence does not let us ship it."""

    name: str
    count: int
    source: str
    licence: str
    summary: str
    file: str | None


_ROWS = (
    PromptSet(
        "ddpo_animals",
        45,
        "kvablack/ddpo-pytorch, ddpo_pytorch/assets/simple_animals.txt, 1958463",
        "MIT",
        "names of animals, what DDPO was first trained on",
        "ddpo_animals.txt",
    ),
    PromptSet(
        "drawbench",
        200,
        "Imagen, arXiv 2205.11487",
        "none stated",
        "hard prompts in eleven categories",
        None,
    ),
    PromptSet(
        "geneval",
        553,
        "djghosh13/geneval, prompts/evaluation_metadata.jsonl, af4902f",
        "MIT",
        "objects, counts, colours and positions, each with the record that `geneval` scores by",
        "geneval.jsonl",
    ),
    PromptSet(
        "parti",
        1632,
        "google-research/parti, PartiPrompts.tsv, column Prompt, 5a65797",
        "Apache-2.0",
        "PartiPrompts: from one word to long scenes",
        "parti.txt",
    ),
    PromptSet(
        "pickapic_test",
        2048,
        "yifan123/flow_grpo, dataset/pickscore/test.txt",
        "MIT",
        "what users of Pick-a-Pic v1 asked for, as they wrote it",
        "pickapic_test.txt",
    ),
)
PROMPT_SETS: dict[str, PromptSet] = {row.name: row for row in _ROWS}


def home() -> Path:
    """Folder of the lists that users supply: `$MORL_PROMPTS_HOME`, or ~/.cache/morl/prompts."""
    return Path(os.environ.get("MORL_PROMPTS_HOME") or "~/.cache/morl/prompts").expanduser()


def located(source: str | Path) -> Path:
    """The file that a name or a path means; a file in the working folder goes before a name.

    Raises DataError for a list that cannot be shipped and has not been supplied.
    """
    path = Path(source)
    row = PROMPT_SETS.get(str(source))
    if row is None or path.exists():
        return path
    if row.file is not None:
        return FOLDER / row.file
    own = home() / f"{row.name}.txt"
    if own.is_file():
        return own
    raise DataError(
        f"prompts {row.name!r}: published without a licence ({row.source}), so it is not part of "
        f"this package; save your copy, one prompt a line, as {own}"
    )
