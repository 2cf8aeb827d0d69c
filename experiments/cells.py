"""Stored results of a study: one JSON file a cell, good only for the recipe and world it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from morl.config.tree import Config
from morl.config.write import departures, to_dict
from morl.diffusion.loading import SHAPES
from morl.errors import DataError
from morl.training.durable import replace_durably
from rewards.shapes.proxies import ASSETS, CARD_FILE

Result = dict[str, Any]
WORLD = (SHAPES / "checksums.json", ASSETS / CARD_FILE)
"""The files that hold the checksums of base model and proxies."""
ORIGIN = ("world", "config")
SEED, RATE = "training.seed", "training.learning_rate"


def origin(config: Config, world: Sequence[Path] = WORLD) -> Result:
    """What a cell was made from: hash of the world, resolved configuration."""
    settings = json.loads(json.dumps(to_dict(config)))  # as it will be read back
    hashed = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in world))
    return {"world": hashed.hexdigest(), "config": settings}


def with_rate(config: Config, factor: float, seed: int) -> Config:
    """The recipe with its learning rate times `factor`, on a seed."""
    rate = config.training.learning_rate * factor
    return replace(config, training=replace(config.training, learning_rate=rate, seed=seed))


def run_once(
    folder: Path,
    name: str,
    config: Config,
    work: Callable[[], Result],
    world: Sequence[Path] = WORLD,
) -> Result:
    """The stored cell, or a new one, written whole or not at all.

    A stored cell of another recipe or world is ignored and replaced; what differs is printed.
    """
    path, made = folder / f"{name}.json", origin(config, world)
    stored: Result = json.loads(path.read_bytes()) if path.is_file() else {}
    changed = differences(stored, made) if stored else []
    if stored and not changed:
        return stored
    if changed:
        print(f"{name}: stored one is ignored; {'; '.join(changed)}", flush=True)
    print(f"{name}: runs", flush=True)
    result = made | work()
    folder.mkdir(parents=True, exist_ok=True)
    replace_durably(path, (json.dumps(result, allow_nan=False) + "\n").encode())
    return result


def read_cells(folder: Path, kind: str) -> dict[int, Result]:
    """Stored cells `kind`-SEED.json, by seed and in its order."""
    paths = {int(p.stem.removeprefix(f"{kind}-")): p for p in folder.glob(f"{kind}-*.json")}
    return {seed: json.loads(paths[seed].read_bytes()) for seed in sorted(paths)}


def differences(one: Result, other: Result, ignoring: Sequence[str] = ()) -> list[str]:
    """Lines "key: value -> value" for what two cells were made from; keys may be sections.

    An option that one was stored without counts as left at its default.
    """
    if not all(key in cell for cell in (one, other) for key in ORIGIN):
        return ["one was stored without the recipe and world that made it"]
    before, after = (_flat(departures(cell["config"])) for cell in (one, other))
    lines = [
        f"{key}: {before.get(key, 'default')!r} -> {after.get(key, 'default')!r}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, "default") != after.get(key, "default")
        and not any(key == name or key.startswith(f"{name}.") for name in ignoring)
    ]
    if one["world"] != other["world"]:
        lines.append(f"world: {one['world'][:8]} -> {other['world'][:8]} (base model or proxies)")
    return lines


def require_same(cells: Mapping[str, Result], ignoring: Sequence[str]) -> None:
    """Raise DataError, naming cell and key, unless all were made from the same.

    ignoring: keys or sections of the configuration that may differ, like "training.seed".
    """
    names = list(cells)
    for name in names:
        lines = differences(cells[names[0]], cells[name], ignoring)
        if lines:
            raise DataError(
                f"results of different recipes or worlds cannot stand in one table: {names[0]} "
                f"and {name} differ in {'; '.join(lines)}; run the study again, which replaces "
                "what is out of date"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
            if prefix:  # not a section: the order of objectives orders the weight vector
                flat[f"{prefix}{key}"] = list(value)
        else:
            flat[f"{prefix}{key}"] = value
    return flat
