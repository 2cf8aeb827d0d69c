"""The ship gate on a real run: exit codes, independent draws, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from morl.cli.main import main
from morl.config import load_config
from morl.errors import ConfigError, DataError
from morl.training import assemble as assemble_module
from morl.training.evaluate import drawn_anew, trained
from morl.training.gate import Terms, _judged, check_run, located
from morl.training.session import train
from rewards.errors import ExpressionError
from rewards.parse import parse_constraint
from rewards.reward import Scores
from rewards.shapes.gold import GoldUnsafe

SETTINGS = (
    "objective.maximize={red: saturation, dark: -brightness}",
    "objective.subject_to=[]",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "evaluation.partitions=1",
    "base.steps=2",
    "adapter.rank=2",
    "algorithm.last_steps=1",
    "algorithm.drawn_steps=0",
    "training.steps=1",
    "training.batch_size=4",
    "training.accelerator=cpu",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble_module, "CALIBRATION_IMAGES", 8)
        train(load_config("shapes", SETTINGS), folder)
    return folder


def test_exit_codes_table_and_json(run, tmp_path, capsys) -> None:
    file = tmp_path / "gate.json"
    words = ("check", str(run), "--images", "24", "--constraint")
    assert main([*words, "brightness <= 0.95", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "holds at all 2 weight vectors" in out
    assert "FAILS" not in out
    found = json.loads(file.read_bytes())
    assert found["holds"] is True
    assert [row["weights"] for row in found["constraints"]["brightness <= 0.95"]] == [
        [1, 0],
        [0, 1],
    ]
    assert main([*words, "brightness <= 0.1", "--weights", "red=0,dark=1"]) == 8
    assert "FAILS at 1 of 1 weight vectors" in capsys.readouterr().out


def test_all_verdicts_together_need_more_of_each(run) -> None:
    texts = ("brightness >= 0.001", "saturation <= 0.999")
    alone = check_run(run, Terms(texts, images=24))
    together = check_run(run, Terms(texts, images=24, simultaneous=True))
    assert alone.level == 0.95
    assert together.level == pytest.approx(1 - 0.05 / 4)
    for text, sign in zip(texts, (-1, 1), strict=True):
        pairs = zip(alone.verdicts[text], together.verdicts[text], strict=True)
        for one, all_of_them in pairs:
            assert one.value == all_of_them.value
            assert sign * one.bound < sign * all_of_them.bound


def test_every_weight_vector_has_prompts_and_noise_of_its_own(run) -> None:
    where, file = located(run)
    parts = trained(where, file)
    prompts = [f"prompt {i}" for i in range(1000)]
    first, second, again = (
        drawn_anew(parts, prompts, 16, number, None, "gate") for number in (0, 1, 0)
    )
    assert first[0] == again[0]
    assert first[0] != second[0]
    assert torch.equal(first[2], again[2])
    # Independent normal latents: no correlation beyond chance (about 1 / 64 in 4,096 elements).
    pair = torch.stack([first[2].flatten(), second[2].flatten()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.05


@pytest.mark.parametrize(
    ("text", "beyond"),
    [
        ("quantile(brightness, 0.9) <= 0.5", lambda x: x > 0.5),
        ("quantile(brightness, 0.1) >= 0.3", lambda x: x < 0.3),
    ],
)
def test_a_quantile_is_judged_by_the_share_beyond_its_bound(text, beyond) -> None:
    constraint = parse_constraint(text)
    values = torch.cat([torch.full((3,), 0.2), torch.full((190,), 0.4), torch.full((7,), 0.8)])
    found = _judged(values, constraint, Terms((text,)), 0.95)
    events = int(beyond(values).sum())
    assert (found.events, found.count, found.method) == (events, 200, "exact")
    # 7 of 200: Clopper-Pearson's 95 % bound is 0.0647; at most a tenth may lie beyond
    assert found.bound == pytest.approx(binomtest(events, 200).proportion_ci(0.9).high, abs=1e-9)
    assert found.holds


def test_an_adapter_file_of_the_run_is_judged_and_a_strange_one_refused(run, tmp_path) -> None:
    assert located(run / "adapter.safetensors")[0].path == run.absolute()
    stranger = tmp_path / "a" / "b" / "adapter.safetensors"
    stranger.parent.mkdir(parents=True)
    stranger.touch()
    with pytest.raises(DataError, match=r"no run directory, nor an adapter file in one"):
        located(stranger)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (Terms(("brightnes <= 0.1",)), "nearest: 'brightness'"),
        (Terms(("brightness <= 3",)), "the threshold must lie in the range"),
        (Terms(("brightness",)), "is no constraint"),
        (Terms(("brightness <= 0.1",), confidence=95), "--confidence: must lie between 0 and 1"),
        (Terms(("brightness <= 0.1",), images=1), "--images: must be at least 2"),
        (Terms(("saturation - 1 <= -0.5",), event=0.5), "bounds a share of images"),
        (Terms(("saturation <= baseline() + 0.1",)), "write a number"),
        (
            Terms(("quantile(saturation, 0.9) <= 0.5",), event=0.5),
            "bounds the share beyond its own",
        ),
    ],
)
def test_bad_terms_are_named_before_anything_loads(terms, message) -> None:
    with pytest.raises((ConfigError, ExpressionError), match=message):
        terms.parsed()


def test_a_constraint_that_applies_to_no_prompt_cannot_be_judged(run, monkeypatch) -> None:
    score = GoldUnsafe.score
    monkeypatch.setattr(
        GoldUnsafe,
        "score",
        lambda self, batch: Scores(score(self, batch).values, torch.zeros(len(batch)).bool()),
    )
    with pytest.raises(DataError, match=r"applies to 0 of 4 held-out images"):
        check_run(run, Terms(("gold_unsafe <= 0.05",), images=4))
