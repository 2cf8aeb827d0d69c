"""The report: one file without references, whatever the run has; the stored study is marked."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from morl.config import Config, ObjectiveConfig, load_config
from morl.config.write import to_dict
from morl.errors import DataError
from morl.fronts.events import EventRates, Rate
from morl.fronts.front import Front
from morl.fronts.indicators import FrontConstants
from morl.report import front_sections, write_report
from morl.report.front_figures import (
    above_base,
    edges_of,
    event_figure,
    front_figures,
    win_figure,
)
from morl.report.guard_sections import guard_sections, map_figure
from morl.report.stored import StoredFront, StoredMethod, recipe_digest
from morl.report.training_figures import (
    constraint_figure,
    disagreement_figure,
    effective_figure,
    kl_figure,
    shares_figure,
    smoothed,
    speed_figure,
)
from morl.report.training_sections import training_sections
from morl.training.run import RunDirectory
from morl.weights import das_dennis

CONFIG = Config(
    objective=ObjectiveConfig(
        maximize={"red": "saturation", "dark": "-brightness", "calm": "sharpness"},
        subject_to=["contrast <= 0.4"],
    ),
)
RECORDS = [
    {"red": 0.1 * n, "cost": 0.5 - 0.1 * n, "multiplier": 0.2 * n, "kl": 0.01 * n} for n in range(4)
]


def front(space="proxy", names=("red", "dark", "calm")):
    weights = das_dennis(3, 3).double().numpy()
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 8, 3))
    constants = FrontConstants((-1.0,) * 3, (2.0,) * 3)
    return Front(space, names, weights, weights[:, None] + noise, noise[0], (0, 1) * 4, constants)


def stored(names=("red", "dark", "calm"), recipe="other"):
    found = front(names=names)
    mean, w = found.mean.tolist(), found.weights.tolist()
    method = StoredMethod("conditioned", (0, 1), w, mean, mean, mean)
    return StoredFront(names, recipe, (method,))


def measured(*spaces):
    rate = Rate(1, 8)
    fronts = {space: front(space) for space in spaces}
    return {
        "images_per_weight": 8,
        "fronts": {space: {**f.to_dict(), **f.summary()} for space, f in fronts.items()},
        "events": {"contrast": EventRates("contrast", 0.1, rate, (rate,) * 10).to_dict()},
    }


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "a run, <ünï>")
    with run.training(CONFIG, command="morl train x --set 'a=<script>'"):
        for step, values in enumerate(RECORDS, start=1):
            record = {
                "reward/red": values["red"],
                "cost/contrast": values["cost"],
                "multiplier/contrast": values["multiplier"],
                "kl": values["kl"],
                "images_per_second": 3.0,
            }
            run.metrics.append(step, record)
    return run


def titles(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


class TestPage:
    def test_a_run_without_a_front_says_so(self, run):
        page = write_report(run.path).read_text()
        assert "No front was measured yet" in page
        assert titles(page) == [
            "Front",
            "Learning curves",
            "Constraint in training: contrast &lt;= 0.4",
            "Distance from the base model, and speed",
            "Reproduce",
        ]

    def test_a_run_that_has_everything(self, run):
        run.write_json("front.json", measured("proxy", "gold"))
        run.write_json("ledger.json", {"forwards": 1234, "seconds": {"sample": 5.25}})
        (run.path / "samples").mkdir()
        for step, data in ((1, b"old"), (2, b"new")):
            run.write_bytes(f"samples/step-{step:05d}-red-dark.png", data)
            strip = {"step": step, "from": "red", "to": "dark", "prompt": "<i>a circle"}
            run.write_json(f"samples/step-{step:05d}-red-dark.json", strip)
        page = write_report(run.path).read_text()
        found = titles(page)
        assert found.index("Front in held-out reward") < found.index("Front in proxy reward")
        assert {"Along the slider", "What it cost", "Constraint, held out: contrast"} <= {*found}
        assert "Win rate against the base model, gold reward" in found
        assert "1,234" in page
        assert "5.2 s" in page
        assert "data:image/png;base64,bmV3" in page  # base64 of the newest strip
        assert "b2xk" not in page.split("</script>")[-1]

    def test_it_is_self_contained(self, run):
        run.write_json("front.json", measured("proxy"))
        page = write_report(run.path).read_text()
        assert not re.search(
            r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["'](?!data:)""", page
        )

    def test_what_people_wrote_is_text_and_not_markup(self, run):
        page = write_report(run.path).read_text()
        assert "a=<script>" not in page
        assert "a run, &lt;ünï&gt;" in page

    def test_no_run(self, tmp_path):
        with pytest.raises(DataError, match="no run in it"):
            write_report(tmp_path)


