"""Constraints and multipliers that cannot work are said before training, with their keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from morl.config import check, load_config
from morl.config.write import departures, to_dict


def problems(*settings: str) -> str:
    return "\n".join(check(load_config("shapes", list(settings))))


def test_todays_recipe_departs_in_nothing_new() -> None:
    told = departures(to_dict(load_config("shapes")))["objective"]
    assert sorted(told) == ["maximize", "pessimism", "subject_to"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["objective.multiplier_start=7", "objective.multiplier_cap=5"],
            "objective.multiplier_start: must be at most multiplier_cap = 5; got 7",
        ),
        (
            ["objective.maximize={a: saturation}", "objective.multiplier_of_weights=implicit"],
            "objective.multiplier_of_weights: one objective has one weight vector",
        ),
        (
            ["objective.utility_weight=0", "objective.subject_to=[]"],
            "objective.utility_weight: 0 leaves the constraints alone, and there are none",
        ),
        (
            ["objective.utility_weight=0", "algorithm.kl_coef=0"],
            "algorithm.kl_coef = 0 does not measure it; write kl_coef: 1",
        ),
        (
            ["objective.subject_to=[\"mean(contrast, where='prompt dos not ask') <= 0.3\"]"],
            "objective.subject_to[0]: mean(contrast, where='prompt dos not ask') <= 0.3: there is "
            "no prompt class 'prompt dos not ask'; nearest: 'prompt does not ask'",
        ),
        (
            [
                "objective.subject_to=['contrast <= 0.3', 'contrast >= baseline() + x']",
            ],
            "objective: subject_to[1]: 'contrast >= baseline() + x': baseline() is combined with "
            "numbers alone",
        ),
    ],
)
def test_what_cannot_work(settings: list[str], message: str) -> None:
    assert message in problems(*settings)


def test_targets_instead_of_weights_are_a_valid_recipe() -> None:
    settings = [
        "objective.utility_weight=0",
        "algorithm.kl_coef=1",
        "objective.subject_to=[shapes_unsafe <= 0.03, calibrated(shapes_aesthetic) >= 0.5]",
    ]
    assert problems(*settings) == ""


def test_a_class_that_a_prompt_file_declares(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a red star", "classes": ["star"]}, {"prompt": "a ring"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    constraint = "objective.subject_to=[\"mean(contrast, where='%s') <= 0.3\"]"
    asked = f"prompts.train={file}"
    assert problems(asked, constraint % "star", "evaluation.held_out={}") == ""
    assert "there is no prompt class 'stars'; nearest: 'star'" in problems(
        asked, constraint % "stars", "evaluation.held_out={}"
    )
