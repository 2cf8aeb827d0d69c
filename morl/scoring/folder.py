"""Which images of a folder are scored, and which prompt belongs to each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morl.errors import DataError
from morl.prompts import as_prompt, read_prompts, read_records, read_text
from rewards.errors import nearest

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)
NAMED = 3  # files that a message lists


@dataclass(frozen=True)
class Item:
    """One image to score."""

    name: str
    """Path relative to the folder, with forward slashes."""
    path: Path
    prompt: str | None
    """None where no prompt is known; a `Prompt` where its file holds more than the text."""


def list_images(folder: Path) -> list[str]:
    """Every image below the folder by suffix, in the order of their names; hidden ones left out.

    The order is that of characters: img-10.png stands before img-2.png. Raises DataError for what
    is no folder or holds no image.
    """
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.is_file() else "no such folder"
        raise DataError(f"{str(folder)!r}: {kind} (looked for {folder.absolute()})")
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = sorted(
        path.as_posix()
        for path in found
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
    )
    if not names:
        raise DataError(f"{str(folder)!r}: no image in it; known are {', '.join(SUFFIXES)}")
    return names


def files_of(folder: Path) -> list[Item]:
    """The images without any prompt."""
    return [Item(name, folder / name, None) for name in list_images(folder)]


def items_of(folder: Path, prompts: Path | None) -> tuple[list[Item], list[str]]:
    """The images with their prompts, and notes on what was passed over.

    prompts: one prompt a line (or a .jsonl without `file`) in the order of `list_images`; a .csv
    or .jsonl with `file` and `prompt`; None: beside each image a text of the same name with the
    suffix .txt, where there is any. Raises DataError where an image has no prompt of its own.
    """
    names = list_images(folder)
    notes: list[str] = []
    if prompts is None:
        asked = _beside(folder, names)
    elif prompts.suffix == ".csv":
        asked = _by_file(names, list(_csv_records(prompts)), prompts, notes)
    elif prompts.suffix == ".jsonl":
        entries = list(read_records(prompts))
        by_file = any("file" in record for record, _ in entries)
        lines = [as_prompt(record, place) for record, place in ([] if by_file else entries)]
        asked = _by_file(names, entries, prompts, notes) if by_file else _in_order(names, lines)
    else:
        asked = _in_order(names, read_prompts(prompts))
    return [Item(name, folder / name, asked.get(name)) for name in names], notes


def _in_order(names: Sequence[str], prompts: Sequence[str]) -> dict[str, str]:
    if len(names) != len(prompts):
        raise DataError(
            f"prompts by line must be as many as images: got {len(prompts)} prompts for "
            f"{len(names)} images ({names[0]} ... {names[-1]}); or name the files in a .csv with "
            "the columns file,prompt"
        )
    return dict(zip(names, prompts, strict=True))


def _beside(folder: Path, names: Sequence[str]) -> dict[str, str]:
    texts = {name: (folder / name).with_suffix(".txt") for name in names}
    there = {name: text for name, text in texts.items() if text.is_file()}
    if not there:
        return {}
    _require_all(names, there, "a .txt beside each image, as other images have it")
    return {name: " ".join(read_text(text).split()) for name, text in there.items()}


def _by_file(
    names: Sequence[str],
    entries: Sequence[tuple[Mapping[str, Any], str]],
    source: Path,
    notes: list[str],
) -> dict[str, str]:
    known = set(names)
    asked: dict[str, str] = {}
    absent: list[str] = []
    for record, place in entries:
        file = record.get("file")
        if not isinstance(file, str) or not file:
            raise DataError(f"{place}: needs a text `file`; got {file!r}")
        name = Path(file).as_posix()
        if name in asked:
            raise DataError(f"{place}: {name} has a prompt already")
        if name not in known:
            absent.append(name)
            continue
        asked[name] = as_prompt({k: v for k, v in record.items() if k != "file"}, place)
    if not asked:
        raise DataError(
            f"prompts {str(source)!r}: names no image of the folder; files are named relative to "
            f"it: {absent[0]!r} is not there; {nearest(absent[0], names[:50])}"
        )
    if absent:
        notes.append(f"{source} names {len(absent)} images that are not there: {_first(absent)}")
    _require_all(names, asked, f"a line of {source}")
    return asked


def _csv_records(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        missing = {"file", "prompt"} - set(rows.fieldnames or ())
        if missing:
            raise DataError(
                f"prompts {str(path)!r}: the first line must name the columns file and prompt; "
                f"got {', '.join(rows.fieldnames or ()) or 'nothing'}"
            )
        for row in rows:
            place = f"prompts {str(path)!r}, line {rows.line_num}"
            if None in row:
                raise DataError(f"{place}: more values than columns; quote a prompt with commas")
            yield {key: value for key, value in row.items() if value is not None}, place
    except csv.Error as error:
        raise DataError(f"prompts {str(path)!r}: not a CSV file: {error}") from error


def _require_all(names: Sequence[str], there: Mapping[str, object], what: str) -> None:
    if without := [name for name in names if name not in there]:
        raise DataError(f"{len(without)} images lack a prompt, {what}: {_first(without)}")


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
