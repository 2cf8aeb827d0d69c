"""The timing of five scorers over one, on an encoder of one narrow layer."""

from __future__ import annotations

import pytest
import torch

from experiments.scoring_speed.run import ENCODER, TEXT, VISION, measure, write_encoder
from rewards import encoder_settings
from rewards.encoder_settings import EncoderSettings

NARROW = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize("new_prompts", [False, True])
def test_the_encoder_runs_once_for_five_scorers(new_prompts, tmp_path, monkeypatch) -> None:
    write_encoder(tmp_path, {**VISION, **NARROW}, {**TEXT, **NARROW})
    monkeypatch.setitem(encoder_settings._CHOSEN, ENCODER, EncoderSettings(folder=str(tmp_path)))
    with torch.random.fork_rng(devices=[]):
        found = measure(2, 4, "cpu", new_prompts, side=64)
    assert found["encoder_forwards"] == 1
    assert found["pairs"] == 2
    assert 0 < found["low"] <= found["ratio"] <= found["high"]
