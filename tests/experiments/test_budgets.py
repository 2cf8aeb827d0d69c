"""The budget study: what its methods set, a cell in small, and what its table says."""

from __future__ import annotations

import pytest

from experiments.budgets.run import METHODS, POSITIONS, SLID, cell, setting, study, table
from experiments.cells import differences, origin
from experiments.judging import Exam
from morl.config import check, load_config
from morl.errors import ConfigError, DataError
from morl.training import assemble as assemble_module

TINY = (
    "base.steps=2",
    "algorithm.last_steps=1",
    "algorithm.drawn_steps=0",
    "adapter.rank=4",
    "training.batch_size=4",
    "training.accelerator=cpu",
)


@pytest.fixture(scope="module")
def config():
    return study(load_config("shapes", TINY), steps=1, images=4)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_valid_recipe_and_differs_in_its_bound_alone(config, method):
    made = setting(config, method, 0)
    assert check(made) == []
    slid = origin(setting(config, SLID, 0))
    assert bool(differences(slid, origin(made))) == (method != SLID)
    assert not differences(slid, origin(made), ["objective.subject_to"])


def test_a_cell_answers_at_every_bound(config, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble_module, "CALIBRATION_IMAGES", 8)
    own = setting(config, SLID, 0)
    exam = Exam.of(own, "held_out", 0, 4)
    found = cell(own, "slid-0", lambda: exam)
    assert found["bounds"] == pytest.approx([0.01, 0.02115, 0.04472, 0.09457, 0.2], rel=1e-3)
    assert len(found["events"]) == len(found["counts"]) == 3 * POSITIONS
    pairs = zip(found["events"], found["counts"], strict=True)
    assert all(0 <= events <= count <= 4 for events, count in pairs)
    # After one update the slider draws other images at another budget.
    assert len({tuple(row) for row in found["rewards"][:POSITIONS]}) > 1


def stored(config, method: str, seed: int, rates: list[int]) -> dict:
    return {
        **origin(setting(config, method, seed)),
        "names": ["a", "b", "c"],
        "bounds": [0.01, 0.2] if method == SLID else [0.01],
        "events": rates,
        "counts": [100] * len(rates),
        "rewards": [[0.1 * n, 0.5, 0.9] for n in range(len(rates))],
    }


def test_the_table_pools_seeds(config):
    cells = {
        SLID: {s: stored(config, SLID, s, [1, 20 + s, 2, 19, 0, 21]) for s in (0, 2)},
        "fixed_0.01": {0: stored(config, "fixed_0.01", 0, [1, 0, 1])},
    }
    lines = table(cells).splitlines()
    assert len(lines) == 2 + 6 + 3
    # 20 and 22 of 100 at objective a and the loosest bound; its own reward there is 0.1
    assert lines[3].startswith("| budget(0.01, 0.2) | a | 0.2 | 21.0% | ")
    assert lines[3].endswith(" | 20.0%, 22.0% | 0.100 |")
    assert lines[-1].startswith("| 0.01 | c | 0.01 | 1.0% | ")


def test_recipes_are_not_mixed(config):
    other = study(load_config("shapes", [*TINY, "adapter.rank=6"]), steps=1, images=4)
    cells = {0: stored(config, SLID, 0, [0] * 6), 1: stored(other, SLID, 1, [0] * 6)}
    with pytest.raises(DataError, match=r"adapter\.rank"):
        table({SLID: cells})


def test_a_recipe_without_a_judge_of_the_constraint(config):
    blind = load_config("shapes", ["evaluation.held_out={}", "evaluation.axes={}"])
    with pytest.raises(ConfigError, match=r"evaluation\.held_out: .*shapes_unsafe"):
        study(blind, None, 4)
