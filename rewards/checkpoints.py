"""Where the weights of `rewards.checkpoint_table` are found on this machine.

In this order: the folder named in the encoder's settings; `$MORL_REWARDS_HOME/<name>` (by default
`~/.cache/morl/rewards/<name>`), where `morl rewards convert` writes; the hub's own cache, or the
hub at the pinned revision unless HF_HUB_OFFLINE is set. Imports no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from rewards.checkpoint_table import CHECKPOINTS as CHECKPOINTS
from rewards.checkpoint_table import Checkpoint as Checkpoint
from rewards.errors import RewardError
from rewards.head_table import HEADS as HEADS
from rewards.head_table import Head as Head

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_WANTED = ["*.json", "model*.safetensors", "tokenizer*", "merges.txt", "chat_template*", "*.model"]


class CheckpointError(RewardError, FileNotFoundError):
    """Weights that are absent, incomplete, of another shape, or not finite."""


def home() -> Path:
    """Folder of converted weights: `$MORL_REWARDS_HOME`, or ~/.cache/morl/rewards."""
    return Path(os.environ.get("MORL_REWARDS_HOME") or "~/.cache/morl/rewards").expanduser()


def find(name: str, folder: str | None = None) -> Path:
    """The folder that holds the weights of checkpoint `name`; CheckpointError says how to get it.

    `folder` is taken or refused; without it see the module's own text for the order.
    """
    if folder is not None:
        chosen = Path(folder).expanduser()
        if missing := _missing(chosen):
            raise CheckpointError(f"encoder {name!r}: {chosen} holds no {missing}")
        return chosen
    own = home() / name
    if not _missing(own):
        return own
    return _from_hub(CHECKPOINTS[name])


def how_to_get(row: Checkpoint) -> str:
    """The commands that bring the weights onto this machine."""
    if not row.layout:
        return row.fetch
    if row.on_hub:
        return f"hf download {row.repo} --revision {row.revision}"
    convert = f"morl rewards convert {row.name} {row.original}"
    if row.fetch:
        return f"{row.fetch} && {convert}"
    wanted = [(row.repo, row.original, row.revision)]
    repo, revision = row.beside_origin
    wanted += [(repo, file, revision) for file in row.beside]
    downloads = [
        f"hf download {repo} {file} --revision {revision} --local-dir ."
        for repo, file, revision in wanted
    ]
    return " && ".join([*downloads, convert])


def _from_hub(row: Checkpoint) -> Path:
    reason = "and no revision of the hub is known to hold them in our layout"
    if row.on_hub:
        from huggingface_hub import snapshot_download

        try:
            found = Path(snapshot_download(row.repo, revision=row.revision, allow_patterns=_WANTED))
        except OSError as error:  # whatever the hub library raises is one
            reason = f"and the hub cannot be asked ({type(error).__name__})"
        else:
            if not _missing(found):
                return found
            row = Checkpoint(**{**vars(row), "on_hub": False})
    raise CheckpointError(
        f"the weights {row.name!r} ({row.repo}) are not on this machine, {reason}: expected "
        f"config.json and model.safetensors in {home() / row.name} or in the hub's cache. Get them "
        f"with `{how_to_get(row)}`, or name their folder as objective.encoders.{row.name}.folder"
    )


def _missing(folder: Path) -> str:
    """What a folder of weights lacks, or nothing."""
    if not (folder / "config.json").is_file():
        return "config.json"
    return "" if any((folder / name).is_file() for name in WEIGHTS) else "model.safetensors"
