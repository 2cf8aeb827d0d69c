"""The adapter file: one safetensors that says what it is, and is refused where it does not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from morl.errors import ConfigError, IntegrityError
from morl.lora.conditioned import ConditionedAdapter
from morl.lora.file import read_safetensors, write_safetensors
from morl.lora.settings import AdapterConfig
from rewards.budgets import Budget

FORMAT = 2
WITHOUT_BUDGETS = 1
"""The format before budgets; a file without any is still written in it, for older readers."""
ADAPTER_FILE = "adapter.safetensors"  # its name in a run directory
KEY = "morl_adapter"
LISTED = 5


@dataclass(frozen=True)
class AdapterHeader:
    """Everything about an adapter that its tensors do not say; stored as JSON in the file.

    objectives: in the order of the weight vector. config: of the adapter. base: what
    `morl.diffusion.loading.base_identity` returns; `pipeline` and `denoiser` must match. region:
    `low` and `high`, the bounds of the weights that training drew, one entry an objective.
    calibration: `rewards.Calibration.to_dict()`. sampling: `steps`, `guidance` and whatever else
    sampling is meant to use. beside_sha256: of the LoRA file that stays beside it. notes: free.
    budgets: the bounds that slide, in the order of their positions behind the weights.
    """

    objectives: tuple[str, ...]
    config: AdapterConfig
    base: Mapping[str, str]
    region: Mapping[str, list[float]]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    beside_sha256: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()

    @property
    def format_version(self) -> int:
        """The oldest format that can say what this header says."""
        return FORMAT if self.budgets else WITHOUT_BUDGETS

    def __post_init__(self) -> None:
        count = len(self.objectives)
        for bound in ("low", "high"):
            found = self.region.get(bound)
            if found is None or len(found) != count:
                raise ConfigError(
                    f"region[{bound!r}] must have {count} entries "
                    f"({', '.join(self.objectives)}); got {found}"
                )

    def outside(self, weights: list[float]) -> list[str]:
        """Name the objectives whose weight training never drew."""
        low, high = self.region["low"], self.region["high"]
        return [
            f"{name}={weight:.3g} (trained in {bottom:g}..{top:g})"
            for name, weight, bottom, top in zip(self.objectives, weights, low, high, strict=True)
            if not bottom - 1e-6 <= weight <= top + 1e-6
        ]

    def to_json(self) -> str:
        """Return the header as strict JSON; raises ValueError for NaN and infinities."""
        values = {**dataclasses.asdict(self), "format_version": self.format_version}
        if not self.budgets:
            del values["budgets"]
        return json.dumps(values, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> AdapterHeader:
        """Read a header; raises IntegrityError, naming `source`, for a newer or damaged one."""
        try:
            values = json.loads(text)
            version = int(values.pop("format_version"))
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{source}: its header is damaged ({error})") from error
        if version > FORMAT:
            raise IntegrityError(
                f"{source}: written in format {version}; this morl reads up to {FORMAT}: upgrade "
                "it with pip install --upgrade morl-diffusion"
            )
        try:
            values["objectives"] = tuple(values["objectives"])
            values["config"] = AdapterConfig(**values["config"])
            values["budgets"] = tuple(Budget(**budget) for budget in values.get("budgets", ()))
            return cls(**values)
        except (KeyError, TypeError, ConfigError) as error:
            raise IntegrityError(f"{source}: its header is damaged ({error})") from error


def save_adapter(path: str | Path, adapter: ConditionedAdapter, header: AdapterHeader) -> Path:
    """Write parameters and header as one file, whole or not at all.

    Raises ConfigError if the header is of another adapter, IntegrityError for values that are not
    finite, ResourceError where the file cannot be written.
    """
    told = (header.objectives, header.config, header.budgets)
    own = (adapter.objectives, adapter.config, adapter.budgets)
    if told != own:
        raise ConfigError(f"the header is of another adapter: {told}; this one is {own}")
    write_safetensors(path, adapter.state_dict(), {KEY: header.to_json()})
    return Path(path)


def read_adapter(path: str | Path) -> tuple[AdapterHeader, dict[str, Tensor]]:
    """Return header and tensors of an adapter file, without a model.

    Raises what `read_safetensors` does, and IntegrityError for a file without our header (a plain
    LoRA) or of a newer format.
    """
    metadata, tensors = read_safetensors(path)
    if KEY not in metadata:
        raise IntegrityError(
            f"{path}: has no header of ours, so it is a plain LoRA without a slider; load it with "
            "pipe.load_lora_weights, or train from it with adapter.init_from or adapter.beside"
        )
    return AdapterHeader.from_json(metadata[KEY], str(path)), tensors


def load_adapter(
    path: str | Path,
    denoiser: nn.Module,
    base: Mapping[str, str],
    *,
    pipe: DiffusionPipeline | None = None,
    force: bool = False,
) -> tuple[ConditionedAdapter, AdapterHeader]:
    """Inject a stored adapter into the base model that it was trained on.

    base: identity of that model, taken before anything was injected; pipe: owns the denoiser,
    needed where a LoRA stood beside the adapter; force: load onto another base all the same, if
    every shape fits. Raises as `read_adapter`, and IntegrityError for another base, for tensors
    that do not fit, or a LoRA beside it that is missing or another one.
    """
    header, tensors = read_adapter(path)
    _refuse_other_base(path, header, base, force)
    _refuse_other_beside(path, header)
    config = dataclasses.replace(header.config, init_from=None)
    adapter = ConditionedAdapter.inject(
        denoiser, header.objectives, config, budgets=header.budgets, pipe=pipe
    )
    own = {name: parameter.shape for name, parameter in adapter.named_parameters()}
    unmatched = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or own[name] != tensors[name].shape
    )
    if unmatched:
        adapter.remove()
        raise IntegrityError(
            f"{path}: {len(unmatched)} of {len(own)} tensors do not match this denoiser, such as "
            f"{', '.join(unmatched[:LISTED])}; load it onto the model it was trained on"
        )
    adapter.load_state_dict(tensors)
    adapter.config = header.config
    return adapter, header


def digest_of(path: str | Path) -> str:
    """SHA-256 of a file, for `AdapterHeader.beside_sha256`."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _refuse_other_base(
    path: str | Path, header: AdapterHeader, base: Mapping[str, str], force: bool
) -> None:
    differing = [key for key in ("pipeline", "denoiser") if header.base.get(key) != base.get(key)]
    if differing and not force:
        raise IntegrityError(
            f"{path}: trained on {_named(header.base)}, but this is {_named(base)}; load that "
            "model, or insist with force=True where all shapes fit"
        )


def _refuse_other_beside(path: str | Path, header: AdapterHeader) -> None:
    beside = header.config.beside
    if beside is None:
        return
    if not Path(beside).is_file():
        raise IntegrityError(f"{path}: was trained beside the LoRA {beside}, which is not there")
    if header.beside_sha256 not in (None, digest_of(beside)):
        raise IntegrityError(f"{path}: was trained beside another file than this {beside}")


def _named(base: Mapping[str, str]) -> str:
    return (
        f"{base.get('model', 'an unnamed model')} ({base.get('pipeline', 'unknown pipeline')}, "
        f"denoiser {base.get('denoiser', 'unknown')[:12]})"
    )
