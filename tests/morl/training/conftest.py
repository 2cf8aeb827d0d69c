"""Runs of these tests calibrate on few images: what they show does not depend on how many."""

from __future__ import annotations

import pytest

from morl.training import assemble


@pytest.fixture(autouse=True)
def few_calibration_images(monkeypatch):
    monkeypatch.setattr(assemble, "CALIBRATION_IMAGES", 16)
