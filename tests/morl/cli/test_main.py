"""The command: fast answers, exit codes, and messages without tracebacks."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

import pytest

from morl.algorithms.facts import ALGORITHMS
from morl.cli.main import COMMANDS, main
from rewards.facts_table import FACTS


@pytest.fixture
def morl(capsys, monkeypatch, tmp_path):
    """Run the command in an empty folder; return (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        try:
            code = main(words)
        except SystemExit as stop:  # argparse's own way to end
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def process(*words, **options):
    command = [sys.executable, "-m", "morl", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, **options
    )


@pytest.mark.parametrize("words", [["--help"], ["rewards"], ["algorithms"], ["train", "--help"]])
def test_it_answers_within_a_second(words):
    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    # Processor time: other tests share the machine, and a wait for them says nothing.
    before = spent()
    assert process(*words).returncode == 0
    assert spent() - before < 1.0


class TestHelp:
    def test_every_command_is_listed_with_what_it_does(self, morl):
        code, out, _ = morl("--help")
        assert code == 0
        for name, summary in COMMANDS.items():
            assert name in out
            assert summary.split(",")[0][:30] in " ".join(out.split())

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, morl, command):
        code, out, _ = morl(command, "--help")
        assert code == 0
        assert out.startswith(f"usage: morl {command}")

    def test_version(self, morl):
        assert morl("--version")[1].startswith("morl ")


class TestLists:
    def test_rewards(self, morl):
        code, out, _ = morl("rewards")
        assert code == 0
        for name in FACTS:
            assert name in out
        assert "gold" in next(line for line in out.splitlines() if "gold_alignment" in line)

    def test_one_reward(self, morl):
        code, out, _ = morl("rewards", "shapes_unsafe")
        assert code == 0
        assert "higher_is_better   False" in out

    def test_algorithms(self, morl):
        _, out, _ = morl("algorithms")
        assert all(name in out for name in ALGORITHMS)

    def test_one_algorithm(self, morl):
        _, out, _ = morl("algorithms", "nft")
        assert "2509.16117" in out
        assert "noise_draws" in out


class TestErrors:
    def test_an_unknown_command_names_the_nearest(self, morl):
        code, _, err = morl("trian", "shapes")
        assert code == 2
        assert err.startswith("morl: error: unknown command 'trian'; nearest: 'train'")

    def test_no_command(self, morl):
        assert morl()[0] == 2

    def test_an_unknown_option(self, morl):
        code, _, err = morl("train", "shapes", "--setp", "x")
        assert code == 2
        assert "--setp" in err

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("rewards", "asthetic"), 2, "unknown reward 'asthetic'"),
            (("algorithms", "drat"), 2, "nearest: 'draft'"),
            (("train", "shpes"), 2, "nearest: 'shapes'"),
            (("train", "shapes", "--set", "prompts.train=x.txt"), 3, "prompts.train"),
            (("report", "nowhere"), 3, "nowhere: no run in it"),
            (("evaluate", "nowhere"), 3, "nowhere: no run in it"),
            (("check", "nowhere", "--constraint", "contrast <= 0.4"), 3, "no run directory, nor"),
            (("check", "x", "--constraint", "contrast <= 0.4", "--images", "1"), 2, "--images"),
            (("train", "shapes", "--resume"), 2, "no run to resume"),
            (("generate", "x"), 3, "--prompt TEXT"),
            (("generate", "x", "--prompt", "a", "--sweep", "a:b"), 2, "FROM:TO:POINTS"),
            (("generate", "x", "--prompt", "a", "--out", "a.exe"), 2, "--out must end in .png"),
            (("sweep", "shapes", "--vary", "x"), 2, "--vary is KEY=A,B"),
            (("sweep", "shapes", "--seeds", "0,x", "--dry-run"), 2, "seed=x: training.seed"),
        ],
    )
    def test_one_error_one_line_one_exit_code(self, morl, words, code, message):
        found, out, err = morl(*words)
        assert found == code
        assert out == ""
        assert err.startswith("morl: error: ")
        assert message in err
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1

    def test_several_problems_are_counted_and_listed(self, morl):
        code, _, err = morl("train", "shapes", "--set", "base.steps=0", "--set", "x.y=1")
        assert code == 2
        assert err.splitlines()[0] == "morl: error: 2 problems"
        assert [line[:4] for line in err.splitlines()[1:]] == ["  - ", "  - "]

    def test_debug_shows_where(self, morl):
        assert "Traceback" in morl("algorithms", "drat", "--debug")[2]

    def test_an_unwritable_output_is_seen_before_any_work(self, tmp_path):
        (tmp_path / "file").touch()
        start = time.monotonic()
        done = process("train", "shapes", "--out", str(tmp_path / "file" / "run"))
        assert done.returncode == 5
        assert "Not a directory" in done.stderr
        assert time.monotonic() - start < 60

    def test_a_closed_pipe_is_no_error(self):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as closed:
            done = subprocess.run(
                [sys.executable, "-m", "morl", "rewards"],
                stdout=closed,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=60,
            )
        assert done.returncode == 0
        assert done.stderr == ""


