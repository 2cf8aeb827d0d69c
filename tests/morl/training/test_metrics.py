"""The log of a run: whole lines, no step twice."""

from __future__ import annotations

import json
import math

import pytest

from morl.errors import IntegrityError
from morl.training.metrics import MetricsLog


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.append(step, {"reward/aesthetic": step / 2})
    return log


def test_records_come_back_in_order(log):
    assert log.read()[1] == {"step": 2, "reward/aesthetic": 1.0}
    assert len(log.path.read_text().splitlines()) == 3


def test_nothing_logged_yet(tmp_path):
    assert MetricsLog(tmp_path / "metrics.jsonl").read() == []


def test_resuming_drops_what_lies_beyond_the_checkpoint(log):
    assert log.truncate_after(1) == 2
    log.append(2, {"again": True})
    assert [record["step"] for record in log.read()] == [1, 2]
    assert log.truncate_after(0) == 2
    assert log.read() == []


def test_a_torn_last_line_is_left_out_and_removed_on_resume(log):
    with log.path.open("a") as file:
        file.write('{"step": 4, "rew')
    assert len(log.read()) == 3
    log.truncate_after(3)
    log.append(4, {})
    assert [record["step"] for record in log.read()] == [1, 2, 3, 4]


def test_a_damaged_line_is_named(log):
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], "nonsense", lines[2]]) + "\n")
    with pytest.raises(IntegrityError, match=r"metrics\.jsonl:2: not a JSON object"):
        log.read()


def test_numbers_that_are_not_finite_become_null(log):
    log.append(4, {"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    assert json.loads(log.path.read_text().splitlines()[-1]) == {
        "step": 4,
        "a": None,
        "b": [None, 1.0],
        "c": {"d": None},
    }
