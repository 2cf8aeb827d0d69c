"""Learned rewards among the others: files, names, expressions, pessimism, label files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rewards import R, ensemble, maximize
from rewards.checkpoints import CheckpointError
from rewards.encoders import Encoder
from rewards.errors import ExpressionError, MissingExtraError, UnknownRewardError
from rewards.evaluate import BoundObjective
from rewards.learned.card import KEY, Card, read_card, trained
from rewards.learned.file import load_reward, save_reward, target_of
from rewards.learned.inputs import encoder_called, fingerprint, head_inputs
from rewards.learned.label_file import LabelFileError, read_labels
from rewards.learned.labels import Labelled
from rewards.learned.model import RewardModel
from rewards.learned.scorer import LearnedReward
from rewards.learned.settings import RewardTraining, RewardTrainingError
from rewards.learned.train import train_reward
from rewards.registry import available, build, facts_of
from rewards.reward import ImageBatch
from rewards.shapes.captions import caption
from rewards.shapes.render import render, sample_scenes

COUNT = 60


def pictures() -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(generator, COUNT)
    return ImageBatch(render(scenes), [caption(scene, generator) for scene in scenes])


BATCH = pictures()


def learned(task: str = "regression", reads_prompt: bool = False, **changed: object) -> RewardModel:
    """A reward that likes bright pictures, by whatever kind of label."""
    encoder = encoder_called("shapes_clip")
    bright = BATCH.images.mean(dim=(1, 2, 3))
    each, second = torch.arange(COUNT), None
    target = bright if task == "regression" else (bright > bright.median()).float()
    if task == "preference":
        each, second = torch.arange(0, COUNT, 2), torch.arange(1, COUNT, 2)
        target = (bright[each] > bright[second]).float()
    labels = Labelled(task, head_inputs(encoder, BATCH, reads_prompt), target, each, second)
    training = RewardTraining(**{"steps": 60, "hidden": 8, "held_out": 0.6, **changed})
    card = Card(task, "shapes_clip", reads_prompt)
    return train_reward(labels, card, fingerprint(encoder), training).model


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return learned(members=1, uncertainty="laplace")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.usefixtures("unchecked")
class TestFiles:
    @pytest.mark.parametrize(
        ("task", "changed"),
        [
            ("regression", {}),
            ("preference", {"members": 1, "uncertainty": "laplace"}),
            ("classification", {"average": True, "uncertainty": "mahalanobis"}),
        ],
    )
    def test_a_file_scores_as_what_was_trained(self, task, changed, tmp_path):
        trained_model = learned(task, **changed)
        path = save_reward(trained_model, tmp_path / "a.safetensors")
        before = LearnedReward(trained_model).score(BATCH)
        after = build(str(path)).score(ImageBatch(BATCH.images, BATCH.prompts))
        assert torch.equal(before.values, after.values)
        assert torch.equal(before.std, after.std)
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]

    def test_facts_come_from_the_header(self, model, tmp_path):
        card = replace(model.card, category="aesthetic", summary="likes light")
        path = save_reward(replace(model, card=card), tmp_path / "a.safetensors")
        facts = facts_of(str(path))
        assert (facts.category, facts.summary, facts.encoder) == (
            "aesthetic",
            "likes light",
            "shapes_clip",
        )
        assert facts.differentiable
        assert not facts.reads_prompt
        assert read_card(path) == replace(card, measures=dict(card.measures))

    def test_a_name_is_listed_and_found(self, model, home):
        save_reward(model, target_of("my_taste"))
        assert (trained() / "my_taste.safetensors").is_file()
        assert "my_taste" in available()
        assert build("my_taste").score(BATCH).std is not None

    def test_out_is_a_path_or_a_name(self):
        with pytest.raises(RewardTrainingError, match=r"ends in \.safetensors; got 'a/b\.pt'"):
            target_of("a/b.pt")
        with pytest.raises(RewardTrainingError, match="named 'pickscore' exists already"):
            target_of("pickscore")

    def test_an_absent_file(self):
        with pytest.raises(UnknownRewardError, match=r"'no\.safetensors' is not on this machine"):
            facts_of("no.safetensors")

    def test_other_files(self, model, tmp_path):
        path = tmp_path / "a.safetensors"
        save_file({"x": torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match="is no learned reward"):
            load_reward(path)
        path.write_bytes(b"\xff" * 20)
        with pytest.raises(CheckpointError, match="truncated header"):
            load_reward(path)
        save_reward(model, path)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match="cannot be read as a learned reward"):
            load_reward(path)

    def test_another_format_and_other_tensors(self, model, tmp_path):
        path = save_reward(model, tmp_path / "a.safetensors")
        tensors, card = load_file(path), json.loads(model.card.to_json())
        save_file(tensors, path, metadata={KEY: json.dumps({**card, "format": 9})})
        with pytest.raises(CheckpointError, match="has format 9, and this version reads 1"):
            load_reward(path)
        save_file(tensors, path, metadata={KEY: json.dumps({**card, "task": "guess"})})
        with pytest.raises(CheckpointError, match="`task` 'guess' of its card is none of"):
            load_reward(path)
        del tensors["head.outer"]
        save_file(tensors, path, metadata={KEY: json.dumps(card)})
        with pytest.raises(CheckpointError, match=r"misses tensors head\.outer"):
            load_reward(path)

    def test_another_encoder_of_that_name_is_refused(self, model):
        class Other:
            def encode_image(self, images):
                return encoder_called("shapes_clip").tower.encode_image(1 - images)

        with pytest.raises(CheckpointError, match="trained on another 'shapes_clip'"):
            LearnedReward(model, encoder=Encoder("shapes_clip", Other()))

    def test_unknown_encoders_name_the_nearest(self):
        with pytest.raises(RewardTrainingError, match="nearest: 'clip_vit_l_14'"):
            encoder_called("clip_vit_l14")


class TestScores:
    def test_it_learned_what_the_labels_say(self):
        for task in ("regression", "preference", "classification"):
            values = LearnedReward(learned(task, learning_rate=0.02)).score(BATCH).values
            bright = BATCH.images.mean(dim=(1, 2, 3))
            assert torch.corrcoef(torch.stack([values, bright]))[0, 1] > 0.6

    def test_it_shares_the_forward_of_the_world(self, model, monkeypatch):
        calls = []
        tower = encoder_called("shapes_clip").tower
        forward = tower.encode_image
        reward = LearnedReward(model)
        monkeypatch.setattr(tower, "encode_image", lambda x: calls.append(len(x)) or forward(x))
        batch = ImageBatch(BATCH.images[:4], BATCH.prompts[:4])
        reward.score(batch)
        build("shapes_aesthetic").score(batch)
        assert calls == [4]

    def test_a_prompt_plays_a_part_only_where_it_is_read(self, model):
        others = ImageBatch(BATCH.images, [*BATCH.prompts[1:], BATCH.prompts[0]])
        plain, reading = LearnedReward(model), LearnedReward(learned(reads_prompt=True))
        assert torch.equal(plain.score(BATCH).values, plain.score(others).values)
        assert not torch.equal(reading.score(BATCH).values, reading.score(others).values)
        assert reading.facts.reads_prompt

    @pytest.mark.parametrize("sought", [True, False])
    def test_a_sure_flag_keeps_its_gradient_on_the_side_that_is_to_be_left(self, sought):
        found = learned("classification", members=2)
        card = replace(found.card, higher_is_better=sought)
        found.head.rescale(0.0, -40.0 if sought else 40.0)
        found.head.outer.fill_(1e-3)
        inputs = torch.zeros(1, card.features, requires_grad=True)
        value, std = replace(found, card=card).score(inputs)
        (value - std).sum().backward()
        assert inputs.grad.abs().max() > 1e-6
        assert torch.isfinite(inputs.grad).all()
        assert value.item() == (0 if sought else 1)


class TestPessimism:
    """A single head protects by its own uncertainty, by role, with a gradient."""

    def test_it_is_subtracted_where_maximised_and_added_to_a_cost(self, model):
        leaf = R(LearnedReward(model, "light"))
        scores = LearnedReward(model).score(BATCH)
        objective = replace(maximize(light=leaf).subject_to(leaf <= 0.5), pessimism=2.0)
        table = BoundObjective(objective)(BATCH)
        torch.testing.assert_close(table.rewards[:, 0], scores.values - 2 * scores.std)
        torch.testing.assert_close(table.costs[:, 0], scores.values + 2 * scores.std)
        torch.testing.assert_close(table.std[:, 0], scores.std)

    def test_its_gradient_reaches_the_images(self, model):
        gradients = []
        for pessimism in (0.0, 5.0):
            images = BATCH.images[:2].clone().requires_grad_(True)
            objective = replace(
                maximize(light=R(LearnedReward(model, "light"))), pessimism=pessimism
            )
            table = BoundObjective(objective)(ImageBatch(images, BATCH.prompts[:2]))
            (found,) = torch.autograd.grad(table.rewards.sum(), images)
            gradients.append(found)
        images = BATCH.images[:2].clone().requires_grad_(True)
        std = LearnedReward(model).score(ImageBatch(images, BATCH.prompts[:2])).std
        (of_std,) = torch.autograd.grad(std.sum(), images)
        assert of_std.abs().max() > 0
        torch.testing.assert_close(gradients[1], gradients[0] - 5 * of_std, atol=1e-6, rtol=1e-4)

    def test_a_reward_without_uncertainty_is_refused(self, model):
        silent = R(LearnedReward(learned(members=1, uncertainty="none"), "silent"))
        unsure = R(LearnedReward(model, "light"))
        objective = replace(maximize(a=0.5 * silent, b=unsure), pessimism=1.0)
        (problem,) = objective.problems()
        assert problem.startswith("pessimism: silent states no uncertainty")
        with pytest.raises(ExpressionError, match="protected from nothing"):
            objective.bind()
        assert not replace(objective, pessimism=0.0).problems()
        assert not replace(maximize(a=ensemble(silent, unsure)), pessimism=1.0).problems()

    def test_a_path_reads_in_yaml_and_joins_an_ensemble(self, model, tmp_path):
        from rewards.parse import parse_expression

        path = save_reward(model, tmp_path / "light.safetensors")
        text = f"ensemble(R('{path}'), shapes_aesthetic) - 0.1 * R('{path}')"
        parsed = parse_expression(text)
        assert parse_expression(str(parsed)) == parsed
        assert parsed.leaves()[0].facts.encoder == "shapes_clip"
        joined = ensemble(R(str(path)), R("shapes_aesthetic"))
        bound = BoundObjective(maximize(both=joined))
        bound.fit([bound.panel(BATCH)])
        assert (bound(BATCH).std > 0).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        pixels = (255 * BATCH.images[number]).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def read(folder: Path, text: str, task: str, reads_prompt: bool = False) -> Labelled:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_labels(path, task, encoder_called("shapes_clip"), reads_prompt)


class TestLabelFiles:
    def test_ratings(self, folder):
        found = read(folder, "image,label\n0.png,1.5\n1.png,-2\n0.png,3e1\n", "regression")
        assert found.target.tolist() == [1.5, -2, 30]
        assert found.first.tolist() == [0, 1, 0]
        exact = (255 * BATCH.images[:2]).byte().float() / 255
        expected = encoder_called("shapes_clip").image_features(ImageBatch(exact, ["", ""]))
        torch.testing.assert_close(found.inputs, expected)

    def test_choices(self, folder):
        text = "prompt,chosen,rejected\na,1.png,0.png\nb,2.png,1.png\n"
        found = read(folder, text, "preference")
        assert (found.first.tolist(), found.second.tolist()) == ([0, 2], [1, 0])
        assert found.target.tolist() == [1, 1]
        # With prompts the picture 1.png is two inputs.
        asked = read(folder, text, "preference", reads_prompt=True)
        assert asked.images == 4

    def test_flags(self, folder):
        text = "image,label\n0.png,Yes\n1.png,0\n2.png,true\n"
        assert read(folder, text, "classification").target.tolist() == [1, 0, 1]

    @pytest.mark.parametrize(
        ("text", "task", "message"),
        [
            ("image,label\n", "regression", "no row in it"),
            ("picture,label\n0.png,1\n", "regression", "it lacks image, and has picture, label"),
            ("image,label\n0.png,nan\n", "regression", "row 1: `label` must be a finite number"),
            ("image,label\n0.png,\n", "regression", "row 1: `label` must be a finite number"),
            ("image,label\n0.png,1\n9.png,1\n", "regression", "row 2: `image` names no file"),
            ("image,label\n0.png,maybe\n", "classification", "must be one of 1, true, yes"),
            ("chosen,rejected\n0.png,0.png\n", "preference", "are the same image"),
            ("chosen,rejected\n0.png\n", "preference", "`rejected` must be a text; got None"),
        ],
    )
    def test_bad_rows_are_named(self, folder, text, task, message):
        with pytest.raises(LabelFileError, match=message):
            read(folder, text, task)

    def test_bad_files_are_named(self, folder):
        encoder = encoder_called("shapes_clip")
        with pytest.raises(LabelFileError, match="no such file"):
            read_labels(folder / "no.csv", "regression", encoder)
        with pytest.raises(LabelFileError, match=r"must end in \.csv or \.parquet"):
            read_labels(folder / "0.png", "regression", encoder)
        (folder / "0.png").write_bytes(b"no image")
        with pytest.raises(LabelFileError, match=r"0\.png is no image"):
            read(folder, "image,label\n0.png,1\n", "regression")

    def test_parquet_without_its_library(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        (folder / "labels.parquet").write_bytes(b"")
        with pytest.raises(MissingExtraError, match="parquet"):
            read_labels(folder / "labels.parquet", "regression", encoder_called("shapes_clip"))

    def test_parquet(self, folder):
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.table({"image": ["0.png", "1.png"], "label": [True, False]})
        parquet.write_table(table, folder / "labels.parquet")
        path = folder / "labels.parquet"
        found = read_labels(path, "classification", encoder_called("shapes_clip"))
        assert found.target.tolist() == [1, 0]

    def test_an_encoder_without_text_cannot_read_prompts(self):
        class Blind:
            def encode_image(self, images):
                return images.flatten(1)

        with pytest.raises(RewardTrainingError, match="'blind' reads images alone"):
            read_labels(Path("x.csv"), "regression", Encoder("blind", Blind()), True)
