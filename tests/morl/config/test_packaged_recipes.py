"""Every packaged recipe of a real model: complete, consistent with the others, and planned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from morl.algorithms.facts import ALGORITHMS
from morl.cli.main import main
from morl.config import check, load_config, recipe_names
from morl.config.plan import plan
from morl.config.published import PUBLISHED
from rewards.registry import facts_of

MODELS = ("flux", "sd15", "sd35", "sdxl")
REAL = [name for name in recipe_names() if not name.startswith("shapes")]


def test_every_model_has_a_recipe_of_each_regime():
    assert sorted(f"{model}_{algorithm}" for model in MODELS for algorithm in ALGORITHMS) == REAL


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_is_what_its_name_says(name):
    config = load_config(name)
    algorithm = name.partition("_")[2]
    assert check(config) == []
    assert config.algorithm.name == algorithm
    assert config.base.model in PUBLISHED
    assert len(config.base.revision) == 40  # a commit: a branch would move
    categories = {facts_of(config.objective.maximize[key]).category for key in config.names}
    assert categories == {"aesthetic", "alignment", "preference"} == set(config.names)
    assert len(config.objective.subject_to) == 1
    assert config.training.batch_size % config.training.micro_batch == 0


@pytest.mark.parametrize("model", MODELS)
def test_recipes_of_a_model_share_all_but_algorithm_training_and_guidance(model):
    first, *others = (load_config(f"{model}_{name}") for name in sorted(ALGORITHMS))
    for other in others:
        base = replace(other.base, guidance=first.base.guidance)
        same = replace(other, algorithm=first.algorithm, training=first.training, base=base)
        assert same == first


@pytest.mark.parametrize("name", REAL)
def test_dry_run_prints_images_evaluations_and_computed_memory(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for wanted in ("licence", "training images", "network evaluations", "computed, not measured"):
        assert wanted in printed
    assert "unknown" not in printed
    assert list(tmp_path.iterdir()) == []


class TestMemory:
    def test_networks_by_hand(self):
        # bf16: 2 (859,520,964 + 123,060,480) bytes, and an fp32 autoencoder of 83,653,863.
        assert plan(load_config("sd15_nft")).network_bytes == 2 * 982_581_444 + 4 * 83_653_863
        away = plan(load_config("sd15_nft", ["base.offload_text_encoders=true"])).network_bytes
        assert away == 2 * 859_520_964 + 4 * 83_653_863

    def test_one_differentiated_call_by_hand(self):
        # 423,457,408 values an image, 2 bytes each, 8 images, both branches of guidance
        found = plan(load_config("sd15_policy_gradient"))
        assert found.backward_bytes == 423_457_408 * 2 * 8 * 2
        assert found.decode_bytes == 0  # no gradient passes the decoder

    def test_micro_batch_size_and_checkpointing_count(self):
        full = plan(load_config("sdxl_nft"))
        half = plan(load_config("sdxl_nft", ["training.micro_batch=1"]))
        small = plan(load_config("sdxl_nft", ["base.size=512"]))
        kept = plan(load_config("sdxl_nft", ["base.gradient_checkpointing=false"]))
        assert half.backward_bytes * 2 == full.backward_bytes
        assert small.backward_bytes == pytest.approx(full.backward_bytes / 4, rel=1e-6)
        assert kept.backward_bytes > 9 * full.backward_bytes

    def test_a_reward_gradient_also_keeps_the_decoder(self):
        found = plan(load_config("sdxl_draft", ["base.gradient_checkpointing=false"]))
        # Four times the pixels of the 512 that were counted, fp32, one image
        assert found.decode_bytes == 4 * 1_491_109_760 * 4
        renoised = plan(load_config("sdxl_draft", ["algorithm.renoise_copies=2"]))
        assert renoised.calls_kept == 3
        assert renoised.decode_bytes == 3 * plan(load_config("sdxl_draft")).decode_bytes

    def test_embedded_guidance_costs_nothing(self):
        guided = plan(load_config("flux_nft", ["base.guidance=3.5"]))
        assert guided.forwards == plan(load_config("flux_nft", ["base.guidance=1"])).forwards

    def test_encoders_are_counted_once(self):
        # CLIP L/14 serves three rewards: 1.7 GB in fp32, and PickScore's 3.9; both in bf16 here.
        assert plan(load_config("sd15_nft")).encoder_bytes == round((1.7 + 3.9) / 2 * 1e9)


def test_windowed_noise_shortens_training_alone():
    whole = plan(load_config("sd35_policy_gradient", ["algorithm.noise_steps=10"]))
    window = plan(load_config("sd35_policy_gradient"))
    assert window.backwards * 2 == whole.backwards
    assert window.forwards == whole.forwards
    assert math.isfinite(window.front_forwards)
