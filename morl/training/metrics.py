"""metrics.jsonl: one JSON object a step, the source of truth for every curve."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from morl.errors import IntegrityError
from morl.training.durable import replace_durably

Record = dict[str, Any]


class MetricsLog:
    """Append-only log of a run; each record carries its `step`, in ascending order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one line in one write; a number that is not finite becomes null."""
        line = json.dumps({"step": step, **_finite(values)}, allow_nan=False) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> list[Record]:
        """Return all whole records; a last line torn by a crash is left out.

        Raises IntegrityError, with the line number, for a damaged line before it.
        """
        if not self.path.is_file():
            return []
        *lines, _torn = self.path.read_bytes().split(b"\n")
        return [self._record(number, line) for number, line in enumerate(lines, start=1)]

    def truncate_after(self, step: int) -> int:
        """Drop the records beyond `step`, so that a resumed run repeats none; return how many."""
        records = self.read()
        kept = [record for record in records if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        replace_durably(self.path, text.encode())
        return len(records) - len(kept)

    def _record(self, number: int, line: bytes) -> Record:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                return record
        except ValueError:
            pass
        raise IntegrityError(
            f"{self.path}:{number}: not a JSON object with a step; remove the line, or restore the "
            "file from a copy"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
