"""Tiny checkpoints of the genuine key layouts, with random weights, where the scorers look."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_scorers import write_home

from rewards import encoder_settings


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A folder as `$MORL_REWARDS_HOME`, with a tiny version of every checkpoint."""
    return write_home(tmp_path_factory.mktemp("rewards_home"), tmp_path_factory.mktemp("originals"))


@pytest.fixture
def installed(weights, monkeypatch) -> Path:
    """The tiny checkpoints are found as a user's own would be; settings are the defaults."""
    monkeypatch.setenv("MORL_REWARDS_HOME", str(weights))
    monkeypatch.setattr(encoder_settings, "_CHOSEN", {})
    return weights
