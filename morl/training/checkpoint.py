"""Checkpoints that are whole or absent: written aside, hashed, renamed into place, then pruned."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from morl.errors import IntegrityError, ResourceError
from morl.training.durable import replace_durably, require_space, sync_folder, write_durably
from morl.training.run import RunDirectory

FORMAT = 1
MANIFEST = "manifest.json"
SPACE_FACTOR = 1.2  # room for the folder's own entries and for the next log lines


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` updates: groups of named tensors, and plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    path: Path


class FallbackWarning(UserWarning):
    """The newest checkpoint is damaged; an older one is used."""


def save_checkpoint(
    run: RunDirectory,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write `checkpoint-<step>/` and remove all but the newest `keep`.

    Each group of `tensors` becomes one safetensors file, `state` becomes state.json, and the
    manifest that makes the checkpoint valid is written last. Whatever happens on the way, the
    previous checkpoint stays whole. Raises ResourceError where the disk is too full.
    """
    target = run.path / f"checkpoint-{step}"
    if target.exists():
        if not _defect(target):
            return target  # the same step of the same run: nothing new to keep
        _remove(target)
    files = {f"{name}.safetensors": _serialise(group) for name, group in tensors.items()}
    files["state.json"] = json.dumps(dict(state), indent=1).encode()
    require_space(run.path, int(SPACE_FACTOR * sum(map(len, files.values()))))
    # The name must not start with "checkpoint": other tools take such a folder for a checkpoint.
    aside = run.path / f".tmp-{step}-{os.getpid()}"
    try:
        os.mkdir(aside)
        for name, data in files.items():
            write_durably(aside / name, data)
        write_durably(aside / MANIFEST, _manifest(step, files))
        sync_folder(aside)
        os.rename(aside, target)
    except (OSError, ResourceError):
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(run.path)
    replace_durably(run.path / "latest", f"{target.name}\n".encode())
    for old in checkpoints(run)[:-keep]:
        _remove(old)
    return target


def load_checkpoint(run: RunDirectory, step: int | None = None) -> Checkpoint | None:
    """Load the newest whole checkpoint, or the one of `step`; None if none was ever written.

    A damaged one is named by a FallbackWarning and the one before it is taken. Raises
    IntegrityError if no whole one is left, or if the one of `step` is missing or damaged.
    """
    paths = checkpoints(run)
    if step is not None:
        wanted = run.path / f"checkpoint-{step}"
        if wanted not in paths:
            known = ", ".join(path.name for path in paths) or "none"
            raise IntegrityError(f"{run.path}: no {wanted.name}; there are: {known}")
        return _load(wanted)
    for path in reversed(paths):
        defect = _defect(path)
        if not defect:
            return _load(path)
        warnings.warn(f"{path}: {defect}; using the one before it", FallbackWarning, stacklevel=2)
    if paths:
        raise IntegrityError(
            f"{run.path}: none of its {len(paths)} checkpoints is whole; start again with a new "
            "--out, or restore one from a copy"
        )
    return None


def checkpoints(run: RunDirectory) -> list[Path]:
    """Checkpoint folders by ascending step, whole or not."""
    found = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in run.path.glob("checkpoint-*")
        if path.is_dir() and path.name.removeprefix("checkpoint-").isdigit()
    }
    return [found[step] for step in sorted(found)]


def _load(path: Path) -> Checkpoint:
    defect = _defect(path)
    if defect:
        raise IntegrityError(f"{path}: {defect}")
    state: dict[str, Any] = json.loads((path / "state.json").read_bytes())
    tensors = {file.stem: read_tensors(file.read_bytes()) for file in path.glob("*.safetensors")}
    return Checkpoint(int(path.name.removeprefix("checkpoint-")), tensors, state, path)


def _defect(path: Path) -> str | None:
    """What makes this checkpoint unusable, or None: every file must match its hash."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        version, entries = manifest["format"], manifest["files"]
        if version > FORMAT:
            return f"written in format {version}, newer than {FORMAT}: upgrade morl"
        for name, entry in entries.items():
            data = (path / name).read_bytes()
            if len(data) != entry["bytes"] or _digest(data) != entry["sha256"]:
                return f"{name} does not match its manifest (truncated or changed)"
        if "state.json" not in entries:
            return f"{MANIFEST} lists no state.json"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    return None


def _serialise(group: Mapping[str, Tensor]) -> bytes:
    # Cloned because safetensors refuses tensors that share memory, as tied parameters do.
    return tensor_bytes({name: t.detach().cpu().contiguous().clone() for name, t in group.items()})


def _manifest(step: int, files: Mapping[str, bytes]) -> bytes:
    entries = {n: {"bytes": len(data), "sha256": _digest(data)} for n, data in files.items()}
    return json.dumps({"format": FORMAT, "step": step, "files": entries}, indent=1).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _remove(path: Path) -> None:
    # Renamed first: a folder that is half deleted must not look like a checkpoint.
    aside = path.with_name(f".tmp-old-{path.name}-{os.getpid()}")
    os.rename(path, aside)
    shutil.rmtree(aside)
