"""From YAML to the typed tree: recipes, overrides, and every problem in one go."""

from __future__ import annotations

import dataclasses
import typing

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from morl.algorithms.facts import ALGORITHMS
from morl.algorithms.settings import NFTSettings, PolicyGradientSettings
from morl.config import Config, load_config, recipe_names, to_yaml
from morl.config.write import annotated
from morl.errors import ConfigError
from morl.option import option_of


@pytest.fixture
def load(tmp_path):
    def load_text(text, *overrides):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return load_text


def problems(load, text, *overrides):
    with pytest.raises(ConfigError) as error:
        load(text, *overrides)
    return error.value.problems


class TestSources:
    def test_recipes_are_found_by_name(self):
        assert "shapes" in recipe_names()
        assert load_config("shapes").names == ("aesthetic", "alignment", "preference")

    def test_a_run_directory_is_its_own_recipe(self, tmp_path):
        (tmp_path / "config.yaml").write_text("training: {steps: 3}")
        assert load_config(tmp_path).training.steps == 3

    def test_an_unknown_recipe_names_the_nearest(self):
        with pytest.raises(ConfigError, match="is called 'shpes'; nearest: 'shapes'"):
            load_config("shpes")

    def test_a_missing_file_says_where_it_was_looked_for(self):
        with pytest.raises(ConfigError, match=r"no such file: my/own\.yaml \(looked in /"):
            load_config("my/own.yaml")

    def test_nothing_given_means_the_defaults(self, load):
        assert load("") == Config()
        assert load("training:\nobjective:\n") == Config()


class TestValues:
    def test_sections_and_their_types(self, load):
        config = load(
            "objective:\n"
            "  maximize: {b: sharpness, a: 0.5 * saturation}\n"
            "  subject_to: [brightness <= 0.9]\n"
            "  on: sample\n"
            "algorithm: {name: nft, beta: 0.1}\n"
            "adapter: {targets: [to_q, to_k]}\n"
            "training: {learning_rate: 1e-3}\n"
            "evaluation: {guidance: 2}\n"
        )
        assert config.names == ("b", "a")  # as written: the order of the weight vector
        assert config.algorithm == NFTSettings(beta=0.1)
        assert config.adapter.targets == ["to_q", "to_k"]
        assert config.training.learning_rate == 1e-3
        assert config.evaluation.guidance == 2.0
        assert type(config.evaluation.guidance) is float

    def test_overrides_win_and_reach_everywhere(self, load):
        config = load(
            "training: {steps: 5}",
            "training.steps=7",
            "objective.maximize.new=sharpness",
            "algorithm.name=policy_gradient",
            "algorithm.group_size=4",
            "adapter.targets=[to_v]",
        )
        assert config.training.steps == 7
        assert config.names == ("new",)
        assert config.algorithm == PolicyGradientSettings(group_size=4)
        assert config.adapter.targets == ["to_v"]

    def test_another_algorithm_drops_the_settings_of_the_first(self, load):
        text = "algorithm: {name: draft, last_steps: 2}"
        assert load(text, "algorithm.name=nft").algorithm == NFTSettings()
        assert load(text, "algorithm.name=draft").algorithm.last_steps == 2

    def test_the_defaults_are_not_shared(self, load):
        load("").objective.maximize["a"] = "x"
        assert load("").objective.maximize == {}


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("trainign: {}", "trainign: unknown key; nearest: 'training'"),
            ("training:\n  stesp: 3", "training.stesp: unknown key; nearest: 'steps'"),
            ("training: {steps: many}", "training.steps: must be a whole number; got 'many'"),
            ("training: {steps: 1.5}", "training.steps: must be a whole number; got 1.5"),
            ("training: {steps: true}", "training.steps: must be a whole number; got True"),
            ("training: {steps: -1}", "training.steps: must be at least 0; got -1"),
            ("training: {learning_rate: 0}", "learning_rate: must be above 0; got 0"),
            ("training: {learning_rate: .nan}", "learning_rate: must be above 0; got nan"),
            ("training: {learning_rate: .inf}", "learning_rate: must be above 0; got inf"),
            ("training: {ema: 1}", "training.ema: must be at least 0 and below 1; got 1.0"),
            ("training: 3", "training: must be a section of keys; got 3"),
            ("base: {dtype: fp32}", "base.dtype: got 'fp32'; nearest: 'float32'"),
            ("base: {model: 3}", "base.model: must be text; got 3 (put it in quotes)"),
            ("base: {revision: 1234567}", "base.revision: must be text; got 1234567"),
            ("evaluation: {steps: x}", "evaluation.steps: must be"),
            ("objective: {maximize: [a]}", "must be a section of name: value; got ['a']"),
            ("objective: {subject_to: a}", "objective.subject_to: must be a list; got 'a'"),
            ("weights: {low: {a: x}}", "weights.low.a: must be a number; got 'x'"),
            ("algorithm: {name: drat}", "algorithm.name: must name an algorithm; got 'drat'; near"),
            ("algorithm: {beta: 1}", "algorithm.name: must name an algorithm; got None"),
            ("algorithm: draft", "algorithm.name: must name an algorithm; got None"),
            (
                "algorithm: {name: draft, beta: 1}",
                "algorithm.beta: unknown key; known: drawn_steps, kl_coef, last_steps, "
                "renoise_copies",
            ),
        ],
    )
    def test_each_is_named_with_its_key(self, load, text, message):
        (problem,) = problems(load, text)
        assert message in problem

    def test_with_its_line_or_override(self, load):
        found = problems(load, "base:\n  steps: 0\n", "training.stesp=1")
        assert found[0].endswith("(c.yaml:2)")
        assert found[1].endswith("(--set training.stesp=1)")

    def test_all_in_one_go(self, load):
        text = "trainign: 1\nbase: {steps: x, dtype: y}\nalgorithm: {name: z}\n"
        assert len(problems(load, text, "no equals", "=1", "base.steps.x=1", "a=[")) == 8

    def test_an_override_that_cannot_be_written(self, load):
        assert "write key=value" in problems(load, "", "training.steps")[0]
        assert "'steps' is a value" in problems(load, "base: {steps: 1}", "base.steps.x=1")[0]


