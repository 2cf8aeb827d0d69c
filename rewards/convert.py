"""`morl rewards convert`: authors' own files into safetensors + JSON, the one place for pickles.

A pickle is opened with `weights_only=True`, which runs no code from the file, and only where its
SHA-256 is the known one or is stated. What is written goes to `$MORL_REWARDS_HOME/<name>`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewards.blip_layout import image_reward_config, image_reward_to_transformers
from rewards.checkpoints import CHECKPOINTS, Checkpoint, CheckpointError, home, how_to_get
from rewards.errors import nearest
from rewards.head_table import HEADS, Head
from rewards.hpsv3_layout import hpsv3_config, hpsv3_to_transformers
from rewards.layouts import (
    State,
    alexnet_trunk,
    collapsed,
    lpips_channels,
    open_clip_config,
    open_clip_to_transformers,
    without_positions,
)
from rewards.mps_layout import mps_config, mps_to_transformers

CARD_FILE, HEAD_FILE = "card.json", "head.safetensors"
FORMAT = 1

# From the tensors of a file to our tensors and, where the file says it, the network's config.
LAYOUTS: dict[str, Callable[[State], tuple[State, dict[str, Any] | None]]] = {
    "transformers_clip": lambda state: (without_positions(state), None),
    "transformers": lambda state: (state, None),
    "open_clip": lambda state: (open_clip_to_transformers(state), open_clip_config(state)),
    "image_reward": lambda state: (image_reward_to_transformers(state), image_reward_config(state)),
    "hpsv3": lambda state: (hpsv3_to_transformers(state), hpsv3_config(state)),
    "mps": lambda state: (mps_to_transformers(state), mps_config(state)),
    "alexnet": lambda state: (alexnet_trunk(state), {"model_type": "alexnet"}),
    "inception": lambda state: (state, {"model_type": "inception_v3"}),
    "lpips": lambda state: ({f"lin{i}": lpips_channels(state, i) for i in range(5)}, None),
    "affine": lambda state: (collapsed(state), None),
    "as_is": lambda state: (state, None),
    "q16": lambda state: ({"prompts": state["ViT-L-14"]}, None),
}


def convert(
    name: str, file: str | os.PathLike[str], digest: str = "", out: Path | None = None
) -> Path:
    """Write checkpoint or head `name` from the authors' `file`; returns the folder.

    `digest`: the SHA-256 that you expect of the file, instead of the one on record. Raises
    CheckpointError for an unknown name, another digest, or tensors of another layout.
    """
    known: dict[str, Checkpoint | Head] = {**CHECKPOINTS, **HEADS}
    if name not in known:
        raise CheckpointError(f"nothing to convert is called {name!r}; {nearest(name, known)}")
    row, path = known[name], Path(file)
    if not path.is_file():
        raise CheckpointError(f"no such file: {path}; {name} is converted from {row.original}")
    found, expected = _digest(path), digest or row.sha256
    if expected and found != expected.lower():
        raise CheckpointError(
            f"{path} has SHA-256 {found}, and {name} is expected to have {expected}; if you know "
            f"the file, say so with --sha256 {found}"
        )
    try:
        state, config = LAYOUTS[row.layout](_read(path))
    except (KeyError, StopIteration, AttributeError) as error:
        raise CheckpointError(
            f"{path} has not the layout {row.layout!r} of {name}: {error!r}"
        ) from error
    beside = row.beside if isinstance(row, Checkpoint) else ()
    if missing := [file for file in beside if not (path.parent / file).is_file()]:
        raise CheckpointError(
            f"{name}: put {', '.join(missing)} of {CHECKPOINTS[name].beside_origin[0]} beside "
            f"{path.name}, in {path.parent}; get all with `{how_to_get(CHECKPOINTS[name])}`"
        )
    card = {
        "format": FORMAT,
        "name": name,
        "licence": row.licence,
        "source": row.origin,
        "original": path.name,
        "original_sha256": found,
    }
    return _write(out or home() / name, name, state, config, card, path.parent)


def _write(
    folder: Path,
    name: str,
    state: State,
    config: dict[str, Any] | None,
    card: dict[str, Any],
    beside: Path,
) -> Path:
    """Write everything into a new folder beside the target, then put it in place at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        weights = "model.safetensors" if name in CHECKPOINTS else HEAD_FILE
        # Tensors of a pickle may share memory, which safetensors refuses.
        save_file({key: t.clone().contiguous() for key, t in state.items()}, fresh / weights)
        if name in CHECKPOINTS:
            if config is None:
                _copy_beside(beside, fresh, name)
            else:
                (fresh / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
            for extra in CHECKPOINTS[name].beside:
                shutil.copyfile(beside / extra, fresh / extra)
        card = {**card, "sha256": _digest(fresh / weights)}
        (fresh / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", "utf-8")
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return folder


def _copy_beside(source: Path, target: Path, name: str) -> None:
    """The network's configuration and its tokenizer, which lie beside transformers' weights."""
    if not (source / "config.json").is_file():
        raise CheckpointError(f"{name}: put the model's config.json beside its file, in {source}")
    for pattern in ("config.json", "tokenizer*", "special_tokens_map.json", "*.model"):
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _read(path: Path) -> State:
    """Tensors of a safetensors, npz or pickle file; a training file's model is taken out."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is no file of plain tensors: {error}; it is not opened any other way"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise CheckpointError(f"{path} holds no dictionary of tensors")
    return dict(loaded)


def _digest(path: Path) -> str:
    found = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 24):
            found.update(block)
    return found.hexdigest()
