"""A run directory: started once, resumed only as the same run, tidy after a crash."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings

import pytest

from morl.config import Config, ObjectiveConfig, TrainingConfig
from morl.errors import ConfigError, DataError, ResourceError
from morl.training.run import ResumeNote, RunDirectory, code_digest, differences
from rewards.objective import Objective

CONFIG = Config(objective=ObjectiveConfig(maximize={"a": "sharpness", "b": "saturation"}))
LONGER = dataclasses.replace(CONFIG, training=TrainingConfig(steps=500))
OTHER = dataclasses.replace(CONFIG, training=TrainingConfig(seed=9, learning_rate=0.5))


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "a run, ünï")


@pytest.fixture
def started(run):
    with run.training(CONFIG, command="morl train x"):
        pass
    return run


class TestStart:
    def test_what_a_run_writes_down(self, started):
        assert started.exists
        assert started.config() == CONFIG
        info = started.info()
        assert info["command"] == "morl train x"
        assert info["versions"]["torch"].startswith("2.")
        assert info["code_sha256"] == code_digest()
        assert len(info["code_sha256"]) == 64
        objective = Objective.from_dict(CONFIG.objective.to_objective())
        assert info["objective_sha256"] == objective.digest
        assert not list(started.path.glob(".tmp*"))

    def test_reading_where_no_run_is(self, run):
        with pytest.raises(DataError, match="no run in it"):
            run.config()
        with pytest.raises(DataError, match="no run in it"):
            run.info()

    def test_a_second_start_is_refused(self, started):
        with (
            pytest.raises(ConfigError, match="already holds a run; continue it with --resume"),
            started.training(CONFIG, command="x"),
        ):
            pytest.fail("started twice")

    def test_a_folder_of_other_things_is_refused(self, run):
        run.path.mkdir()
        (run.path / "thesis.tex").write_text("")
        with (
            pytest.raises(ConfigError, match=r"files that are no run \(thesis\.tex\)"),
            run.training(CONFIG, command="x"),
        ):
            pytest.fail("written over")
        assert sorted(p.name for p in run.path.iterdir()) == [".lock", "thesis.tex"]

    def test_a_start_that_was_cut_short_can_be_repeated(self, run):
        run.path.mkdir()
        run.write_json("run.json", {})
        (run.path / ".lock").touch()
        with run.training(CONFIG, command="x"):
            assert run.config() == CONFIG

    def test_a_run_in_use_is_refused(self, run):
        with (
            run.training(CONFIG, command="x"),
            pytest.raises(ResourceError, match="in use by process"),
            run.training(CONFIG, command="x", resume=True),
        ):
            pytest.fail("two writers")

    def test_an_unwritable_place_is_refused_before_any_work(self, tmp_path):
        (tmp_path / "file").touch()
        run = RunDirectory(tmp_path / "file" / "run")
        with (
            pytest.raises(ResourceError, match="cannot be written: Not a directory"),
            run.training(CONFIG, command="x"),
        ):
            pytest.fail("nowhere to write")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder_is_refused(self, tmp_path):
        tmp_path.chmod(0o500)
        with (
            pytest.raises(ResourceError, match="choose a folder that you may write to"),
            RunDirectory(tmp_path / "run").training(CONFIG, command="x"),
        ):
            pytest.fail("nowhere to write")


class TestResume:
    def test_nothing_to_resume(self, run):
        with (
            pytest.raises(ConfigError, match="no run to resume"),
            run.training(CONFIG, command="x", resume=True),
        ):
            pytest.fail("resumed nothing")

    def test_every_resume_is_written_down(self, started):
        for _ in range(2):
            with started.training(CONFIG, command="again", resume=True):
                pass
        resumed = started.info()["resumed"]
        assert [entry["command"] for entry in resumed] == ["again", "again"]
        assert resumed[0]["changes"] == []

    def test_a_run_may_go_on_longer(self, started):
        with (
            pytest.warns(ResumeNote, match=r"training\.steps: 100 -> 500"),
            started.training(LONGER, command="x", resume=True),
        ):
            pass
        assert started.config() == LONGER

    def test_it_may_not_become_another_run(self, started):
        with pytest.raises(ConfigError) as error, started.training(OTHER, command="x", resume=True):
            pytest.fail("another run")
        text = str(error.value)
        assert "training.seed: 0 -> 9" in text
        assert "training.learning_rate: 0.0003 -> 0.5" in text
        assert "--allow-config-change" in text
        assert started.config() == CONFIG

    def test_unless_that_is_meant(self, started):
        with (
            pytest.warns(ResumeNote, match=r"training\.seed"),
            started.training(OTHER, command="x", resume=True, allow_config_change=True),
        ):
            pass
        assert "training.seed: 0 -> 9" in started.info()["resumed"][0]["changes"]

    def test_another_order_of_objectives_is_another_run(self):
        swapped = ObjectiveConfig(maximize={"b": "saturation", "a": "sharpness"})
        changes = differences(CONFIG, dataclasses.replace(CONFIG, objective=swapped))
        assert list(changes) == ["objective.maximize (order)"]

    def test_what_a_crash_left_is_removed_and_named(self, started):
        (started.path / ".tmp-7-99").mkdir()
        (started.path / ".tmp-7-99" / "adapter.safetensors").write_text("half")
        (started.path / ".tmp-config.yaml-99").write_text("half")
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            with started.training(CONFIG, command="x", resume=True):
                assert not list(started.path.glob(".tmp*"))
        said = sorted(str(note.message) for note in notes)
        assert said[0].startswith("removed .tmp-7-99, left by a crash")
        assert len(said) == 2


class TestFiles:
    def test_files_are_replaced_as_a_whole(self, started):
        started.write_json("front.json", {"a": 1})
        started.write_json("front.json", {"b": 2})
        assert json.loads((started.path / "front.json").read_text()) == {"b": 2}
        started.write_text("strips/step-1.txt", "x")
        assert (started.path / "strips" / "step-1.txt").read_text() == "x"

    def test_a_number_that_json_lacks_is_refused(self, started):
        with pytest.raises(ValueError, match="not JSON compliant"):
            started.write_json("front.json", {"a": float("nan")})

    def test_it_is_a_path(self, started):
        assert os.fspath(started) == str(started.path)

    def test_a_link_to_a_run_is_the_run(self, started, tmp_path):
        (tmp_path / "link").symlink_to(started.path)
        assert RunDirectory(tmp_path / "link").config() == CONFIG
