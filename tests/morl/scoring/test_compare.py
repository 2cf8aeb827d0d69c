"""Two folders compared from the command line, by two encoders."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from morl.cli.main import main
from rewards import encoder_settings
from rewards.distances import cmmd, fid
from rewards.features import SetFeatures
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
def tiny(tmp_path, monkeypatch):
    """Two random CLIPs of one layer where CMMD's encoder and another are looked for."""
    from transformers import CLIPConfig, CLIPModel

    side = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    side |= {"num_attention_heads": 2}
    vision = {**side, "image_size": 28, "patch_size": 14}
    config = CLIPConfig(text_config=side, vision_config=vision, projection_dim=8)
    torch.manual_seed(0)
    for name in ("clip_vit_l_14_336", "clip_vit_b_32"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CLIPModel(config).save_pretrained(tmp_path / "home" / name)
    monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(encoder_settings, "_CHOSEN", {})


def score(capsys, *words):
    code = main(["score", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_metrics_of_two_folders(folders, tiny, capsys):
    out = folders / "out.csv"
    (folders / "other" / "x.png").write_bytes(b"no image")
    words = ["--reference", folders / "other", "--metrics", "cmmd,fid,kid"]
    words += ["--features", "clip_vit_b_32", "--out", out, "--batch-size", 3]
    code, said, err = score(capsys, folders / "one", *words)
    assert code == 3
    assert "x.png is no image" in err
    written = json.loads((folders / "out.metrics.json").read_text())
    assert set(written["values"]) == {"cmmd", "fid", "kid", "kid_std"}
    assert (written["images"], written["reference_images"]) == (5, 5)
    assert not out.exists()

    def features(encoder, name):
        extract = SetFeatures(encoder)
        paths = sorted((folders / name).glob("[0-9].png"))
        return torch.cat([extract(to_image(path)[None]) for path in paths])

    for metric, name, encoder in (
        (cmmd, "cmmd", "clip_vit_l_14_336"),
        (fid, "fid", "clip_vit_b_32"),
    ):
        expected = metric(features(encoder, "one"), features(encoder, "other"))
        assert written["features"][name] == encoder
        assert written["values"][name] == pytest.approx(expected, rel=1e-3)
        assert f"{name:8} {written['values'][name]:.6g}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "cmmd"], "--metrics and --reference go together"),
        (["--reference", "other"], "--rewards names none"),
        (["--metrics", "fidd", "--reference", "other"], "unknown 'fidd'; nearest: 'fid'"),
        (
            ["--metrics", "kid", "--reference", "other", "--features", "clip_vit_l14"],
            "unknown encoder 'clip_vit_l14'; nearest: 'clip_vit_l_14'",
        ),
    ],
)
def test_what_cannot_work(folders, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folders)
    code, _, err = score(capsys, "one", *words, "--out", "x.csv")
    assert code == 2
    assert message in err
