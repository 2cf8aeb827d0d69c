"""Declared sizes of published models are those of their configurations."""

from __future__ import annotations

import pytest

from experiments.memory.models import build
from experiments.memory.run import kept, kept_by_decoding
from morl.config.published import DECODED_VALUES, PUBLISHED

REPOS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd35": "stabilityai/stable-diffusion-3.5-medium",
    "flux": "black-forest-labs/FLUX.1-dev",
}


def count(*modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("name", REPOS)
def test_parameters(name) -> None:
    model, row = build(name), PUBLISHED[REPOS[name]]
    assert count(model.denoiser) == row.denoiser
    assert count(*model.text_encoders) == row.text_encoders
    assert count(model.vae) == row.autoencoder


def test_what_a_differentiated_call_keeps() -> None:
    row = PUBLISHED[REPOS["sd15"]]
    assert kept(build("sd15"), checkpointed=False) == pytest.approx(row.values, rel=0.01)
    assert kept(build("sd15"), checkpointed=True) == pytest.approx(row.checkpointed, rel=0.01)
    decoding = kept_by_decoding(build("sd15"), 512, checkpointed=False)
    assert decoding == pytest.approx(DECODED_VALUES, rel=0.01)
