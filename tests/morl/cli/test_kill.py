"""kill -9 at any moment of `morl train`, then --resume: the same files as without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from morl.lora.store import read_adapter
from morl.training.run import RunDirectory

SCRIPT = Path(__file__).with_name("killed_runs.py")
TIMES = {"seconds", "images_per_second"}
pytestmark = pytest.mark.xdist_group("kill")  # the runs are made once


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run `whole` and the run `killed`, and how each process ended."""
    folder = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, [json.loads(line) for line in done.stdout.splitlines()]


def untimed(values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in TIMES}


def test_every_moment_came_and_every_process_died_of_it(runs):
    _, (whole, *killed, last) = runs
    assert len(killed) > 10
    assert [(found["moment"], found["exit"]) for found in killed if found["exit"] != -9] == []
    assert (whole["exit"], last["exit"]) == (0, 0)


def test_the_adapter_is_the_same_bit_for_bit(runs):
    folder, _ = runs
    (one, whole), (other, killed) = (
        read_adapter(folder / run / "adapter.safetensors") for run in ("whole", "killed")
    )
    assert one == other
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    assert any(value.count_nonzero() for name, value in whole.items() if "lora_B" in name)


@pytest.mark.parametrize("name", ["base.json", "front.json"])
def test_the_results_are_the_same_bit_for_bit(runs, name):
    folder, _ = runs
    whole, killed = ((folder / run / name).read_bytes() for run in ("whole", "killed"))
    assert whole == killed


def test_no_strip_is_lost_or_torn(runs):
    folder, _ = runs
    whole, killed = (
        {path.name: path.read_bytes() for path in (folder / run / "samples").iterdir()}
        for run in ("whole", "killed")
    )
    assert whole == killed
    assert {name.split("-")[1] for name in whole} == {"00003", "00004"}


def test_the_log_repeats_no_step_and_lacks_none(runs):
    folder, _ = runs
    whole, killed = (
        [untimed(record) for record in RunDirectory(folder / run).metrics.read()]
        for run in ("whole", "killed")
    )
    assert whole == killed
    assert [record["step"] for record in killed] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["ledger.json", "evaluation_ledger.json"])
def test_the_ledger_counts_what_led_to_the_result_once(runs, name):
    folder, _ = runs
    whole, killed = (
        untimed(json.loads((folder / run / name).read_bytes())) for run in ("whole", "killed")
    )
    assert whole == killed


def test_no_leftovers_and_a_whole_report(runs):
    folder, _ = runs
    names = {path.name for path in (folder / "killed").iterdir()}
    assert names == {path.name for path in (folder / "whole").iterdir()}
    assert (folder / "killed" / "report.html").read_text().rstrip().endswith("</html>")
