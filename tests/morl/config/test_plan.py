"""What a run costs, counted from its configuration alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from morl.config import load_config
from morl.config.plan import count_parameters, plan
from morl.errors import IntegrityError

LAST = ("algorithm.last_steps=1", "algorithm.drawn_steps=0", "algorithm.renoise_copies=0")


def planned(*overrides):
    fixed = ("training.steps=5", "training.batch_size=64", "base.steps=10", "base.guidance=1")
    return plan(load_config("shapes", [*fixed, *overrides]))


class TestCounts:
    def test_images_and_grid(self):
        # 5 x 64 images on each of 2 devices; C(3 + 2, 2) = 10 weight vectors and the base model,
        # 128 images each for the front and 100 for the constraint, 10 steps an image.
        found = planned("training.devices=2", "evaluation.judged_images=100")
        assert found.images == 640
        assert (found.grid_points, found.front_images) == (10, 11 * 228)
        assert found.front_forwards == 11 * 2280

    def test_a_guard_looks_at_corners_and_centre(self):
        # 5 updates, a look at every second: 2 looks x (3 corners + 1) x 16 prompts x 2 images
        found = planned("guard.every=2", "guard.prompts=16", "guard.images_per_prompt=2")
        assert (found.looks, found.look_images) == (2, 2 * 4 * 32)
        assert "guard                256 images at 2 looks" in found.describe()
        assert "guard " not in planned().describe()

    def test_without_constraints_nothing_judges_them(self):
        assert planned("objective.subject_to=[]").front_images == 11 * 128

    @pytest.mark.parametrize(
        ("overrides", "forward", "backward"),
        [
            # DRaFT-LV: 9 steps without gradient, the last step and 2 copies with.
            ([*LAST, "algorithm.kl_coef=0", "algorithm.renoise_copies=2"], 9, 3),
            # with a pull to the base, which is evaluated at those three as well
            ([*LAST, "algorithm.kl_coef=0.1", "algorithm.renoise_copies=2"], 12, 3),
            ([*LAST, "algorithm.kl_coef=0", "algorithm.last_steps=3"], 7, 3),
        ],
    )
    def test_network_evaluations(self, overrides, forward, backward):
        found = planned(*overrides)
        assert (found.forwards, found.backwards) == (320 * forward, 320 * backward)

    def test_guidance_doubles_every_evaluation(self):
        once, twice = planned(), planned("base.guidance=3")
        assert twice.forwards == 2 * once.forwards
        assert twice.backwards == 2 * once.backwards
        assert twice.front_forwards == 2 * once.front_forwards
        assert planned("base.guidance=3", "evaluation.guidance=1").front_forwards == (
            once.front_forwards
        )

    def test_another_guidance_in_judging_is_named(self):
        said = planned("base.guidance=3", "evaluation.guidance=1").describe()
        assert "trains at guidance 3 and is judged at 1" in said
        assert "judged at" not in planned().describe()

    def test_a_quantised_base_is_counted_before(self):
        assert "MB before quantisation" in planned("base.quantize=int8").describe()
        assert "quantisation" not in planned().describe()

    def test_a_model_that_is_not_here_is_unknown(self):
        found = planned("base.model=someone/some-model")
        assert found.network_bytes is None
        assert "networks unknown" in found.describe()


class TestHeaders:
    def save(self, folder, name, *shapes):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tensors = {str(i): torch.zeros(shape) for i, shape in enumerate(shapes)}
        save_file(tensors, folder / name, metadata={"format": "pt"})

    def test_parameters_are_counted_from_headers(self, tmp_path):
        self.save(tmp_path, "unet/model.safetensors", (2, 3), (4,))
        self.save(tmp_path, "vae/model.safetensors", (5,))
        self.save(tmp_path, "safety_checker/model.safetensors", (100,))
        assert count_parameters(tmp_path) == 2 * 3 + 4 + 5

    def test_a_single_file_counts_whole(self, tmp_path):
        self.save(tmp_path, "model.safetensors", (2, 3), (4,))
        found = planned(f"base.model={tmp_path}/model.safetensors")
        assert found.network_bytes == 10 * 4
        assert found.backward_bytes is None

    def test_a_second_copy_in_half_precision_is_not_counted(self, tmp_path):
        self.save(tmp_path, "unet/model.safetensors", (3,))
        self.save(tmp_path, "unet/model.fp16.safetensors", (3,))
        assert count_parameters(tmp_path) == 3

    def test_a_folder_without_any(self, tmp_path):
        assert count_parameters(tmp_path) is None

    @pytest.mark.parametrize(
        "data", [b"", b"\x80\x02pickle", b"\xff" * 64, (10).to_bytes(8, "little") + b"not json!!"]
    )
    def test_a_damaged_file_is_named(self, tmp_path, data):
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "model.safetensors").write_bytes(data)
        with pytest.raises(IntegrityError, match=r"model\.safetensors: not a whole safetensors"):
            count_parameters(tmp_path)

    def test_backward_memory_of_a_unet_follows_its_size(self, tmp_path):
        # 2 (down, up) x 1 layer x (32 x 16^2 + 64 x 8^2 + 128 x 4^2) = 28,672 cells; each keeps
        # 40 values of 4 bytes, for 64 images.
        config = {"layers_per_block": 1, "block_out_channels": [32, 64, 128], "sample_size": 16}
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
        self.save(tmp_path, "unet/model.safetensors", (7,))
        found = planned(f"base.model={tmp_path}")
        assert found.backward_bytes == 28_672 * 40 * 4 * 64
        assert found.network_bytes == 7 * 4
        half = planned(f"base.model={tmp_path}", "base.dtype=bfloat16")
        assert half.backward_bytes == found.backward_bytes // 2
        assert half.network_bytes == 7 * 2
