"""Checkpoints are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from morl.errors import IntegrityError, ResourceError
from morl.training.checkpoint import (
    FallbackWarning,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from morl.training.run import RunDirectory

CRASH = Path(__file__).with_name("crash_at_every_operation.py")


def tensors(value: float):
    return {"adapter": {"a": torch.full((4,), value)}, "ema": {"a": torch.full((4,), -value)}}


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


@pytest.fixture
def two(run):
    for step in (1, 2):
        save_checkpoint(run, step, tensors(step), {"seen": step})
    return run


class TestSaveAndLoad:
    def test_what_was_saved_is_loaded(self, run):
        save_checkpoint(run, 7, tensors(0.1), {"multipliers": [0.5], "nested": {"x": None}})
        checkpoint = load_checkpoint(run)
        assert checkpoint.step == 7
        assert checkpoint.state == {"multipliers": [0.5], "nested": {"x": None}}
        assert torch.equal(checkpoint.tensors["adapter"]["a"], torch.full((4,), 0.1))
        assert torch.equal(checkpoint.tensors["ema"]["a"], torch.full((4,), -0.1))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
    def test_every_type_keeps_its_bits(self, run, dtype):
        value = torch.arange(6).reshape(2, 3).to(dtype)
        save_checkpoint(run, 1, {"x": {"t": value.T, "scalar": value[1, 2]}}, {})
        loaded = load_checkpoint(run).tensors["x"]
        assert loaded["t"].dtype == dtype
        assert torch.equal(loaded["t"], value.T)
        assert loaded["scalar"].shape == ()

    def test_shared_memory_and_gradients_do_not_matter(self, run):
        parameter = torch.nn.Parameter(torch.ones(3))
        save_checkpoint(run, 1, {"x": {"one": parameter, "same": parameter}}, {})
        assert torch.equal(load_checkpoint(run).tensors["x"]["same"], torch.ones(3))

    def test_nothing_saved_yet(self, run):
        assert load_checkpoint(run) is None

    def test_only_the_newest_are_kept(self, run):
        for step in (5, 10, 100):
            save_checkpoint(run, step, tensors(step), {}, keep=2)
        assert [path.name for path in checkpoints(run)] == ["checkpoint-10", "checkpoint-100"]
        assert (run.path / "latest").read_text() == "checkpoint-100\n"
        assert not list(run.path.glob(".tmp*"))

    def test_the_one_of_a_step(self, two):
        assert load_checkpoint(two, step=1).state == {"seen": 1}

    def test_a_missing_step_names_those_there_are(self, two):
        with pytest.raises(IntegrityError, match="no checkpoint-3; there are: checkpoint-1, check"):
            load_checkpoint(two, step=3)

    def test_saving_the_same_step_again_changes_nothing(self, two):
        before = (two.path / "checkpoint-2" / "manifest.json").stat().st_mtime_ns
        save_checkpoint(two, 2, tensors(2), {"seen": 2})
        assert (two.path / "checkpoint-2" / "manifest.json").stat().st_mtime_ns == before

    def test_saving_over_a_damaged_one_repairs_it(self, two):
        (two.path / "checkpoint-2" / "state.json").write_text("{}")
        save_checkpoint(two, 2, tensors(2), {"seen": 2})
        assert load_checkpoint(two).state == {"seen": 2}


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class TestDamage:
    @pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
    @pytest.mark.parametrize("name", ["adapter.safetensors", "state.json", "manifest.json"])
    def test_the_one_before_is_used(self, two, name, damage):
        damage(two.path / "checkpoint-2" / name)
        with pytest.warns(FallbackWarning, match="checkpoint-2.*using the one before"):
            checkpoint = load_checkpoint(two)
        assert checkpoint.step == 1
        assert checkpoint.tensors["adapter"]["a"][0] == 1

    def test_asked_for_by_step_it_is_refused(self, two):
        truncate(two.path / "checkpoint-2" / "adapter.safetensors")
        with pytest.raises(IntegrityError, match=r"adapter\.safetensors does not match"):
            load_checkpoint(two, step=2)

    def test_no_whole_one_left(self, two):
        for path in checkpoints(two):
            truncate(path / "state.json")
        with (
            pytest.warns(FallbackWarning),
            pytest.raises(IntegrityError, match="none of its 2 checkpoints is whole"),
        ):
            load_checkpoint(two)

    def test_a_newer_format_is_named(self, two):
        manifest = two.path / "checkpoint-2" / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
        with pytest.raises(IntegrityError, match="format 99, newer than 1: upgrade"):
            load_checkpoint(two, step=2)

    def test_other_folders_are_no_checkpoints(self, two):
        for name in ("checkpoint-best", "checkpoint-", ".tmp-3-99", "checkpoint-4.bak"):
            (two.path / name).mkdir()
        (two.path / "checkpoint-9").write_text("a file")
        assert [path.name for path in checkpoints(two)] == ["checkpoint-1", "checkpoint-2"]


class TestCrash:
    def test_a_crash_at_any_file_operation_leaves_the_old_or_the_new(self, tmp_path):
        command = [sys.executable, str(CRASH), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        # Five files of open, write, fsync and close, and the folders' own operations.
        assert len(found) > 30
        for after in found:
            assert after["values"] == [after["step"]], "parts of two steps are mixed"
            assert after["state"] == after["step"]
        steps = [after["step"] for after in found]
        assert steps == sorted(steps), "the new checkpoint must not vanish again"
        assert {1, 2} == set(steps)
        assert found[-1]["names"] == ["checkpoint-2", "latest"]

    @pytest.mark.parametrize("failing", range(1, 6))
    def test_a_full_disk_leaves_the_old_and_no_rubbish(self, two, monkeypatch, failing):
        real, calls = os.write, 0

        def write(descriptor, data):
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(ResourceError, match=r"No space left on device; free some space"):
            save_checkpoint(two, 3, tensors(3), {})
        monkeypatch.undo()
        assert not list(two.path.glob(".tmp*"))
        expected = 2 if failing <= 4 else 3  # the fifth write is that of the pointer
        assert load_checkpoint(two).step == expected

    def test_too_little_space_is_seen_before_anything_is_written(self, two, monkeypatch):
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
        with pytest.raises(ResourceError, match=r"0\.0 MB are free; free some space"):
            save_checkpoint(two, 3, tensors(3), {})
        assert load_checkpoint(two).step == 2
