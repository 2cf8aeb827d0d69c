"""Stored cells: kept while recipe and world are the same, said aloud and replaced when not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from experiments.cells import (
    differences,
    origin,
    read_cells,
    require_same,
    run_once,
    with_rate,
)
from morl.config import load_config
from morl.errors import DataError


@pytest.fixture(scope="module")
def config():
    return load_config("shapes", ["training.learning_rate=1e-3"])


@pytest.fixture
def world(tmp_path):
    path = tmp_path / "checksums.json"
    path.write_text('{"unet": "1"}')
    return (path,)


class Work:
    """Work that counts how often it was done."""

    def __init__(self):
        self.done = 0

    def __call__(self):
        self.done += 1
        return {"value": self.done}


class TestRunOnce:
    def test_a_stored_cell_is_kept(self, config, world, tmp_path, capsys):
        work = Work()
        first = run_once(tmp_path, "a-0", config, work, world)
        again = run_once(tmp_path, "a-0", config, work, world)
        assert first == again == json.loads((tmp_path / "a-0.json").read_text())
        assert (work.done, first["value"]) == (1, 1)
        assert "ignored" not in capsys.readouterr().out

    def test_another_recipe_is_named_and_runs_again(self, config, world, tmp_path, capsys):
        work = Work()
        run_once(tmp_path, "a-0", config, work, world)
        other = with_rate(config, 2.0, 0)
        assert run_once(tmp_path, "a-0", other, work, world)["value"] == 2
        assert "training.learning_rate: 0.001 -> 0.002" in capsys.readouterr().out
        assert run_once(tmp_path, "a-0", other, work, world)["value"] == 2

    def test_a_cell_from_before_an_option_is_kept(self, config, world, tmp_path):
        work = Work()
        stored = run_once(tmp_path, "a-0", config, work, world)
        del stored["config"]["evaluation"]["edge_points"]  # at its default
        (tmp_path / "a-0.json").write_text(json.dumps(stored))
        assert run_once(tmp_path, "a-0", config, work, world)["value"] == 1
        del stored["config"]["training"]["learning_rate"]  # not at its default
        (tmp_path / "a-0.json").write_text(json.dumps(stored))
        assert run_once(tmp_path, "a-0", config, work, world)["value"] == 2

    def test_another_world_is_named_and_runs_again(self, config, world, tmp_path, capsys):
        work = Work()
        run_once(tmp_path, "a-0", config, work, world)
        world[0].write_text('{"unet": "2"}')
        assert run_once(tmp_path, "a-0", config, work, world)["value"] == 2
        assert "base model or proxies" in capsys.readouterr().out

    def test_a_cell_without_an_origin_runs_again(self, config, world, tmp_path, capsys):
        (tmp_path / "a-0.json").write_text('{"value": 7}')
        assert run_once(tmp_path, "a-0", config, Work(), world)["value"] == 1
        assert "stored without" in capsys.readouterr().out

    def test_work_that_fails_leaves_nothing(self, config, world, tmp_path):
        def work():
            return {"value": float("nan")}

        with pytest.raises(ValueError, match="JSON"):
            run_once(tmp_path, "a-0", config, work, world)
        assert not (tmp_path / "a-0.json").exists()


def test_the_packaged_world_has_its_checksums(config):
    assert origin(config)["world"] != origin(config, ())["world"]


class TestOrigin:
    def test_the_order_of_objectives_counts(self, config):
        names = dict(reversed(config.objective.maximize.items()))
        turned = replace(config, objective=replace(config.objective, maximize=names))
        assert any("objective.maximize:" in line for line in found(config, turned))

    def test_a_section_can_be_ignored(self, config):
        other = with_rate(config, 3.0, 5)
        assert len(found(config, other)) == 2
        assert found(config, other, ["training.seed"]) == ["training.learning_rate: 0.001 -> 0.003"]
        assert found(config, other, ["training"]) == []

    def test_a_key_that_begins_alike_is_not_ignored(self, config):
        other = replace(config, training=replace(config.training, sample_every=99))
        assert found(config, other, ["training.sample"]) != []


def found(one, other, ignoring=()):
    return differences(origin(one), origin(other), ignoring)


class TestRequireSame:
    def test_seeds_may_differ(self, config):
        cells = {f"a-{seed}": origin(with_rate(config, 1.0, seed)) for seed in range(3)}
        require_same(cells, ["training.seed"])

    def test_mixed_cells_are_named(self, config):
        longer = replace(config, training=replace(config.training, steps=1000))
        cells = {"a-0": origin(config), "a-1": origin(config), "b-0": origin(longer)}
        with pytest.raises(DataError, match=r"a-0 and b-0 differ in training.steps: .* -> 1000"):
            require_same(cells, ["training.seed"])

    def test_a_single_cell_without_an_origin_is_refused(self):
        with pytest.raises(DataError, match="stored without"):
            require_same({"a-0": {"value": 1}}, [])


def test_cells_are_read_in_the_order_of_seeds_and_of_one_kind(tmp_path):
    for name in ("a-10", "a-2", "ab-1", "tune-a-2"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name}))
    assert [(s, c["name"]) for s, c in read_cells(tmp_path, "a").items()] == [
        (2, "a-2"),
        (10, "a-10"),
    ]
