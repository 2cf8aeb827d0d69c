"""`morl rewards train` and `average`: from labels to a file that `score` and a recipe read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from morl.cli.main import main
from rewards.learned.card import read_card
from rewards.registry import build
from rewards.reward import ImageBatch
from rewards.shapes.render import render, sample_scenes


@pytest.fixture
def morl(capsys: pytest.CaptureFixture[str]):
    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """Forty pictures of the world, rated by how bright they are."""
    images = render(sample_scenes(torch.Generator().manual_seed(0), 40))
    rows = []
    for number, image in enumerate(images):
        file = f"{number}.png"
        Image.fromarray((255 * image).byte().permute(1, 2, 0).numpy()).save(tmp_path / file)
        rows.append({"image": file, "label": f"{10 * image.mean().item():.4f}"})
    path = tmp_path / "ratings.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, ["image", "label"])
        table.writeheader()
        table.writerows(rows)
    return path


QUICK = ("--task", "regression", "--encoder", "shapes_clip", "--steps", "40", "--held-out", "0.5")


def test_a_file_of_ratings_becomes_a_reward(morl, ratings, tmp_path):
    out = tmp_path / "light.safetensors"
    code, text, err = morl(
        "rewards", "train", ratings, out, *QUICK, "--category", "aesthetic", "--shared-start"
    )
    assert code == 0, err
    assert "20 train, 10 validation, 10 test" in text
    assert "uncertainty (members)" in text
    assert f"{out}: use it as R(" in text
    card = read_card(out)
    assert card.category == "aesthetic"
    assert card.training["steps"] == 40
    dark = torch.full((1, 3, 64, 64), 0.2)
    batch = ImageBatch(torch.cat([dark, 4 * dark]), ["", ""])
    values = build(str(out)).score(batch).values
    assert values[1] > values[0]

    code, text, err = morl("rewards", out)
    assert code == 0, err
    assert "measures" in text
    code, text, err = morl("rewards", "average", out, tmp_path / "one.safetensors")
    assert code == 0, err
    assert "the average of 5 members" in text
    assert read_card(tmp_path / "one.safetensors").averaged == 5


def test_the_worlds_annotators_are_asked(morl, tmp_path):
    out = tmp_path / "taste.safetensors"
    code, text, err = morl(
        "rewards", "train", "shapes:preference", out, "--images", 32, "--pairs", 200, "--steps",
        20, "--held-out", 0.5, "--average", "--uncertainty", "laplace",
    )  # fmt: skip
    assert code == 0, err
    assert "100 train, 50 validation, 50 test" in text
    card = read_card(out)
    assert (card.task, card.category, card.averaged) == ("preference", "preference", 5)
    assert set(card.measures) == {"accuracy", "ece"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("shapes:taste", "a.safetensors"), 2, "has no 'taste'; nearest: 'aesthetic'"),
        (("shapes:unsafe", "a.safetensors", "--task", "regression"), 2, "says it itself"),
        (("shapes:unsafe", "a.safetensors", "--members", "1"), 2, "protects from nothing"),
        (("shapes:unsafe", "a.safetensors", "--images", "20"), 2, "need 8 each at least; got 20"),
        (("shapes:unsafe", "a/b"), 2, "a path ends in .safetensors; got 'a/b'"),
        (("labels.csv", "a.safetensors"), 2, "task: say what the labels are"),
        (("labels.csv", "a.safetensors", *QUICK[:2], "--encoder", "clip"), 2, "is called 'clip'"),
        (("none.csv", "a.safetensors", *QUICK), 3, "no such file"),
        ((), 2, "write: morl rewards train LABELS OUT"),
    ],
)
def test_bad_input_is_named_before_anything_is_drawn(morl, words, code, message):
    found, _, err = morl("rewards", "train", *words)
    assert (found, message in err) == (code, True), err
