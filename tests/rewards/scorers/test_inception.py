"""FID's Inception: torchvision's network but for its poolings, and clean-fid's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models.inception import Inception3

from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.scorers.inception_tower import (
    POOLS,
    InceptionTower,
    inception_fid,
    inner_mean,
    maximum,
    resized,
)


def network() -> Inception3:
    """Random weights; it reads images of 75 pixels a side and more."""
    torch.manual_seed(0)
    made = Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):  # or nothing would be left after 90 layers
            torch.nn.init.kaiming_normal_(module.weight)
    return made


def test_poolings_by_hand():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    # corner: mean of 0, 1, 3, 4; edge: of 0 .. 5; centre: of 0 .. 8
    assert inner_mean(x)[0, 0, 0].tolist() == [2.0, 2.5, 3.0]
    assert inner_mean(x)[0, 0, 1, 1].item() == 4.0
    assert maximum(x)[0, 0].tolist() == [[4, 5, 5], [7, 8, 8], [7, 8, 8]]


@torch.no_grad()
def test_with_torchvisions_pooling_it_is_torchvisions_network(monkeypatch):
    pixels = torch.randn(2, 3, 75, 75)
    plain = network()
    plain.fc = torch.nn.Identity()
    ours = InceptionTower(network())
    for name in POOLS:
        block = getattr(ours.network, name)
        monkeypatch.setattr(block, "pool", lambda x: F.avg_pool2d(x, 3, 1, 1))
    expected = plain(pixels)
    assert torch.allclose(ours.network(pixels) / expected.mean(), expected / expected.mean())
    monkeypatch.undo()
    assert (ours.network(pixels) - expected).abs().mean() > 0.1 * expected.mean() > 0


def test_pixels_are_resized_in_floating_point():
    image = np.random.default_rng(0).integers(100, 150, (31, 47, 3), dtype=np.uint8)
    found = resized(image)
    rounded = np.asarray(Image.fromarray(image).resize((299, 299), Image.Resampling.BICUBIC))
    assert found.shape == (3, 299, 299)
    assert 0 <= found.min() <= found.max() <= 255
    # PIL on bytes rounds, and rounds once more between its two passes.
    assert 0 < np.abs(found.permute(1, 2, 0).numpy() - rounded).max() <= 1.1


def test_a_file_of_another_network_is_refused(tmp_path):
    state = {name: t.contiguous() for name, t in network().state_dict().items()}
    del state["Mixed_7c.branch_pool.conv.weight"]
    state["AuxLogits.fc.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"misses tensors Mixed_7c.*has unknown.*AuxLogits"):
        inception_fid(tmp_path, EncoderSettings())


@torch.no_grad()
def test_a_file_without_batch_counts_loads(tmp_path):
    state = {
        name: t.contiguous()
        for name, t in network().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(state, tmp_path / "model.safetensors")
    tower = inception_fid(tmp_path, EncoderSettings())
    features = tower.encode_image(torch.rand(1, 3, 20, 30))
    assert features.shape == (1, 2048)
    assert torch.isfinite(features).all()
