"""Runs of one sweep, one after another; a finished one is kept, an interrupted one is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from morl.config.tree import Config
from morl.errors import ConfigError
from morl.training.evaluate import evaluate_run
from morl.training.run import RunDirectory, differences
from morl.training.session import train


def run_sweep(out: Path, configs: Mapping[str, Config], command: str) -> list[dict[str, str]]:
    """Train and measure each configuration in `out/<name>`; return one row of results a run.

    A run with a front is done and is not touched. Raises ConfigError where a run directory holds
    another configuration than the one asked for.
    """
    rows = []
    for number, (name, config) in enumerate(configs.items(), start=1):
        print(f"[{number}/{len(configs)}] {name}", flush=True)
        run = RunDirectory(out / name)
        front = run.path / "front.json"
        if not front.is_file():
            train(config, run.path, resume=run.exists, command=command)
            evaluate_run(run.path)
        elif changes := differences(run.config(), config):
            raise ConfigError(
                [
                    f"{run.path}: finished with another configuration; take another --out",
                    *changes.values(),
                ]
            )
        rows.append({"run": name, **summary(json.loads(front.read_bytes()))})
    return rows


def summary(front: Mapping[str, Any]) -> dict[str, str]:
    """Hypervolume and delivered utility with their intervals: gold where it is known."""
    fronts = front["fronts"]
    space = "gold" if "gold" in fronts else "proxy"
    row = {"judged by": space}
    for key in ("hypervolume", "delivered_utility"):
        found = fronts[space][key]
        row[key.replace("_", " ")] = (
            f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
        )
    return row
