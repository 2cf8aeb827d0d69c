"""From a `Config` back to YAML: plain for the run directory, annotated for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import yaml

from morl.algorithms.facts import ALGORITHMS
from morl.config.tree import Config
from morl.option import option_of


def to_dict(config: Config) -> dict[str, Any]:
    """Return plain nested values; the algorithm's name stands before its settings."""
    values = dataclasses.asdict(config)
    values["algorithm"] = {"name": config.algorithm.name, **values["algorithm"]}
    return values


def departures(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The algorithm's name, and the settings of a plain configuration that are not defaults.

    values: what `to_dict` gave, perhaps before an option was added: a new option changes nothing
    until it is set, so it may be missing; a default that has changed since shows.
    """
    told = json.loads(json.dumps(values))
    name = told["algorithm"]["name"]
    usual = json.loads(json.dumps(to_dict(Config(algorithm=ALGORITHMS[name].settings()))))
    del usual["algorithm"]["name"]
    return {
        section: {
            key: value
            for key, value in keys.items()
            if key not in usual.get(section, {}) or value != usual[section][key]
        }
        for section, keys in told.items()
    }


def to_yaml(config: Config) -> str:
    """Return YAML that `load_config` reads back as an equal configuration."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def annotated(config: Config) -> str:
    """Return the same YAML with meaning, unit, range and source beside every key."""
    lines = []
    for section in dataclasses.fields(config):
        tree = getattr(config, section.name)
        values = dataclasses.asdict(tree)
        lines.append(f"\n# {(type(tree).__doc__ or '').strip()}\n{section.name}:")
        if section.name == "algorithm":
            lines.append(f"  name: {config.algorithm.name}")
        for field in dataclasses.fields(tree):
            entry = f"  {_inline(field.name)}: {_inline(values[field.name])}"
            lines.append(f"{entry:<34}  # {_comment(field)}")
    return "\n".join(lines).lstrip() + "\n"


def _inline(value: Any) -> str:
    """One value on one line; a bare scalar would end in a document mark, so a list holds it."""
    text = yaml.safe_dump(
        [value], sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000
    )
    return text.strip()[1:-1]


def _comment(field: dataclasses.Field[Any]) -> str:
    said = option_of(field)
    bounds = said.range()
    parts = [
        said.meaning,
        *([f"[{said.unit}]"] if said.unit else []),
        *([bounds] if bounds != "a finite number" else []),
        *([f"source: {said.source}"] if said.source else []),
    ]
    return "; ".join(parts)
