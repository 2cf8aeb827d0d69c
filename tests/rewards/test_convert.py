"""Authors' files become our layout, once, with their checksum, and nothing in them runs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

from morl.cli.main import main
from rewards.checkpoints import CheckpointError
from rewards.convert import convert
from rewards.encoder_settings import EncoderSettings
from rewards.layouts import collapsed, open_clip_to_transformers
from rewards.scorers.clip_tower import openai_clip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def open_clip_model():
    """open_clip's own CLIP, two layers, GELU, the vocabulary and length of the genuine one."""
    torch.manual_seed(0)
    model = CLIP(
        64,
        vision_cfg={
            "layers": 2,
            "width": 128,
            "head_width": 64,
            "patch_size": 14,
            "image_size": 28,
        },
        text_cfg={
            "context_length": 77,
            "vocab_size": 49408,
            "width": 128,
            "heads": 2,
            "layers": 2,
        },
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval()


class TestOpenClip:
    def test_the_converted_tower_gives_the_features_of_open_clip_itself(
        self, open_clip_model, tmp_path, home
    ):
        file = tmp_path / "HPS_v2_compressed.pt"
        torch.save({"epoch": 3, "state_dict": open_clip_model.state_dict()}, file)
        folder = convert("hpsv2", file)
        assert folder == home / "hpsv2"
        tower = openai_clip(folder, EncoderSettings())
        images = torch.rand(3, 3, 28, 28)
        prompts = ["a red cat", "two dogs", ""]
        with torch.no_grad():
            pixels = tower.plan(images)
            torch.testing.assert_close(
                tower.encode_image(images),
                open_clip_model.encode_image(pixels),
                rtol=1e-4,
                atol=1e-5,
            )
            torch.testing.assert_close(
                tower.encode_text(prompts),
                open_clip_model.encode_text(tower.tokens(prompts)),
                rtol=1e-4,
                atol=1e-5,
            )
        assert tower.logit_scale == pytest.approx(open_clip_model.logit_scale.exp().item())

    def test_the_card_says_where_it_comes_from(self, open_clip_model, tmp_path):
        file = tmp_path / "x.pt"
        torch.save(open_clip_model.state_dict(), file)
        card = json.loads((convert("hpsv2", file) / "card.json").read_text())
        assert card["licence"] == "Apache-2.0"
        assert card["source"].startswith("xswu/HPSv2 @ ")
        assert len(card["original_sha256"]) == len(card["sha256"]) == 64

    def test_a_tensor_without_a_place_is_named(self):
        with pytest.raises(CheckpointError, match=r"visual\.layer1\.0\.conv1"):
            open_clip_to_transformers({"visual.layer1.0.conv1.weight": torch.zeros(1)})

    def test_another_file_than_the_known_one_is_refused(self, open_clip_model, tmp_path, home):
        file = tmp_path / "HPS_v2.1_compressed.pt"
        torch.save(open_clip_model.state_dict(), file)
        with pytest.raises(CheckpointError, match="expected to have c57a38fb"):
            convert("hpsv2_1", file)
        assert not (home / "hpsv2_1").exists()

    def test_a_stated_checksum_takes_its_place(self, open_clip_model, tmp_path, capsys):
        from hashlib import sha256

        file = tmp_path / "HPS_v2.1_compressed.pt"
        torch.save(open_clip_model.state_dict(), file)
        digest = sha256(file.read_bytes()).hexdigest()
        words = ["rewards", "convert", "hpsv2_1", str(file), "--sha256", digest]
        assert main(words) == 0
        assert capsys.readouterr().out.strip().endswith("hpsv2_1")


class TestHeads:
    def test_layers_without_activations_are_one_affine_map(self):
        # (x1, x2) -> 2 x1 + 1, 3 x2 - 1 -> their sum, times 10: w = (20, 30), b = 0
        state = {
            "layers.0.weight": torch.tensor([[2.0, 0.0], [0.0, 3.0]]),
            "layers.0.bias": torch.tensor([1.0, -1.0]),
            "layers.10.weight": torch.tensor([[10.0]]),
            "layers.10.bias": torch.tensor([0.0]),
            "layers.2.weight": torch.tensor([[1.0, 1.0]]),
            "layers.2.bias": torch.tensor([0.0]),
        }
        got = collapsed(state)
        assert got["weight"].tolist() == [[20.0, 30.0]]
        assert got["bias"].tolist() == [0.0]

    @pytest.mark.parametrize(
        ("state", "said"),
        [
            ({"a.bias": torch.zeros(1)}, "at least one"),
            ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, "ends in 2"),
            (
                {
                    "0.weight": torch.zeros(2, 3),
                    "0.bias": torch.zeros(2),
                    "1.weight": torch.zeros(1, 4),
                    "1.bias": torch.zeros(1),
                },
                "takes 4 numbers and gets 2",
            ),
        ],
    )
    def test_what_is_no_chain_is_refused(self, state, said):
        with pytest.raises(CheckpointError, match=said):
            collapsed(state)

    def test_a_head_of_ones_own(self, tmp_path):
        save_file(
            {
                "scoring_head.0.weight": torch.ones(2, 5),
                "scoring_head.0.bias": torch.ones(2),
                "scoring_head.2.weight": torch.ones(1, 2),
                "scoring_head.2.bias": torch.ones(1),
            },
            tmp_path / "mine.safetensors",
        )
        head = load_file(convert("siglip_head", tmp_path / "mine.safetensors") / "head.safetensors")
        # Two rows of ones added up: w = 2, b = 1 + 1 + 1
        assert head["weight"].tolist() == [[2.0] * 5]
        assert head["bias"].tolist() == [3.0]

    def test_learned_prompts(self, tmp_path):
        np.savez(tmp_path / "q16.npz", **{"ViT-L-14": np.ones((2, 768), dtype=np.float16)})
        head = load_file(convert("q16", tmp_path / "q16.npz") / "head.safetensors")
        assert head["prompts"].shape == (2, 768)


class Evil:
    """Unpickling this would write a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class TestErrors:
    def test_a_pickle_that_runs_code_does_not(self, tmp_path):
        mark = tmp_path / "mark"
        torch.save({"state_dict": Evil(mark)}, tmp_path / "evil.pt")
        with pytest.raises(CheckpointError, match="no file of plain tensors"):
            convert("hpsv2", tmp_path / "evil.pt")
        assert not mark.exists()

    @pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04]\x94."])
    def test_garbage(self, tmp_path, content):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            convert("hpsv2", tmp_path / "x.pt")

    def test_another_layout_is_named(self, tmp_path):
        torch.save({"weight": torch.zeros(2)}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="no place in a CLIP"):
            convert("hpsv2", tmp_path / "x.pt")

    def test_an_unknown_name_has_a_nearest_one(self, tmp_path):
        with pytest.raises(CheckpointError, match="nearest: 'hpsv3"):
            convert("hpsv4", tmp_path / "x.pt")

    def test_no_file(self, tmp_path):
        with pytest.raises(CheckpointError, match="converted from HPS_v2_compressed"):
            convert("hpsv2", tmp_path / "absent.pt")

    def test_transformers_weights_need_their_configuration(self, tmp_path, home):
        torch.save({"logit_scale": torch.zeros(())}, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"config\.json beside"):
            convert("clip_vit_b_32", tmp_path / "pytorch_model.bin")
        assert list(home.iterdir()) == []

    def test_the_command_wants_a_file(self, capsys):
        with warnings.catch_warnings():
            assert main(["rewards", "convert", "hpsv2"]) == 2
        assert "NAME FILE" in capsys.readouterr().err