class TestRoundTrip:
    @pytest.mark.parametrize("write", [to_yaml, annotated])
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_what_is_written_is_read_back(self, load, write, algorithm):
        config = load(
            "objective: {maximize: {on: a, 'yes': '1'}, subject_to: ['x <= 0.1'], on: sample}\n"
            "weights: {low: {on: 0.1}}\nadapter: {targets: [to_q]}\nevaluation: {steps: 3}\n"
            "training: {learning_rate: 1e-05}\n",
            f"algorithm.name={algorithm}",
        )
        assert load(write(config)) == config

    @settings(max_examples=20)
    @given(
        learning_rate=st.floats(1e-12, 1e6),
        model=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=9),
        names=st.lists(st.text("on yes1.5-:#é", min_size=1, max_size=5), unique=True, max_size=4),
    )
    def test_any_value_survives(self, tmp_path_factory, learning_rate, model, names):
        config = Config()
        config = dataclasses.replace(
            config,
            base=dataclasses.replace(config.base, model=model),
            objective=dataclasses.replace(config.objective, maximize=dict.fromkeys(names, "a")),
            training=dataclasses.replace(config.training, learning_rate=learning_rate),
        )
        for write in (to_yaml, annotated):
            path = tmp_path_factory.getbasetemp() / "any.yaml"
            path.write_text(write(config))
            assert load_config(path) == config

    def test_other_readers_of_yaml_see_the_same_values(self):
        plain = yaml.safe_load(to_yaml(load_config("shapes")))
        assert plain["objective"]["on"] == "mean"
        assert plain["algorithm"]["name"] == "draft"


class TestDocumented:
    def sections(self):
        trees = [f.default_factory for f in dataclasses.fields(Config) if f.name != "algorithm"]
        return [*trees, *(facts.settings for facts in ALGORITHMS.values())]

    def test_every_setting_says_what_it_means_and_its_default_is_allowed(self):
        for section in self.sections():
            for field in dataclasses.fields(section):
                said = option_of(field)
                assert len(said.meaning) > 8, f"{section.__name__}.{field.name}"
                default = getattr(section(), field.name)
                assert said.problem(default) is None, f"{section.__name__}.{field.name}"

    def test_every_hyperparameter_names_its_source(self):
        for facts in ALGORITHMS.values():
            for field in dataclasses.fields(facts.settings):
                assert option_of(field).source, f"{facts.name}.{field.name}"

    def test_defaults_have_their_declared_type(self):
        numbers = {int: int, float: float, bool: bool, str: str}
        for section in self.sections():
            for name, hint in typing.get_type_hints(section).items():
                if hint in numbers:
                    assert type(getattr(section(), name)) is numbers[hint], f"{section}.{name}"
