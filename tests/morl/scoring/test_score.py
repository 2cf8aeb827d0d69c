"""Folders as people have them: many sizes, broken files, crashes, scorers that fail."""

from __future__ import annotations

import csv
import importlib.util
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from morl.cli.main import main
from morl.errors import ConfigError, DataError
from morl.scoring.batches import Broken, groups_of, read_batches
from morl.scoring.folder import items_of
from morl.scoring.rows import Partial, require_format, write_table
from morl.scoring.score import score_items
from rewards import register
from rewards.function_reward import FunctionReward
from rewards.images import to_image
from rewards.registry import build
from rewards.reward import ImageBatch
from rewards.shapes.scorers import shipped

DRAW = np.random.default_rng(0)


def save(path, height, width, mode="RGB"):
    kind = {"RGB": 3, "RGBA": 4, "L": 0, "I;16": 0}[mode]
    shape = (height, width, kind) if kind else (height, width)
    top = 65536 if mode == "I;16" else 256
    pixels = DRAW.integers(0, top, shape).astype(np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Five readable images of three sizes and four modes, one cut short and one empty file."""
    home = tmp_path / "images"
    home.mkdir()
    save(home / "a.png", 12, 16)
    save(home / "b.png", 9, 7, "RGBA")
    save(home / "c.jpg", 12, 16)
    save(home / "d.png", 12, 16, "I;16")
    save(home / "e.png", 5, 5, "L")
    (home / "cut.png").write_bytes((home / "a.png").read_bytes()[:200])
    (home / "empty.jpg").write_bytes(b"")
    return home


@pytest.fixture
def morl(capsys):
    def run(*words):
        code = main(["score", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def table(path):
    with path.open(newline="") as stream:
        return {row.pop("file"): row for row in csv.DictReader(stream)}


class TestCommand:
    def test_broken_files_are_named_and_the_others_scored(self, morl, folder, tmp_path):
        out = tmp_path / "scores.csv"
        code, said, err = morl(folder, "--rewards", "brightness,contrast", "--out", out)
        rows = table(out)
        assert code == 3
        assert "5 of 7 images" in said
        assert "2 images cannot be read" in err
        assert list(rows) == sorted(path.name for path in folder.iterdir())
        for name in ("cut.png", "empty.jpg"):
            assert name in err
            assert rows[name]["brightness"] == rows[name]["contrast"] == ""
            assert "no image that can be read" in rows[name]["error"]
        for name in ("a.png", "b.png", "c.jpg", "d.png", "e.png"):
            batch = ImageBatch(to_image(folder / name)[None], [""])
            expected = build("brightness").score(batch).values.item()
            assert np.float32(rows[name]["brightness"]) == pytest.approx(expected, abs=1e-6)
            assert rows[name]["error"] == ""

    def test_the_same_command_scores_again_only_what_failed(self, morl, folder, tmp_path):
        out = tmp_path / "scores.csv"
        words = (folder, "--rewards", "brightness", "--out", out)
        assert morl(*words)[0] == 3
        first = table(out)
        save(folder / "cut.png", 4, 4)
        (folder / "empty.jpg").unlink()
        code, _, err = morl(*words)
        assert code == 0
        assert "5/6" in err  # of the progress bar: where it began
        assert table(out)["a.png"] == first["a.png"]
        assert table(out)["cut.png"]["error"] == ""
        assert list(tmp_path.glob("*.partial")) == []

    def test_prompts_and_a_reward_that_does_not_always_apply(self, morl, folder, tmp_path):
        for broken in ("cut.png", "empty.jpg", "b.png", "e.png"):
            (folder / broken).unlink()
        prompts = tmp_path / "prompts.csv"
        prompts.write_text("file,prompt\na.png,x\nc.jpg,a star with a mark\nd.png,=1+1\n")
        own = tmp_path / "own.py"
        own.write_text(OWN)
        out = tmp_path / "out" / "scores.csv"
        words = ["--prompts", prompts, "--rewards", f"{own}:letters", "--out", out]
        assert morl(folder, *words)[0] == 0
        found = [(row["prompt"], row[f"{own}:letters"]) for row in table(out).values()]
        assert found == [("x", "1"), ("a star with a mark", ""), ("=1+1", "4")]

    def test_a_prompts_record_reaches_a_reward_of_a_configured_detector(
        self, morl, folder, tmp_path
    ):
        for broken in ("cut.png", "empty.jpg", "b.png", "e.png"):
            (folder / broken).unlink()
        own = tmp_path / "own.py"
        own.write_text(DETECTOR)
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"objective: {{instruments: {{detector: '{own}:SeesStars'}}}}\n")
        prompts = tmp_path / "prompts.jsonl"
        wanted = {"a.png": "star", "c.jpg": "ring", "d.png": "star"}
        prompts.write_text(
            "\n".join(
                f'{{"file": "{name}", "prompt": "{what}", "tag": "t", '
                f'"include": [{{"class": "{what}", "count": 1}}]}}'
                for name, what in wanted.items()
            )
        )
        out = tmp_path / "scores.csv"
        words = ["--prompts", prompts, "--rewards", "geneval", "--out", out]
        code, _, err = morl(folder, *words, "--config", recipe)
        assert (code, err.count("error")) == (0, 0)
        assert {name: row["geneval"] for name, row in table(out).items()} == {
            "a.png": "1",
            "c.jpg": "0",
            "d.png": "1",
        }
        prompts.write_text("\n".join(f'{{"prompt": "{text}"}}' for text in "xyz"))
        code, _, err = morl(folder, *words, "--config", recipe)
        assert code == 2
        assert "geneval reads 'include' of each prompt's record" in err

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (["--rewards", "brightnes", "--out", "x.csv"], 2, "nearest: 'brightness'"),
            (["--rewards", ",", "--out", "x.csv"], 2, "--rewards names none"),
            (["--rewards", "contrast", "--out", "x.txt"], 2, "must end in .csv or .parquet"),
            (["--rewards", "contrast", "--out", "x.csv", "--batch-size", "0"], 2, "at least 1"),
            (
                ["--rewards", "contrast,shapes_alignment", "--out", "x.csv"],
                2,
                "--prompts: shapes_alignment read a prompt, and none is given",
            ),
        ],
    )
    def test_what_cannot_work_is_said_first(
        self, morl, folder, tmp_path, monkeypatch, words, code, message
    ):
        monkeypatch.chdir(tmp_path)
        found, _, err = morl(folder, *words)
        assert found == code
        assert message in err
        assert [path.name for path in tmp_path.iterdir()] == ["images"]


OWN = '''
import torch
from rewards import register
from rewards.reward import Scores

@register
def letters(images, prompts):
    """Characters of the prompt; not applicable where it names the mark."""
    counted = torch.tensor([float(len(prompt)) for prompt in prompts])
    return Scores(counted, torch.tensor(["mark" not in prompt for prompt in prompts]))
'''


DETECTOR = """
from rewards.instruments import Detection

class SeesStars:
    def __init__(self, device):
        pass

    def detect(self, images):
        return [[Detection("star", 0.95, (1, 1, 9, 9))] for _ in images]
"""


class TestBatches:
    def test_one_size_a_batch_and_every_image_once(self, folder):
        items, _ = items_of(folder, None)
        seen, broken = Counter(), []
        for batch in read_batches(groups_of(items, together=False), 2):
            if isinstance(batch, Broken):
                broken += batch.items
                continue
            assert len({unit.images.shape for unit in batch}) == 1
            assert sum(len(unit.items) for unit in batch) <= 2
            seen.update(item.name for unit in batch for item in unit.items)
        assert seen == dict.fromkeys(["a.png", "b.png", "c.jpg", "d.png", "e.png"], 1)
        assert [item.name for item in broken] == ["cut.png", "empty.jpg"]

    def test_at_most_twice_a_batch_waits(self, tmp_path):
        for n in range(9):
            save(tmp_path / f"{n}.png", 4 + n, 4)
        batches = read_batches(groups_of(items_of(tmp_path, None)[0], together=False), 2)
        # The first is handed out when five sizes have been read, and not at the end.
        assert next(batches)[0].items[0].name == "0.png"

    def test_images_of_a_prompt_stay_together_whatever_the_batch(self, tmp_path):
        for n in range(5):
            save(tmp_path / f"{n}.png", 4, 4)
            (tmp_path / f"{n}.txt").write_text("ab"[n % 2])
        batches = list(read_batches(groups_of(items_of(tmp_path, None)[0], together=True), 2))
        assert [[i.name for i in unit.items] for b in batches for unit in b] == [
            ["0.png", "2.png", "4.png"],
            ["1.png", "3.png"],
        ]

    def test_a_group_of_two_sizes_cannot_be_compared(self, tmp_path):
        for n in range(2):
            save(tmp_path / f"{n}.png", 4 + n, 4)
        (broken,) = read_batches([tuple(items_of(tmp_path, None)[0])], 2)
        assert "must have one size; got 4 x 4, 5 x 4" in broken.reason


@register
def picky(images, prompts):
    """The width; refuses dark images, and calls bright ones no number."""
    if images.mean() < 0.2:
        raise ZeroDivisionError("too dark")
    values = torch.full((len(images),), float(images.shape[3]))
    return torch.where(images.mean(dim=(1, 2, 3)) > 0.9, torch.nan, values)


class TestFaults:
    def test_only_the_cells_that_cannot_be_filled_stay_empty(self, tmp_path):
        for name, grey in (("black", 0), ("grey", 128), ("white", 255)):
            Image.new("RGB", (6, 4), (grey,) * 3).save(tmp_path / f"{name}.png")
        partial = Partial(tmp_path / "out.csv", {})
        rewards = [FunctionReward(picky), build("brightness")]
        items, _ = items_of(tmp_path, None)
        faults = score_items(items, rewards, partial, 8)
        name = picky.facts.name
        assert set(faults.failed) == {"black.png", "white.png"}
        assert partial.rows["grey.png"].values[name] == 6
        assert set(partial.rows["white.png"].values) == {"brightness"}
        assert "returned nan" in partial.rows["white.png"].error
        assert set(partial.rows["black.png"].values) == {"brightness"}
        assert "raised ZeroDivisionError: too dark" in partial.rows["black.png"].error

    def test_a_crash_loses_at_most_the_batch_in_hand(self, folder, tmp_path):
        items, _ = items_of(folder, None)
        calls = []

        @register
        def stops(images, prompts):
            calls.append(len(images))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return images.mean(dim=(1, 2, 3))

        reward = FunctionReward(stops)
        with pytest.raises(KeyboardInterrupt):
            score_items(items, [reward], Partial(tmp_path / "o.csv", {}), 2)
        partial = Partial(tmp_path / "o.csv", {})
        kept = sum(not row.error for row in partial.rows.values())
        assert kept == calls[0] > 0
        score_items(items, [reward], partial, 2)
        assert sum(calls) == calls[0] + calls[1] + 5 - kept
        assert sum(not row.error for row in partial.rows.values()) == 5


class TestPartial:
    def test_a_torn_line_is_dropped(self, folder, tmp_path):
        items, _ = items_of(folder, None)
        first = Partial(tmp_path / "o.csv", {"rewards": ["x"]})
        score_items(items[:1], [build("brightness")], first, 2)
        with first.path.open("a") as stream:
            stream.write('{"file": "b.p')
        again = Partial(tmp_path / "o.csv", {"rewards": ["x"]})
        assert again.rows == first.rows
        assert again.done(items[0])
        assert first.path.read_text().endswith("\n")

    def test_rows_of_another_command_are_not_mixed_in(self, tmp_path):
        Partial(tmp_path / "o.csv", {"rewards": ["x"]})
        with pytest.raises(DataError, match="scores of another command"):
            Partial(tmp_path / "o.csv", {"rewards": ["y"]})

    def test_a_changed_file_or_prompt_is_scored_again(self, folder, tmp_path):
        items, _ = items_of(folder, None)
        partial = Partial(tmp_path / "o.csv", {})
        score_items(items, [build("brightness")], partial, 8)
        assert partial.done(items[0])
        (folder / "a.txt").write_text("a star")
        assert not partial.done(type(items[0])(items[0].name, items[0].path, "a star"))
        save(folder / "a.png", 12, 17)
        assert not partial.done(items[0])


class TestTable:
    def test_the_members_disagreement_has_a_column(self, tmp_path):
        home = tmp_path / "images"
        home.mkdir()
        for n in range(2):
            save(home / f"{n}.png", 64, 64)
        partial = Partial(tmp_path / "o.csv", {})
        items, _ = items_of(home, None)
        score_items(items, [build("shapes_aesthetic"), build("contrast")], partial, 8)
        write_table(
            tmp_path / "o.csv", list(partial.rows.values()), ["shapes_aesthetic", "contrast"]
        )
        rows = table(tmp_path / "o.csv")
        assert list(rows["0.png"]) == [
            *("prompt", "shapes_aesthetic", "shapes_aesthetic_std", "contrast", "error")
        ]
        assert float(rows["1.png"]["shapes_aesthetic_std"]) > 0

    def test_parquet_without_its_library(self, tmp_path, monkeypatch):
        monkeypatch.setattr("morl.scoring.rows.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"\[parquet\]', or write .*scores\.csv"):
            require_format(tmp_path / "scores.parquet")

    @pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="pyarrow is optional")
    def test_parquet(self, folder, tmp_path):
        from pyarrow import parquet

        items, _ = items_of(folder, None)
        partial = Partial(tmp_path / "o.parquet", {})
        score_items(items, [build("brightness")], partial, 8)
        rows = [partial.rows[item.name] for item in items]
        write_table(tmp_path / "o.parquet", rows, ["brightness"])
        found = parquet.read_table(tmp_path / "o.parquet").to_pylist()
        assert [row["file"] for row in found] == [item.name for item in items]
        assert [row["brightness"] for row in found] == [
            row.values.get("brightness") for row in rows
        ]


def test_encoders_run_once_a_batch(tmp_path, monkeypatch):
    """Two scorers of the embedded world on eight images in two batches: two forwards."""
    for n in range(8):
        save(tmp_path / f"{n}.png", 64, 64)
    tower = shipped("cpu").encoder.tower
    forward, sizes = tower.encode_image, []

    def counted(images):
        sizes.append(len(images))
        return forward(images)

    monkeypatch.setattr(tower, "encode_image", counted)
    rewards = [build("shapes_aesthetic"), build("shapes_preference")]
    score_items(items_of(tmp_path, None)[0], rewards, Partial(tmp_path / "o.csv", {}), 4)
    assert sizes == [4, 4]
