"""A run directory: config.yaml, run.json, metrics.jsonl and checkpoints, with one writer."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from morl.config.load import load_config
from morl.config.tree import Config
from morl.config.write import to_dict, to_yaml
from morl.errors import ConfigError, DataError
from morl.training.durable import replace_durably, require_writable
from morl.training.lock import exclusive
from morl.training.metrics import MetricsLog
from rewards.objective import Objective

# A resumed run may go on longer, save elsewhen and be judged differently; anything else would
# make it another run.
RESUMABLE = (
    "training.steps",
    "training.checkpoint_every",
    "training.sample_every",
    "training.accelerator",
    "prompts.held_out",
    "evaluation.",
)
GUARD_FILE = "guard.jsonl"
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "lightning", "open_clip_torch")


class ResumeNote(UserWarning):
    """Something was tidied up or changed when a run was taken up again."""


class RunDirectory:
    """The files of one run; reading needs no lock, training holds it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    @cached_property
    def metrics(self) -> MetricsLog:
        return MetricsLog(self.path / "metrics.jsonl")

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.yaml").is_file()

    def config(self) -> Config:
        """Return the configuration as resolved when the run started."""
        self.require()
        return load_config(self.path / "config.yaml")

    def info(self) -> dict[str, Any]:
        """Return run.json: command, versions, dates."""
        self.require()
        info: dict[str, Any] = json.loads((self.path / "run.json").read_bytes())
        return info

    def require(self) -> None:
        """Raise DataError unless a run was started here."""
        if not self.exists:
            raise DataError(
                f"{self.path}: no run in it (it holds no config.yaml); looked for "
                f"{self.path.absolute()}"
            )

    @contextmanager
    def training(
        self,
        config: Config,
        *,
        command: str,
        resume: bool = False,
        allow_config_change: bool = False,
    ) -> Iterator[None]:
        """Lock the directory, and start a run in it or take the one in it up again.

        Raises ResourceError where it cannot be written or is in use, and ConfigError as `check`.
        """
        require_writable(self.path)
        with exclusive(self.path):
            self._remove_leftovers()
            changes = self.check(config, resume=resume, allow_config_change=allow_config_change)
            if self.exists:
                self._take_up(config, command, changes)
            else:
                self._start(config, command)
            yield

    def check(
        self, config: Config, *, resume: bool = False, allow_config_change: bool = False
    ) -> dict[str, str]:
        """Return the keys in which `config` differs from the run that is here; writes nothing.

        Raises ConfigError where the directory holds something else than asked for: a run without
        `resume`, none with it, a run with another configuration (unless that is allowed), or files
        that are no run.
        """
        if not self.exists:
            self._require_free(resume)
            return {}
        if not resume:
            raise ConfigError(
                f"{self.path}: already holds a run; continue it with --resume, or choose another "
                "--out"
            )
        changes = differences(self.config(), config)
        forbidden = [line for key, line in changes.items() if not key.startswith(RESUMABLE)]
        if forbidden and not allow_config_change:
            raise ConfigError(
                [
                    f"{self.path}: would no longer be the same run; undo these changes, choose "
                    "another --out, or insist with --allow-config-change:",
                    *forbidden,
                ]
            )
        return changes

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write or replace a file as a whole."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(path, data)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write or replace a text file as a whole."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write or replace a JSON file as a whole; raises ValueError for NaN and infinities."""
        return self.write_text(name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def _require_free(self, resume: bool) -> None:
        if resume:
            raise ConfigError(f"{self.path}: no run to resume; leave --resume out to start one")
        ours = {".lock", "run.json"}  # a start that was cut short leaves these
        found = self.path.iterdir() if self.path.is_dir() else ()
        strangers = sorted(path.name for path in found if path.name not in ours)
        if strangers:
            raise ConfigError(
                f"{self.path}: holds files that are no run ({', '.join(strangers[:3])}); choose "
                "an empty folder"
            )

    def _start(self, config: Config, command: str) -> None:
        info = {
            "format": 1,
            "command": command,
            "started": _now(),
            "seed": config.training.seed,
            "objective_sha256": Objective.from_dict(config.objective.to_objective()).digest,
            "code_sha256": code_digest(),
            "versions": _versions(),
            "platform": platform.platform(),
            "resumed": [],
        }
        self.write_json("run.json", info)
        self.write_text("config.yaml", to_yaml(config))  # last: it makes the folder a run

    def _take_up(self, config: Config, command: str, changes: Mapping[str, str]) -> None:
        info = self.info()
        info["resumed"].append(
            {"at": _now(), "command": command, "changes": list(changes.values())}
        )
        self.write_json("run.json", info)
        if changes:
            warnings.warn("resumed with " + "; ".join(changes.values()), ResumeNote, stacklevel=5)
            self.write_text("config.yaml", to_yaml(config))

    def _remove_leftovers(self) -> None:
        for path in sorted(self.path.glob("**/.tmp-*")):
            if not path.exists():
                continue  # it lay in a folder that is gone already
            name = path.relative_to(self.path)
            warnings.warn(f"removed {name}, left by a crash", ResumeNote, stacklevel=5)
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def differences(before: Config, after: Config) -> dict[str, str]:
    """Return the keys that differ, each with a line "key: old -> new"."""
    old, new = _flat(to_dict(before)), _flat(to_dict(after))
    return {
        key: f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, "absent") != new.get(key, "absent")
    }


def code_digest() -> str:
    """Hash every source file of both packages: which code made this run."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for package in ("morl", "rewards"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
            # An order of objectives is meaning: it orders the weight vector.
            flat[f"{prefix}{key} (order)"] = list(value)
        else:
            flat[prefix + key] = value
    return flat


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("morl-diffusion", *LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