class TestTrain:
    def test_print_config_is_a_recipe(self, morl, tmp_path):
        code, out, _ = morl("train", "shapes", "--set", "training.steps=3", "--print-config")
        assert code == 0
        assert "# sampler steps; at least 1" in out
        (tmp_path / "again.yaml").write_text(out)
        assert morl("train", "again.yaml", "--print-config")[1] == out

    def test_a_judge_whose_weights_are_missing_is_named_before_the_training(
        self, morl, monkeypatch, tmp_path
    ):
        monkeypatch.setenv("MORL_REWARDS_HOME", str(tmp_path))
        held_out = "evaluation.held_out={aesthetic: hpsv2_1, alignment: hpsv2_1, preference: hpsv2}"
        code, _, err = morl("train", "shapes", "--out", "there", "--set", held_out)
        assert code == 2
        assert "weights 'hpsv2_1'" in err
        assert "morl rewards convert hpsv2_1" in err
        assert not (tmp_path / "there" / "config.yaml").exists()

    def test_dry_run_counts_and_writes_nothing(self, morl, tmp_path):
        code, out, _ = morl(
            "train", "shapes", "--dry-run", "--set", "training.steps=5", "--out", "there"
        )
        assert code == 0
        assert "160 in 5 updates" in out
        assert "images at 10 weight vectors" in out
        assert "there" in out
        assert list(tmp_path.iterdir()) == []

    def test_dry_run_loads_no_torch(self):
        code = (
            "import sys; from morl.cli.main import main;"
            "main(['train', 'shapes', '--dry-run']); print('torch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.splitlines()[-1] == "False"

    def test_a_new_run_takes_the_next_free_name(self, morl, tmp_path):
        for name in ("shapes", "shapes-2"):
            (tmp_path / "runs" / name).mkdir(parents=True)
        assert "runs/shapes-3" in morl("train", "shapes", "--dry-run")[1]

    def test_resuming_means_the_first_name(self, morl, tmp_path):
        config = morl("train", "shapes", "--print-config")[1]
        (tmp_path / "runs" / "shapes").mkdir(parents=True)
        (tmp_path / "runs" / "shapes" / "config.yaml").write_text(config)
        assert "runs/shapes\n" in morl("train", "shapes", "--dry-run", "--resume")[1]

    def test_a_run_directory_is_resumed_in_place(self, morl, tmp_path):
        config = morl("train", "shapes", "--print-config")[1]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.yaml").write_text(config)
        assert "run directory        mine" in morl("train", "mine", "--dry-run", "--resume")[1]

    def test_dry_run_sees_that_a_run_is_there_already(self, morl, tmp_path):
        config = morl("train", "shapes", "--print-config")[1]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.yaml").write_text(config)
        code, _, err = morl("train", "shapes", "--dry-run", "--out", "mine")
        assert code == 2
        assert "already holds a run" in err
        code, _, err = morl(*("train", "mine", "--dry-run", "--resume", "--set", "training.seed=1"))
        assert code == 2
        assert "training.seed: 0 -> 1" in err


class TestSweep:
    def test_every_combination_is_planned_by_name(self, morl):
        code, out, _ = morl(
            "sweep",
            "shapes",
            "--seeds",
            "0,1",
            "--vary",
            "training.learning_rate=1e-3,2e-3",
            "--out",
            "s",
            "--dry-run",
        )
        assert code == 0
        names = [line for line in out.splitlines() if line.startswith("s/")]
        assert names == [
            "s/seed=0_learning_rate=1e-3",
            "s/seed=0_learning_rate=2e-3",
            "s/seed=1_learning_rate=1e-3",
            "s/seed=1_learning_rate=2e-3",
        ]

    def test_one_process_a_run(self, morl):
        code, _, err = morl("sweep", "shapes", "--dry-run", "--set", "training.devices=2")
        assert code == 2
        assert "training.devices must be 1 in a sweep" in err

    def test_problems_of_all_combinations_are_listed(self, morl):
        code, _, err = morl("sweep", "shapes", "--vary", "adapter.core=linear,lienar,x")
        assert code == 2
        assert err.splitlines()[0] == "morl: error: 2 problems"
