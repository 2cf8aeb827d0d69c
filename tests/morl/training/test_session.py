"""Whole runs on the embedded world: they learn, stop, resume and say what they saw."""

import json
import signal
from pathlib import Path

import pytest
import torch

from morl.config import Config, load_config
from morl.config.guidance import GuidanceNote
from morl.lora.store import read_adapter
from morl.prompts import load_prompts
from morl.training.assemble import assemble
from morl.training.judge import judge_of, score_images
from morl.training.module import AlignmentModule
from morl.training.run import RunDirectory
from morl.training.session import train
from morl.training.signals import Stopped
from morl.training.state import read_calibration

STEPS = 4
# Closed forms on pixels: a run then costs the network alone.
TINY = [
    "objective.maximize={red: saturation, dark: -brightness}",
    "objective.subject_to=[contrast <= 0.4]",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "base.steps=3",
    "adapter.rank=2",
    f"training.steps={STEPS}",
    "training.batch_size=8",
    "training.checkpoint_every=2",
    "training.sample_every=100",
    "training.accelerator=cpu",
]
ALGORITHMS = {
    "draft": [
        "algorithm.name=draft",
        "algorithm.last_steps=1",
        "algorithm.drawn_steps=0",
        "algorithm.renoise_copies=1",
        "algorithm.kl_coef=0.1",
    ],
    "drawn_steps": [
        "algorithm.name=draft",
        "algorithm.last_steps=3",
        "algorithm.drawn_steps=2",
        "algorithm.kl_coef=0.1",
    ],
    "policy_gradient": [
        "algorithm.name=policy_gradient",
        "algorithm.group_size=2",
        "algorithm.kl_coef=0.1",
    ],
    "nft": ["algorithm.name=nft", "algorithm.group_size=2", "algorithm.noise_draws=2"],
}


def config(algorithm: str, *more: str) -> Config:
    return load_config("shapes", [*TINY, *ALGORITHMS[algorithm], *more])


def adapter(path: Path) -> dict[str, torch.Tensor]:
    return read_adapter(path)[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapter(train(config(algorithm), tmp_path / "whole", command="test"))

    step = AlignmentModule.training_step

    def interrupted(self: AlignmentModule, batch: int, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        if batch == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(AlignmentModule, "training_step", interrupted)
    with pytest.raises(Stopped) as stopped:
        train(config(algorithm), tmp_path / "parts", command="test")
    assert stopped.value.exit_code == 143
    monkeypatch.setattr(AlignmentModule, "training_step", step)
    parts = adapter(train(config(algorithm), tmp_path / "parts", command="test", resume=True))

    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    records = RunDirectory(tmp_path / "parts").metrics.read()
    assert [record["step"] for record in records] == [1, 2, 3, 4]


def test_a_run_moves_the_adapter_and_logs_every_objective(tmp_path: Path) -> None:
    file = train(config("draft"), tmp_path / "run", command="test")
    ups = [value for name, value in adapter(file).items() if name.endswith("lora_B.weight")]
    assert all(value.abs().sum() > 0 for value in ups)
    record = RunDirectory(tmp_path / "run").metrics.read()[-1]
    shown = {"reward/red", "reward/dark", "violation/contrast", "multiplier/contrast", "kl"}
    assert shown <= record.keys()


def test_ratio_is_one_before_the_first_update(tmp_path: Path) -> None:
    asked = config("policy_gradient", "training.steps=1", "evaluation.guidance=2")
    with pytest.warns(GuidanceNote, match="trains at guidance 1 and is judged at 2") as said:
        train(asked, tmp_path / "run", command="test")
    assert len(said) == 1
    (record,) = RunDirectory(tmp_path / "run").metrics.read()
    assert record["ratio"] == 1.0
    assert record["clip_fraction"] == 0.0


def test_a_finished_run_has_nothing_to_resume(tmp_path: Path) -> None:
    file = train(config("draft", "training.steps=1"), tmp_path / "run", command="test")
    written = file.stat().st_mtime_ns
    again = train(
        config("draft", "training.steps=1"), tmp_path / "run", command="test", resume=True
    )
    assert again == file
    assert file.stat().st_mtime_ns == written


def test_rewards_that_are_driven_rise(tmp_path: Path) -> None:
    # Saturation has a gradient everywhere: fourteen updates at a high rate must raise it.
    settings = (
        "objective.maximize={red: saturation}",
        "objective.subject_to=[]",
        "training.steps=14",
        "training.learning_rate=5e-3",
        "training.warmup=0",
    )
    train(config("draft", *settings), tmp_path / "run", command="test")
    rewards = [record["reward/red"] for record in RunDirectory(tmp_path / "run").metrics.read()]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.5


DETECTOR = """
from rewards.instruments import Detection

class SeesStars:
    def __init__(self, device):
        pass

    def detect(self, images):
        return [[Detection("star", 0.95, (1, 1, 9, 9))] for _ in images]
"""


def test_a_prompts_record_reaches_the_reward_in_training_and_in_judging(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(DETECTOR)
    for name in ("train", "held_out"):
        lines = [
            {"prompt": f"a {wanted}", "tag": name, "include": [{"class": wanted, "count": 1}]}
            for wanted in ("star", "ring")
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = config(
        "nft",
        "objective.maximize={found: geneval, red: saturation}",
        f"objective.instruments={{detector: '{tmp_path}/own.py:SeesStars'}}",
        f"prompts.train={tmp_path}/train.jsonl",
        f"prompts.held_out={tmp_path}/held_out.jsonl",
        "training.steps=1",
    )
    train(asked, tmp_path / "run", command="test")
    # Half of the base's images and of each batch are asked for what the detector sees everywhere,
    # so that the batch lies on the base's mean.
    assert read_calibration(RunDirectory(tmp_path / "run")).mean[0] == pytest.approx(0.5)
    line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(line)["reward/found"] == pytest.approx(0, abs=1e-6)
    parts = assemble(asked)
    prompts = load_prompts(asked.prompts.held_out, "held_out", 0)
    noise = parts.sampler.noise(2, torch.Generator().manual_seed(0))
    scored = score_images(parts, judge_of(asked, parts, ()), prompts, None, noise)
    assert scored["proxy"].rewards[:, 0].tolist() == [1.0, 0.0]
