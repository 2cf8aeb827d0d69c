"""The learned proxies as one value: a CLIP, its heads and their statistics; safetensors + JSON."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewards.errors import RewardError
from rewards.learned.head import EnsembleHead
from rewards.shapes.clip import ShapesClip
from rewards.shapes.heads import AgreementHead

FORMAT = 1
ASSETS = Path(__file__).parent / "assets"
TOWER_FILE, HEADS_FILE, CARD_FILE = "clip.safetensors", "heads.safetensors", "proxies.json"
REGRESSORS = ("aesthetic", "preference", "unsafe")


class ProxyFileError(RewardError, ValueError):
    """Proxy files that are absent, changed, truncated or of a newer format."""


@dataclass(frozen=True)
class HeadSizes:
    """Members of each ensemble, hidden units of a regressor, dimensions of an agreement space."""

    members: int = 5
    hidden: int = 64
    agreement: int = 64


@dataclass(frozen=True)
class Proxies:
    """Everything that the proxy scorers read.

    base_mean, base_std: by head, each member's statistics on base-model samples, what makes
    members comparable; platt: (slope, offset) that turn the unsafe logits into probabilities.
    """

    clip: ShapesClip
    heads: nn.ModuleDict
    sizes: HeadSizes
    base_mean: dict[str, Float[Tensor, " member"]]
    base_std: dict[str, Float[Tensor, " member"]]
    platt: tuple[float, float]


def build_heads(sizes: HeadSizes, clip: ShapesClip, seed: int) -> nn.ModuleDict:
    """Untrained heads on `clip`: `alignment`, and one regressor for each of `REGRESSORS`."""
    generator = torch.Generator().manual_seed(seed)
    heads: dict[str, nn.Module] = {
        name: EnsembleHead(sizes.members, clip.features, sizes.hidden, generator)
        for name in REGRESSORS
    }
    heads["alignment"] = AgreementHead(
        sizes.members, clip.config.embed_dim, sizes.agreement, generator
    )
    return nn.ModuleDict(heads)


def save_proxies(proxies: Proxies, out_dir: str | os.PathLike[str]) -> Path:
    """Write tower, heads and card; matrices as fp16 (the tower is 2.7 MB), vectors as fp32."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_compact(proxies.clip.state_dict()), folder / TOWER_FILE)
    save_file(_compact(proxies.heads.state_dict()), folder / HEADS_FILE)
    card = {
        "format": FORMAT,
        "clip": proxies.clip.to_config(),
        "heads": asdict(proxies.sizes),
        "base_mean": {name: values.tolist() for name, values in proxies.base_mean.items()},
        "base_std": {name: values.tolist() for name, values in proxies.base_std.items()},
        "platt": list(proxies.platt),
        "sha256": {name: _digest(folder / name) for name in (TOWER_FILE, HEADS_FILE)},
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return folder


def load_proxies(folder: str | os.PathLike[str] = ASSETS) -> Proxies:
    """Read what `save_proxies` wrote; ProxyFileError, naming the file, on anything else."""
    where = Path(folder)
    card = _read_card(where / CARD_FILE)
    for name, expected in card["sha256"].items():
        path = where / name
        if not path.is_file():
            raise ProxyFileError(f"{path} is missing; {_REMEDY}")
        if _digest(path) != expected:
            raise ProxyFileError(f"{path} is not the file that {CARD_FILE} describes; {_REMEDY}")
    clip = ShapesClip.from_config(card["clip"])
    sizes = HeadSizes(**card["heads"])
    heads = build_heads(sizes, clip, seed=0)
    clip.load_state_dict(_tensors(where / TOWER_FILE))
    heads.load_state_dict(_tensors(where / HEADS_FILE))
    return Proxies(
        clip.eval().requires_grad_(False),
        heads.eval().requires_grad_(False),
        sizes,
        {name: torch.tensor(values) for name, values in card["base_mean"].items()},
        {name: torch.tensor(values) for name, values in card["base_std"].items()},
        (card["platt"][0], card["platt"][1]),
    )


_REMEDY = "rebuild the proxies with `morl world train`, or reinstall the package."


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProxyFileError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ProxyFileError(f"{path} must have format {FORMAT}; {_REMEDY}")
    return card


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ProxyFileError(f"{path} is no safetensors file ({error}); {_REMEDY}") from error
    return {name: t.float() if t.is_floating_point() else t for name, t in stored.items()}


def _compact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: (t.half() if t.ndim > 1 and t.is_floating_point() else t).contiguous()
        for name, t in state.items()
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
