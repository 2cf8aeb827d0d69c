"""Labels from a CSV or Parquet file of image paths, encoded as they are read."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from rewards.encoders import Encoder
from rewards.errors import MissingExtraError
from rewards.images import ImageError, to_image
from rewards.learned.inputs import head_inputs, require_prompts
from rewards.learned.labels import Labelled
from rewards.learned.settings import RewardTrainingError, Task
from rewards.reward import ImageBatch

SUFFIXES = (".csv", ".parquet")
COLUMNS: dict[Task, tuple[str, ...]] = {
    "regression": ("image", "label"),
    "classification": ("image", "label"),
    "preference": ("chosen", "rejected"),
}
ANSWERS = {"1": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "false": 0.0, "no": 0.0}


class LabelFileError(RewardTrainingError):
    """A label file, or an image that it names, that cannot be used."""


@dataclass(frozen=True)
class _Image:
    """One image of a label, with the prompt where that plays a part."""

    path: Path
    prompt: str


def read_labels(
    path: Path, task: Task, encoder: Encoder, reads_prompt: bool = False, batch_size: int = 32
) -> Labelled:
    """Read labels and encode their images, each (image, prompt) once.

    Columns: `image` and `label`, a number or 0 | 1 | true | false | yes | no for classification;
    `chosen` and `rejected` for preference; `prompt` with `reads_prompt`. Images are named relative
    to the file's folder. Raises LabelFileError naming the row and the rule.
    """
    require_prompts(encoder, reads_prompt)
    index: dict[_Image, int] = {}
    target, rows = [], []
    for record, place in _records(path, (*COLUMNS[task], *(["prompt"] if reads_prompt else []))):
        prompt = _text(record, "prompt", place) if reads_prompt else ""
        names = COLUMNS[task] if task == "preference" else ("image",)
        seen = [_Image(_file(record, name, path, place), prompt) for name in names]
        if len(set(seen)) < len(seen):
            raise LabelFileError(f"{place}: `chosen` and `rejected` are the same image")
        rows.append([index.setdefault(image, len(index)) for image in seen])
        target.append(1.0 if task == "preference" else _label(record, task, place))
    inputs = _encoded(list(index), encoder, reads_prompt, batch_size)
    numbers, truth = torch.tensor(rows), torch.tensor(target)
    second = numbers[:, 1] if task == "preference" else None
    return Labelled(task, inputs, truth, numbers[:, 0], second)


def _encoded(
    images: list[_Image], encoder: Encoder, reads_prompt: bool, batch_size: int
) -> Float[Tensor, "image feature"]:
    found: list[Tensor] = []
    waiting: list[tuple[Tensor, str]] = []

    @torch.no_grad()
    def encode() -> None:
        pictures, prompts = zip(*waiting, strict=True)
        batch = ImageBatch(torch.stack(pictures), list(prompts))
        found.append(head_inputs(encoder, batch, reads_prompt).cpu())
        waiting.clear()

    for image in tqdm(images, desc="labelled images"):
        try:
            picture = to_image(image.path)
        except ImageError as error:
            raise LabelFileError(str(error)) from error
        if waiting and (len(waiting) == batch_size or picture.shape != waiting[0][0].shape):
            encode()
        waiting.append((picture, image.prompt))
    encode()
    return torch.cat(found)


def _records(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each row and how a message names it; LabelFileError where a column is missing."""
    if path.suffix not in SUFFIXES:
        raise LabelFileError(f"labels {str(path)!r}: must end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise LabelFileError(f"labels {str(path)!r}: no such file (looked for {path.absolute()})")
    rows = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    empty = True
    for number, record in rows:
        if missing := [name for name in columns if name not in record]:
            raise LabelFileError(
                f"labels {str(path)!r}: needs the columns {', '.join(columns)}; it lacks "
                f"{', '.join(missing)}, and has {', '.join(map(str, record))}"
            )
        empty = False
        yield record, f"labels {str(path)!r}, row {number}"
    if empty:
        raise LabelFileError(f"labels {str(path)!r}: no row in it")


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from enumerate(csv.DictReader(stream, strict=True), start=1)
    except (csv.Error, UnicodeDecodeError) as error:
        raise LabelFileError(f"labels {str(path)!r}: not a CSV file in UTF-8: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError(
            f"labels {str(path)!r} need pyarrow: pip install 'morl-diffusion[parquet]', or bring "
            "a .csv"
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise LabelFileError(f"labels {str(path)!r}: not a Parquet file: {error}") from error
    yield from enumerate(rows, start=1)


def _text(record: Mapping[str, Any], name: str, place: str) -> str:
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise LabelFileError(f"{place}: `{name}` must be a text; got {value!r}")
    return value.strip()


def _file(record: Mapping[str, Any], name: str, source: Path, place: str) -> Path:
    found = source.parent / _text(record, name, place)
    if not found.is_file():
        raise LabelFileError(
            f"{place}: `{name}` names no file: {str(found)!r}; images are named relative to the "
            "folder of the labels"
        )
    return found


def _label(record: Mapping[str, Any], task: Task, place: str) -> float:
    raw = record["label"]
    if task == "classification":
        # Parquet gives booleans and floats where CSV gives their text.
        known = ANSWERS.get(str(raw).strip().lower().removesuffix(".0"))
        if known is None:
            raise LabelFileError(
                f"{place}: `label` must be one of {', '.join(ANSWERS)}; got {raw!r}"
            )
        return known
    try:
        value = float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise LabelFileError(f"{place}: `label` must be a finite number; got {raw!r}")
    return value