class TestFrontFigures:
    def test_one_figure_for_each_pair_of_objectives(self):
        figures = list(front_figures(front()))
        assert [(f.layout.xaxis.title.text, f.layout.yaxis.title.text) for f in figures] == [
            ("red", "dark"),
            ("red", "calm"),
            ("dark", "calm"),
        ]

    def test_points_stand_where_the_means_are(self):
        figure = next(front_figures(front()))
        points = next(trace for trace in figure.data if trace.name == "weight vectors")
        np.testing.assert_allclose(points.x, front().mean[:, 0])
        np.testing.assert_allclose(points.error_y.array, 1.96 * front().standard_error[:, 1])

    def test_the_stored_study_is_marked(self):
        figure = next(front_figures(front(), stored()))
        assert [trace.name for trace in figure.data] == [
            "stored study: conditioned, 2 seeds",
            "this run",
            "base model",
        ]

    def test_edges_of_the_grid_run_from_one_vertex_to_the_other(self):
        edges = edges_of(front())
        assert (edges[0].start, edges[0].end) == ("red", "dark")
        # the rewards are the weights plus one noise: at the first vertex red has weight 1
        assert np.argmax(edges[0].rewards[0]) == 0
        assert np.argmax(edges[0].rewards[-1]) == 1
        assert len(edges[0].rewards) == 4

    def test_paths_are_measured_in_the_base_models_spread(self):
        small = front()
        large = replace(small, samples=1000 * small.samples, base=1000 * small.base)
        for one, other in zip(edges_of(small), edges_of(large), strict=True):
            np.testing.assert_allclose(one.rewards, other.rewards)
            np.testing.assert_allclose(one.error, other.error)
        assert np.allclose(above_base(small, small.base_mean), 0)

    def test_a_rate_of_no_image_is_drawn_as_nothing(self):
        none = EventRates("x", 0.1, Rate(0, 0), (Rate(0, 0), Rate(1, 4))).to_dict()
        figure = event_figure(none, np.eye(2), ("a", "b"))
        assert list(figure.data[0].x) == [0.0, 0.0, 25.0]

    def test_wins_are_drawn_by_objective(self):
        figure = win_figure(front().win_rates(), front().weights, front().names)
        assert [trace.name for trace in figure.data] == ["red", "dark", "calm"]
        # the base is what all have in common: an objective wins where it has weight, and ties else
        assert list(figure.data[0].x[:2]) == [100.0, 100.0]
        assert list(figure.data[0].x[-1:]) == [50.0]


class TestStoredStudy:
    def test_the_page_says_that_it_is_not_this_run(self, monkeypatch):
        own = recipe_digest(to_dict(CONFIG))
        for recipe, said in ((own, "of this run's recipe, not"), ("x", "of another recipe than")):
            monkeypatch.setattr(front_sections, "read_stored", lambda n, r=recipe: stored(recipe=r))
            first, *_ = front_sections.front_sections(measured("gold"), CONFIG)
            assert said in first.text
            assert "not this run" in first.text

    def test_it_is_drawn_beside_held_out_rewards_alone(self, monkeypatch):
        monkeypatch.setattr(front_sections, "read_stored", lambda names: stored())
        first, *_ = front_sections.front_sections(measured("proxy"), CONFIG)
        assert "stored" not in first.text

    def test_it_is_read_as_written(self):
        assert StoredFront.from_json(stored().to_json()) == stored()
        assert json.loads(stored().to_json())["format"] == 1

    def test_a_recipe_is_the_same_on_another_seed_and_device(self):
        def digest(*overrides):
            return recipe_digest(to_dict(load_config("shapes", overrides)))

        assert digest("training.seed=7", "training.accelerator=cpu") == digest()
        assert digest("training.steps=7") != digest()


