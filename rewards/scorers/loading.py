"""Read a transformers model from a folder, and refuse weights that are not all there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rewards.checkpoints import CheckpointError

FIRST = 5


def load_pretrained(
    kind: Any, folder: Path, unused: tuple[str, ...] = (), dtype: torch.dtype = torch.float32
) -> Any:
    """A transformers model of class `kind`, from safetensors alone.

    `unused`: beginnings of names in the file that the model may leave out. Raises CheckpointError
    naming the first five tensors that are missing, extra, of another shape, or not finite.
    """
    model, info = kind.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=dtype,
    )
    extra = [name for name in info["unexpected_keys"] if not name.startswith(unused)]
    require_names(
        folder,
        {
            "misses": info["missing_keys"],
            "has unknown": extra,
            "has of another shape": [entry[0] for entry in info["mismatched_keys"]],
        },
    )
    require_finite(folder, model.state_dict())
    return model


def load_state(network: nn.Module, folder: Path, optional: tuple[str, ...] = ()) -> None:
    """Fill a network that is not of transformers from `model.safetensors` of a folder, in place.

    `optional`: ends of names that the file may leave out. Raises CheckpointError as
    `load_pretrained` does.
    """
    state, wanted = load_file(folder / "model.safetensors"), network.state_dict()
    needed = {name for name in wanted if not name.endswith(optional)}
    shared = wanted.keys() & state.keys()
    require_names(
        folder,
        {
            "misses": needed - state.keys(),
            "has unknown": state.keys() - wanted.keys(),
            "has of another shape": {n for n in shared if wanted[n].shape != state[n].shape},
        },
    )
    require_finite(folder, state)
    network.load_state_dict(state, strict=False)


def require_names(where: Path, faults: dict[str, Iterable[str]]) -> None:
    """Raise CheckpointError naming the first five tensors of each kind of fault."""
    said = [f"{what} tensors {listed(names)}" for what, names in faults.items() if set(names)]
    if said:
        raise CheckpointError(f"{where} {'; '.join(said)}: it is another model or not complete")


def require_finite(where: Path, state: dict[str, Tensor]) -> None:
    """Raise CheckpointError naming the first five tensors with NaN or infinity."""
    bad = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise CheckpointError(f"{where}: NaN or infinite values in tensors {listed(bad)}")


def listed(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - FIRST} more" if len(ordered) > FIRST else ""
    return ", ".join(ordered[:FIRST]) + more
