"""What cannot work is said before anything loads: all problems in one go, within a second."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from morl.config.data_check import data_problems
from morl.config.objective_check import objective_problems
from morl.config.tree import BaseConfig, Config
from morl.diffusion.quantized import quantize_problem
from morl.errors import ConfigError, DataError
from morl.prompts import WORLD
from rewards.errors import nearest

SUM_TOLERANCE = 1e-9
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def check(config: Config) -> list[str]:
    """Return every problem of a configuration, each with its key; imports no torch."""
    return [*_setting_problems(config), *data_problems(config)]


def require(config: Config) -> None:
    """Raise ConfigError, or DataError where only input files are at fault, listing everything."""
    problems, data = list(_setting_problems(config)), list(data_problems(config))
    if problems:
        raise ConfigError([*problems, *data])
    if data:
        raise DataError("\n".join(data))


def _setting_problems(config: Config) -> Iterator[str]:
    yield from objective_problems(config)
    yield from _algorithm_problems(config)
    yield from _region_problems(config)
    yield from _base_problems(config.base)


def _base_problems(base: BaseConfig) -> Iterator[str]:
    model = Path(base.model)
    if base.model != WORLD and not model.exists() and not _HUB_ID.match(base.model):
        yield (
            f"base.model: got {base.model!r}; must be {WORLD!r}, an existing diffusers folder or "
            ".safetensors file, or a hub id like org/name"
        )
    if problem := quantize_problem(base.quantize):
        yield problem
    if base.quantize != "none" and model.is_file():
        yield (
            f"base.quantize: {base.quantize} reads a diffusers folder or hub id, and {base.model!r}"
            " is a single file; save it with save_pretrained, or set base.quantize: none"
        )
    described = "base.model", base.model
    if base.config is not None:
        described = "base.config", base.config
        if not model.is_file():
            yield f"base.config: describes a single file, and base.model {base.model!r} is none"
        elif not Path(base.config).is_dir() and not _HUB_ID.match(base.config):
            yield (
                f"base.config: got {base.config!r}; must be an existing diffusers folder or a hub "
                "id like org/name"
            )
    key, folder = described
    if Path(folder).is_dir() and not (Path(folder) / "model_index.json").is_file():
        yield f"{key}: {folder!r} holds no model_index.json, so it is no diffusers pipeline"


def _algorithm_problems(config: Config) -> Iterator[str]:
    settings = config.algorithm
    yield from (f"adapter.{problem}" for problem in config.adapter.problems(len(config.names)))
    yield from settings.problems(config.base.steps)
    group = settings.group_size * settings.weights_per_prompt
    batch = config.training.batch_size
    if batch % group:
        below, above = batch // group * group, (batch // group + 1) * group
        near = f"{below} or {above}" if below else f"{above}"
        yield (
            f"training.batch_size: must be a multiple of group_size x weights_per_prompt = "
            f"{settings.group_size} x {settings.weights_per_prompt} = {group}; got {batch} "
            f"(nearest: {near})"
        )


def _region_problems(config: Config) -> Iterator[str]:
    region = config.weights
    if region.vertex + region.edge > 1 + SUM_TOLERANCE:
        yield (
            f"weights.vertex, weights.edge: shares of one whole; got {region.vertex} and "
            f"{region.edge}, more than 1 together"
        )
    unknown = False
    for key, bounds in (("low", region.low), ("high", region.high)):
        for name, bound in bounds.items():
            if name not in config.names:
                unknown = True
                yield f"weights.{key}.{name}: no such objective; {nearest(name, config.names)}"
            if not 0 <= bound <= 1:
                yield f"weights.{key}.{name}: must lie in [0, 1]; got {bound}"
    if unknown or not config.names:
        return
    low, high = region.bounds(config.names)
    for name, below, above in zip(config.names, low, high, strict=True):
        if below > above:
            yield f"weights: low of {name} ({below}) lies above its high ({above})"
    if sum(low) > 1 + SUM_TOLERANCE or sum(high) < 1 - SUM_TOLERANCE:
        yield (
            f"weights: no weight vector sums to 1 within the bounds; the sum of low is "
            f"{sum(low):g} (at most 1), the sum of high {sum(high):g} (at least 1)"
        )
