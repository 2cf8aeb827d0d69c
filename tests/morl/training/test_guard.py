"""A guarded run on the embedded world: it looks, acts, writes down why, stops and resumes."""

import json
import signal
from pathlib import Path

import pytest
import torch

from morl.config import Config, load_config
from morl.config.check import check
from morl.errors import ConfigError
from morl.lora.store import read_adapter
from morl.training.checkpoint import load_checkpoint
from morl.training.module import AlignmentModule
from morl.training.run import RunDirectory
from morl.training.session import train
from morl.training.signals import Stopped

ALWAYS = "{signal: diversity, below: 9, times: 9"
TINY = [
    "objective.maximize={red: saturation, dark: -brightness}",
    "objective.subject_to=[]",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "base.steps=2",
    "adapter.rank=2",
    "algorithm.last_steps=1",
    "algorithm.drawn_steps=0",
    "algorithm.kl_coef=0.1",
    "training.steps=3",
    "training.batch_size=8",
    "training.checkpoint_every=1",
    "training.sample_every=100",
    "training.accelerator=cpu",
    "guard.every=1",
    "guard.prompts=3",
    "guard.held_out={red: colorfulness, dark: -contrast}",
]


def guarded(rules: str, *more: str) -> Config:
    return load_config("shapes", [*TINY, f"guard.rules=[{rules}]", *more])


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "guard.jsonl").read_text().splitlines()]


def test_acts_and_writes_down_why(tmp_path: Path) -> None:
    rules = (
        f"{ALWAYS}, do: [raise_kl, raise_pessimism]}}, "
        "{signal: gap, above: -9, do: [lower_share]}"
    )
    train(guarded(rules), tmp_path / "run", command="test")
    records = log(tmp_path / "run")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert [record["kl_coef"] for record in records] == pytest.approx([0.2, 0.4, 0.8])
    assert [record["pessimism"] for record in records] == pytest.approx([1.0, 1.5, 2.0])
    first = records[0]
    assert {reading["weights"] for reading in first["signals"]["gap"]} == {
        "red=1",
        "dark=1",
        "red=0.5 dark=0.5",
    }
    low, gap = first["decisions"]
    assert low["do"] == ["raise_kl", "raise_pessimism"]
    assert low["signal"] == "diversity"
    assert low["value"] == min(reading["value"] for reading in first["signals"]["diversity"])
    lowered = ("red", "dark").index(gap["of"])
    assert first["shares"] == [0.5 if k == lowered else 1.0 for k in range(2)]


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = (
        f"{ALWAYS}, do: [raise_kl]}}, {{signal: artefacts, above: 0, times: 1, looks: 2, "
        "do: [refresh_reference, roll_back]}"
    )
    whole = train(guarded(rules), tmp_path / "whole", command="test")
    step = AlignmentModule.training_step

    def interrupted(self: AlignmentModule, batch: int, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        if batch == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(AlignmentModule, "training_step", interrupted)
    with pytest.raises(Stopped):
        train(guarded(rules), tmp_path / "parts", command="test")
    monkeypatch.setattr(AlignmentModule, "training_step", step)
    parts = train(guarded(rules), tmp_path / "parts", command="test", resume=True)
    for name, value in read_adapter(whole)[1].items():
        assert torch.equal(value, read_adapter(parts)[1][name]), name
    assert log(tmp_path / "whole") == log(tmp_path / "parts")


def test_stops_with_the_best_look_and_is_finished(tmp_path: Path) -> None:
    # What is held out is the opposite of what trains: every look is worse than the first.
    opposite = ["guard.held_out={red: -colorfulness, dark: -colorfulness}", "training.warmup=0"]
    rule = "{signal: held_out_drop, above: 0, do: [stop]}"
    config = guarded(rule, "training.steps=9", "training.learning_rate=1e-2", *opposite)
    run = tmp_path / "run"
    file = train(config, run, command="test")
    assert [record["stopped"] for record in log(run)] == [False, True]
    (evidence,) = log(run)[1]["decisions"]
    assert evidence["signal"] == "held_out_drop"
    assert evidence["value"] > 0
    first = load_checkpoint(RunDirectory(run), step=1)
    assert first is not None
    for name, value in read_adapter(file)[1].items():
        assert torch.equal(value, first.tensors["ema"][name]), name

    before = file.read_bytes()
    assert train(config, run, command="test", resume=True).read_bytes() == before
    assert len(log(run)) == 2


def test_what_a_signal_warns_of_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    # Out of bounds at the first look already, which is the best that the held-out rewards know.
    rule = "{signal: diversity, below: 9, looks: 2, do: [stop]}"
    config = guarded(rule, "training.learning_rate=1e-2")
    parameters = read_adapter(train(config, tmp_path / "run", command="test"))[1]
    assert len(log(tmp_path / "run")) == 2
    ups = [value for name, value in parameters.items() if "lora_B" in name]
    assert ups
    assert all(not value.any() for value in ups)


def test_looking_alone_changes_nothing(tmp_path: Path) -> None:
    quiet = train(guarded("{signal: diversity, below: 0, do: [stop]}"), tmp_path / "a", command="")
    off = train(load_config("shapes", [*TINY, "guard.every=0"]), tmp_path / "b", command="")
    for name, value in read_adapter(quiet)[1].items():
        assert torch.equal(value, read_adapter(off)[1][name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["guard.held_out={red: saturation, dark: -contrast}"], "saturation also trains"),
        (["guard.held_out={red: gold_aesthetic, dark: -contrast}"], "gold_aesthetic is a gold"),
        (["guard.held_out={red: colourfulness, dark: -contrast}"], "guard.held_out.red: "),
        (["guard.held_out={red: sharpness, dark: jpeg_compressibility - }"], "guard.held_out.dark"),
        (["training.devices=2"], "guard.every: a guard watches one process"),
        (["objective.on=sample"], "lower_share changes an objective's coefficient"),
    ],
)
def test_what_cannot_guard_is_said_before_anything_loads(changes: list[str], message: str) -> None:
    rules = "{signal: gap, above: 1, do: [lower_share]}"
    problems = check(guarded(rules, *changes))
    assert any(message in problem for problem in problems), problems


def test_unknown_signals_and_actions_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"disagrement.*disagreement"):
        guarded("{signal: disagrement, above: 1, do: [stop]}")
    with pytest.raises(ConfigError, match=r"rollback.*roll_back"):
        guarded("{signal: gap, above: 1, do: [rollback]}")