class TestTrainingFigures:
    def test_effective_weights_are_shown_where_a_normalisation_changes_them(self):
        records = [{"step": n, "effective_weight/red": 0.9} for n in (1, 2)]
        assert list(effective_figure(records, ["red"]).data[0].y) == [0.9, 0.9]
        changed = replace(CONFIG, objective=replace(CONFIG.objective, normalize="group_std"))
        shown = [[s.title for s in training_sections(records, c)] for c in (CONFIG, changed)]
        assert ["Effective weights" in titles for titles in shown] == [False, True]

    def test_the_running_mean_never_looks_ahead(self):
        # of 1, 2, ..., 6 over 5: 1, 1.5, 2, 2.5, 3, 4
        found = smoothed(np.arange(1.0, 7.0))
        assert found.tolist() == [1, 1.5, 2, 2.5, 3, 4]

    def test_curves_that_nobody_logged_are_left_out(self):
        records = [{"step": 1, "reward/red": 0.1}]
        assert kl_figure(records) is None
        assert speed_figure(records) is None
        assert disagreement_figure(records, ["red"]) is None

    def test_shares_are_stacked_to_one(self):
        records = [{"step": n, "share/look/a": 0.75, "share/look/b": 0.25} for n in (1, 2)]
        figure = shares_figure(records, "look", ["a", "b"])
        assert [(t.name, list(t.y), t.stackgroup) for t in figure.data] == [
            ("a", [0.75, 0.75], "shares"),
            ("b", [0.25, 0.25], "shares"),
        ]
        assert shares_figure([{"step": 1}], "look", ["a", "b"]) is None

    def test_only_an_objective_of_several_rewards_has_a_section_of_them(self):
        config = Config(
            objective=ObjectiveConfig(
                maximize={"look": "saturation - sharpness", "dark": "contrast"}
            )
        )
        values = {"share/look/saturation": 0.6, "share/look/sharpness": 0.4}
        sections = list(training_sections([{"step": 1, **values}], config))
        titles = [found.title for found in sections if found.title.startswith("What ")]
        assert titles == ["What look is made of: saturation - sharpness"]

    def test_a_constraint_is_drawn_with_threshold_and_multiplier(self):
        records = [{"step": n, "cost/x": 0.3, "multiplier/x": 0.5} for n in (1, 2)]
        figure = constraint_figure(records, "x", 0.4)
        assert {trace.name: list(trace.y) for trace in figure.data} == {
            "batch mean": [0.3, 0.3],
            "threshold": [0.4, 0.4],
            "multiplier": [0.5, 0.5],
        }


def look(step, gap, decisions=()):
    reading = {"value": gap, "weights": "red=1", "of": "red"}
    levers = {"pessimism": 0.5, "kl_coef": 2.0, "shares": [1.0], "stopped": False}
    return {"step": step, "signals": {"gap": [reading]}, "decisions": list(decisions), **levers}


def test_a_guard_is_drawn_and_says_what_it_did():
    acted = {"rule": 1, "signal": "gap", "value": 2.5, "weights": "red=1", "of": "red"}
    (quiet,) = guard_sections([look(10, 0.1)])
    assert quiet.items == ("It never acted.",)
    (busy,) = guard_sections([look(10, 0.1), look(20, 2.5, [{**acted, "do": ["stop"]}])])
    (line,) = busy.items
    assert line.startswith("Update 20: gap of red was 2.5 at red=1, so rule 1: end the training")
    assert len(busy.figures) == 1  # nothing was read of disagreement
    figure = map_figure([look(10, 0.1), look(20, 2.5)], "gap", "SD")
    assert figure.data[0].y == ("red at red=1",)
    assert list(figure.data[0].z[0]) == [0.1, 2.5]
    assert list(guard_sections([])) == []
