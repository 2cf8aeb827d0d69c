"""Learned rewards on disk: one safetensors file, its card in the header."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewards.checkpoints import CheckpointError
from rewards.facts_table import FACTS
from rewards.learned.card import KEY, SUFFIX, located, read_card, trained
from rewards.learned.head import EnsembleHead
from rewards.learned.last_layer import LastLayer
from rewards.learned.model import RewardModel
from rewards.learned.settings import RewardTrainingError
from rewards.scorers.loading import require_finite, require_names

_HEAD, _LAST = "head.", "last_layer."
_OWN = ("probe", "base_mean", "base_std")


def target_of(out: str) -> Path:
    """Where a reward called `out` is written: a path as it is, a name among the trained ones."""
    if out.endswith(SUFFIX):
        return Path(out).expanduser()
    if not out.isidentifier():
        raise RewardTrainingError(
            f"out: a name is letters, digits and '_', and a path ends in {SUFFIX}; got {out!r}"
        )
    if out in FACTS:
        raise RewardTrainingError(f"out: a reward named {out!r} exists already; choose another")
    return trained() / f"{out}{SUFFIX}"


def save_reward(model: RewardModel, path: str | os.PathLike[str]) -> Path:
    """Write a reward in float32, whole or not at all; returns its path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_HEAD}{name}": t for name, t in model.head.state_dict().items()}
    if model.last_layer is not None:
        tensors |= {f"{_LAST}{name}": t for name, t in model.last_layer.state_dict().items()}
    tensors |= {name: vars(model)[name] for name in _OWN}
    plain = {name: t.detach().cpu().float().contiguous() for name, t in tensors.items()}
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file(plain, aside, metadata={KEY: model.card.to_json()})
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def load_reward(name: str | os.PathLike[str]) -> RewardModel:
    """Read a reward by name or path; CheckpointError, naming the file, on anything else."""
    found = located(os.fspath(name))
    if found is None:
        raise CheckpointError(f"no learned reward is called {os.fspath(name)!r} in {trained()}")
    card = read_card(found)
    try:
        stored = load_file(found)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{found} cannot be read as a learned reward: {error}") from error
    head = EnsembleHead(card.members, card.features, card.hidden, torch.Generator())
    last = None
    if card.uncertainty in ("laplace", "mahalanobis"):
        last = LastLayer(card.hidden or card.features)
    wanted = {f"{_HEAD}{key}": t for key, t in head.state_dict().items()}
    wanted |= {f"{_LAST}{key}": t for key, t in (last.state_dict() if last else {}).items()}
    known = {*wanted, *_OWN}
    other = {key for key in wanted.keys() & stored.keys() if wanted[key].shape != stored[key].shape}
    require_names(
        found,
        {
            "misses": known - stored.keys(),
            "has unknown": stored.keys() - known,
            "has of another shape": other,
        },
    )
    require_finite(found, stored)
    head.load_state_dict(_under(_HEAD, stored))
    if last is not None:
        last.load_state_dict(_under(_LAST, stored))
    head.eval().requires_grad_(False)
    probe, base_mean, base_std = (stored[key] for key in _OWN)
    return RewardModel(card, head, probe, base_mean, base_std, last)


def _under(prefix: str, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in stored.items() if key.startswith(prefix)}
