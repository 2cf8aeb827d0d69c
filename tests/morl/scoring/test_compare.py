"""Two folders compared from the command line, by an encoder and by a TorchScript network."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from morl.cli.main import main
from rewards import encoder_settings
from rewards.checkpoints import CheckpointError
from rewards.distances import cmmd, fid
from rewards.features import EncoderFeatures, InceptionFeatures
from rewards.images import to_image


@pytest.fixture
def folders(tmp_path):
    draw = np.random.default_rng(1)
    for name, top in (("one", 256), ("other", 128)):
        (tmp_path / name).mkdir()
        for n in range(5):
            pixels = draw.integers(0, top, (20 + n % 2, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.png")
    return tmp_path


@pytest.fixture
def tiny_336(tmp_path, monkeypatch):
    """A random CLIP of two layers where CMMD's encoder is looked for."""
    from transformers import CLIPConfig, CLIPModel

    side = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    side |= {"num_attention_heads": 2}
    vision = {**side, "image_size": 28, "patch_size": 14}
    config = CLIPConfig(text_config=side, vision_config=vision, projection_dim=8)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CLIPModel(config).save_pretrained(tmp_path / "home" / "clip_vit_l_14_336")
    monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(encoder_settings, "_CHOSEN", {})


class Network(nn.Module):
    """Has `layers`, as the Inception file has, and tells what it was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels)


@pytest.fixture
def inception(tmp_path):
    path = tmp_path / "inception.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is said to be old
        torch.jit.script(Network()).save(str(path))
    return path


def score(capsys, *words):
    code = main(["score", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_metrics_of_two_folders(folders, tiny_336, inception, capsys):
    out = folders / "out.csv"
    (folders / "other" / "x.png").write_bytes(b"no image")
    words = ["--reference", folders / "other", "--metrics", "cmmd,fid,kid", "--features", inception]
    code, said, err = score(capsys, folders / "one", *words, "--out", out, "--batch-size", 3)
    assert code == 3
    assert "x.png is no image" in err
    written = json.loads((folders / "out.metrics.json").read_text())
    assert set(written["values"]) == {"cmmd", "fid", "kid", "kid_std"}
    assert (written["images"], written["reference_images"]) == (5, 5)
    assert not out.exists()

    def features(extract, name):
        paths = sorted((folders / name).glob("?.png"))
        return torch.cat([extract(to_image(p)[None]) for p in paths if p.stem != "x"])

    for metric, name, extract in (
        (cmmd, "cmmd", EncoderFeatures("clip_vit_l_14_336")),
        (fid, "fid", InceptionFeatures(inception)),
    ):
        expected = metric(features(extract, "one"), features(extract, "other"))
        assert written["values"][name] == pytest.approx(expected, rel=1e-3)
        assert f"{name:8} {written['values'][name]:.6g}" in said


def test_inceptions_pixels(inception):
    """A flat image keeps its value: (x - 128) / 128 of 8 bits, whatever its size."""
    images = torch.tensor([0.0, 128 / 255, 1.0])[:, None, None, None].expand(3, 3, 7, 9)
    found = InceptionFeatures(inception)(images)
    expected = torch.tensor([-1.0, 0.0, 127 / 128])[:, None].expand(3, 3)
    assert torch.allclose(found, expected, atol=1e-5)


def test_another_file_is_no_inception(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"x\.pt is no TorchScript Inception"):
        InceptionFeatures(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "cmmd"], "--metrics and --reference go together"),
        (["--reference", "other"], "--rewards names none"),
        (["--metrics", "fidd", "--reference", "other"], "unknown 'fidd'; nearest: 'fid'"),
        (["--metrics", "fid", "--reference", "other"], "--features: fid have no meaning without"),
        (
            ["--metrics", "kid", "--reference", "other", "--features", "clip_vit_l14"],
            "'clip_vit_l14' is no file, and nearest: 'clip_vit_l_14'",
        ),
    ],
)
def test_what_cannot_work(folders, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folders)
    code, _, err = score(capsys, "one", *words, "--out", "x.csv")
    assert code == 2
    assert message in err
