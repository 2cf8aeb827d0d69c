"""Rows of scores: appended while they are made, resumed, and written as one table at the end."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from morl.errors import ConfigError, DataError
from morl.scoring.folder import Item
from morl.training.durable import replace_durably

FORMAT = 1
PARTIAL = ".partial"


@dataclass(frozen=True)
class Row:
    """Scores of one image in the rewards' own units; no entry where one does not apply or failed.

    `stds`: the members' disagreement, where a reward has an ensemble. `error` says what failed.
    """

    file: str
    prompt: str | None
    stamp: tuple[int, int]
    """Size and time of change of the file when it was scored."""
    values: Mapping[str, float] = field(default_factory=dict)
    stds: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


def stamp_of(item: Item) -> tuple[int, int]:
    """What tells whether a file has changed; zeros where it has gone."""
    try:
        found = item.path.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


class Partial:
    """The rows of an unfinished table, beside it as OUT.partial: one JSON line a row.

    A crash costs at most the batch that was being scored. `what` must tell apart any two commands
    whose rows may not be mixed.
    """

    def __init__(self, out: Path, what: Mapping[str, Any]) -> None:
        self.path = out.with_name(out.name + PARTIAL)
        self._head = json.dumps({"format": FORMAT, **what}, sort_keys=True)
        self.rows: dict[str, Row] = {}
        if self.path.exists():
            self._resume()
        else:
            replace_durably(self.path, (self._head + "\n").encode())

    def done(self, item: Item) -> bool:
        """Whether the item was scored without a fault, from the same file and prompt."""
        row = self.rows.get(item.name)
        return (
            row is not None
            and not row.error
            and (row.prompt, row.stamp) == (item.prompt, stamp_of(item))
        )

    def append(self, rows: Sequence[Row]) -> None:
        """Keep rows, on the disk as well."""
        lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        self.rows |= {row.file: row for row in rows}

    def _resume(self) -> None:
        data = self.path.read_bytes()
        # A line without its end was being written when the machine stopped.
        whole = data[: data.rfind(b"\n") + 1]
        head, *lines = whole.decode().splitlines() or [""]
        if head != self._head:
            raise DataError(
                f"{self.path} holds scores of another command: {head[:500] or 'nothing'}; finish "
                "that one, remove the file, or choose another --out"
            )
        if whole != data:
            replace_durably(self.path, whole)
        for line in lines:
            values = json.loads(line)
            row = Row(**{**values, "stamp": tuple(values["stamp"])})
            self.rows[row.file] = row


def require_format(out: Path) -> None:
    """ConfigError where `out` is no table that can be written here."""
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--out must end in .csv or .parquet; got {out}")
    if out.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError(
            f"--out {out} needs pyarrow, which is not installed: pip install "
            f"'morl-diffusion[parquet]', or write {out.with_suffix('.csv')}"
        )


def write_table(out: Path, rows: Sequence[Row], rewards: Sequence[str]) -> None:
    """One line an image: file, prompt, each reward and its std where there is one, error."""
    columns = _columns(rows, rewards)
    data = _parquet(columns) if out.suffix == ".parquet" else _csv(columns)
    replace_durably(out, data)


def _columns(rows: Sequence[Row], rewards: Sequence[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "file": [row.file for row in rows],
        "prompt": [row.prompt for row in rows],
    }
    for name in rewards:
        columns[name] = [row.values.get(name) for row in rows]
        stds = [row.stds.get(name) for row in rows]
        if any(std is not None for std in stds):
            columns[f"{name}_std"] = stds
    return {**columns, "error": [row.error or None for row in rows]}


def _csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        table.writerow(_cells(row))
    return text.getvalue().encode()


def _cells(row: Iterable[Any]) -> list[str]:
    """Nine digits give a float32 back exactly."""
    return [
        "" if cell is None else f"{cell:.9g}" if isinstance(cell, float) else str(cell)
        for cell in row
    ]


def _parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    texts = ("file", "prompt", "error")
    arrays = {
        name: pyarrow.array(values, pyarrow.string() if name in texts else pyarrow.float64())
        for name, values in columns.items()
    }
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(arrays), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data
