"""Safetensors files, whole and finite or refused; pickles are told by content, not by name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from morl.diffusion.weight_files import PICKLE_STARTS
from morl.errors import DataError, IntegrityError, ResourceError

HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors format


def read_safetensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file, on the CPU.

    Raises DataError if there is no such file, IntegrityError if it is a pickle, truncated, corrupt
    or holds NaN or infinities; each message names the file and the way out.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file (looked for {file.absolute()})") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    _refuse_other_formats(file, data)
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise IntegrityError(
            f"{file}: corrupt or truncated safetensors ({error}); copy or download it again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise IntegrityError(
                f"{file}: tensor {name!r} holds NaN or infinities, so the training that wrote it "
                "had diverged; use an earlier checkpoint"
            )
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return metadata, tensors


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a file as a whole: the old one stays until the new one is on disk.

    Raises IntegrityError for tensors that are not finite, ResourceError where it cannot be written.
    """
    file = Path(path)
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise IntegrityError(f"{file}: not written, {bad[0]!r} holds NaN or infinities")
    # Cloned because safetensors refuses tensors that share memory.
    whole = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    data = save(whole, {"format": "pt", **metadata})
    aside = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, file)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise ResourceError(f"{file}: cannot be written: {error.strerror}") from error


def _refuse_other_formats(file: Path, data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and length <= min(len(data) - 8, HEADER_LIMIT):
        return
    if data.startswith(PICKLE_STARTS):
        raise IntegrityError(
            f"{file}: a pickle, whatever its name says; loading one can run code. Where you trust "
            "it, convert it: safetensors.torch.save_file(torch.load(old, weights_only=True), new)"
        )
    raise IntegrityError(
        f"{file}: no safetensors file, or the beginning of one ({len(data):,} bytes); copy or "
        "download it again"
    )
