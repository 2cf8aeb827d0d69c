"""What cannot work is named before anything loads, all in one go."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from morl.config import check, load_config, recipe_names, require
from morl.config.write import to_yaml
from morl.errors import ConfigError, DataError

GROUPS = ("algorithm.name=policy_gradient", "training.batch_size=64")


def found(*overrides):
    return check(load_config("shapes", overrides))


def only(*overrides):
    (problem,) = found(*overrides)
    return problem


def maximize(objectives):
    """Other objectives, which the recipe's held-out measures do not judge."""
    return (f"objective.maximize={objectives}", "evaluation.held_out={}", "evaluation.axes={}")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red star\n")
    return path


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_packaged_recipe_is_fine(recipe):
    assert check(load_config(recipe)) == []
    require(load_config(recipe))


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name.startswith("shapes_")])
def test_recipes_of_the_world_differ_in_algorithm_and_training_alone(recipe):
    main, other = load_config("shapes"), load_config(recipe)
    assert other.algorithm.name != main.algorithm.name
    assert replace(other, algorithm=main.algorithm, training=main.training) == main


class TestEncoders:
    def test_settings_are_read_by_name(self):
        chosen = "objective.encoders={clip_vit_l_14: {dtype: bfloat16, micro_batch: 8}}"
        settings = load_config("shapes", [chosen]).objective.encoders["clip_vit_l_14"]
        assert (settings.dtype, settings.micro_batch, settings.pixels) == (
            "bfloat16",
            8,
            "differentiable",
        )
        assert found(chosen) == []

    def test_an_unknown_encoder_names_the_nearest(self):
        problem = only("objective.encoders={clip_vit_l14: {}}")
        assert problem.startswith("objective.encoders: unknown encoder")
        assert "nearest: 'clip_vit_l_14'" in problem

    def test_a_folder_must_be_there(self):
        problem = only("objective.encoders={hpsv2: {folder: /no/such/folder}}")
        assert "'/no/such/folder'" in problem

    def test_an_unknown_key_is_an_error(self):
        with pytest.raises(ConfigError, match="nearest: 'micro_batch'"):
            load_config("shapes", ["objective.encoders={hpsv2: {microbatch: 2}}"])


class TestJudgesAndInstruments:
    JUDGED = "objective.maximize={a: vlm_judge, b: geneval}"
    JUDGE = "objective.judges={vlm_judge: {url: 'http://127.0.0.1:8000/v1', model: m}}"
    DETECTOR = "objective.instruments={detector: 'own.py:Find'}"

    def test_settings_are_read_by_name(self):
        judge = load_config("shapes", [self.JUDGE, self.DETECTOR]).objective.judges["vlm_judge"]
        assert (judge.url, judge.timeout_s) == ("http://127.0.0.1:8000/v1", 60.0)

    def test_what_a_reward_needs_must_be_named(self):
        problems = [p for p in found(self.JUDGED) if p.startswith("objective.")]
        assert [p.partition(":")[0] for p in problems] == [
            "objective.judges.vlm_judge",
            "objective.instruments.detector",
        ]
        named = found(self.JUDGED, self.JUDGE, self.DETECTOR)
        assert not [p for p in named if p.startswith("objective.")]

    def test_a_record_that_no_prompt_has_is_missed_before_anything_loads(self, tmp_path):
        with_record, without = tmp_path / "with.jsonl", tmp_path / "without.jsonl"
        with_record.write_text('{"prompt": "a", "tag": "counting", "include": []}')
        without.write_text('{"prompt": "b", "tag": "counting"}')
        problems = found(
            "objective.maximize={found: geneval, red: saturation}",
            self.DETECTOR,
            f"prompts.train={without}",
            f"prompts.held_out={with_record}",
        )
        said = [p for p in problems if p.startswith("prompts.")]
        assert len(said) == 1
        assert "prompts.train: geneval reads 'include' of each prompt's record" in said[0]

    def test_every_mistake_is_said(self):
        problems = found(
            "objective.judges={vlm_jugde: {model: m}}",
            "objective.instruments={detektor: 'own.py:Find', recogniser: read}",
        )
        assert len(problems) == 4
        assert "nearest: 'vlm_judge'" in problems[0]
        assert "`url` must be http://" in problems[1]
        assert "nearest: 'detector'" in problems[2]
        assert "path/to/file.py:name" in problems[3]

    def test_the_resolved_configuration_reads_back(self, tmp_path):
        config = load_config("shapes", [self.JUDGE, self.DETECTOR])
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        assert load_config(tmp_path / "config.yaml") == config


class TestObjective:
    def test_no_objective(self):
        assert "names no objective" in only("objective.maximize={}", "objective.subject_to=[]")

    def test_an_unknown_reward_names_the_nearest(self):
        problem = only(*maximize("{a: shapes_asthetic, b: sharpness}"))
        assert "'shapes_asthetic'" in problem
        assert "nearest: 'shapes_aesthetic'" in problem

    def test_a_lower_is_better_reward_is_not_maximised(self):
        problem = only(*maximize("{a: shapes_unsafe, b: sharpness}"))
        assert "-R" in problem or "-shapes_unsafe" in problem

    def test_an_expression_that_does_not_parse(self):
        assert "objective" in only(*maximize("{a: 'sharpness +', b: sharpness}"))

    def test_what_cannot_be_computed_is_said_all_at_once_with_its_key(self):
        problems = found(
            *maximize(
                "{a: brightness / contrast, b: 0 * sharpness, c: 1 + 2, "
                "d: 'where(saturation <= 2, contrast, 0)', e: no_such_module.f(contrast)}"
            )
        )
        for key, said in {
            "a": "may divide by zero",
            "b": "whatever the images",
            "c": "reads no reward",
            "d": "always holds",
            "e": "there is no module 'no_such_module'",
        }.items():
            assert any(f"maximize.{key}: " in line and said in line for line in problems), key

    def test_a_constraint_that_does_not_compare(self):
        assert "objective" in only("objective.subject_to=[shapes_unsafe]")

    def test_an_unknown_scalarisation_names_the_nearest(self):
        assert "linear" in only("objective.scalarization=liner")

    def test_gold_never_trains_unless_that_is_meant(self):
        overrides = (*maximize("{a: gold_alignment, b: sharpness}"), *GROUPS)
        assert "gold_alignment is a gold measure" in only(*overrides)
        assert found(*overrides, "objective.allow_gold=true") == []


class TestUnits:
    def test_a_group_to_divide_by(self):
        problem = only("objective.normalize=group_std")
        assert "draft has no groups" in problem
        assert "policy_gradient, nft" in problem
        assert found("objective.normalize=group_std", *GROUPS) == []

    def test_one_advantage_for_all_is_divided_by_nothing(self):
        problem = only("objective.normalize=group_std", "objective.on=sample", *GROUPS)
        assert "use on: mean, or normalize: base" in problem

    def test_a_raw_sum_is_linear(self):
        problem = only(
            "objective.normalize=group_std_sum", "objective.scalarization=chebyshev", *GROUPS
        )
        assert "needs scalarization: linear; got chebyshev" in problem

    def test_a_tail_is_a_share(self):
        with pytest.raises(ConfigError, match=r"objective\.tail.* above 0 and at most 1"):
            load_config("shapes", ["objective.tail=0"])


class TestAggregation:
    def test_it_needs_gradients_of_rewards(self):
        assert found("objective.aggregation=upgrad") == []
        problem = only("objective.aggregation=upgrad", *GROUPS)
        assert problem.startswith("objective.aggregation: gradients of single objectives")

    def test_one_process(self):
        problem = only("objective.aggregation=mgda", "training.devices=2")
        assert "needs training.devices = 1; got 2" in problem

    def test_names(self):
        assert "nearest: 'upgrad'" in only("objective.aggregation=upgrd")
        assert "its extra `nash_mtl`" in only("objective.aggregation=nash_mtl")


class TestRouting:
    def files(self, tmp_path, record):
        (tmp_path / "with.jsonl").write_text(json.dumps({"prompt": "a sign", "text": "SALE"}))
        (tmp_path / "other.jsonl").write_text(json.dumps({"prompt": "a", **record}))
        return (f"prompts.train={tmp_path}/with.jsonl", f"prompts.held_out={tmp_path}/other.jsonl")

    def test_a_rule_that_some_prompt_matches(self, tmp_path):
        files = self.files(tmp_path, {"text": "OPEN"})
        assert found("objective.applies={aesthetic: text}", *files) == []

    def test_a_rule_that_none_matches(self, tmp_path):
        problem = only("objective.applies={aesthetic: text}", *self.files(tmp_path, {}))
        assert problem.startswith("prompts.held_out: objective.applies.aesthetic: no prompt's")

    def test_a_rule_for_nobody(self, tmp_path):
        files = self.files(tmp_path, {"text": "OPEN"})
        problem = only("objective.applies={asthetic: text}", *files)
        assert "applies.asthetic: no such objective; nearest: 'aesthetic'" in problem


class TestAlgorithm:
    def test_a_reward_without_gradients_and_an_algorithm_that_needs_them(self):
        problem = only(*maximize("{a: jpeg_compressibility, b: sharpness}"))
        assert "draft needs gradients" in problem
        assert "jpeg_compressibility has none" in problem
        assert "policy_gradient, nft" in problem

    def test_a_rank_ends_a_gradient_and_a_condition_needs_none(self):
        ranked = maximize("{a: brightness + rank(sharpness), b: sharpness}")
        assert "rank(sharpness) has none" in only(*ranked)
        assert found(*ranked, *GROUPS) == []
        decided = "{a: 'where(jpeg_compressibility <= -1, brightness, 0)', b: sharpness}"
        assert found(*maximize(decided)) == []

    def test_the_same_reward_and_an_algorithm_that_needs_none(self):
        assert found(*maximize("{a: jpeg_compressibility, b: sharpness}"), *GROUPS) == []

    def test_a_constraint_without_gradients_counts_too(self):
        constraint = "objective.subject_to=[jpeg_compressibility >= -9]"
        assert "jpeg_compressibility has none" in only(constraint, "evaluation.held_out={}")

    def test_a_batch_that_groups_do_not_divide(self):
        # 8 x 2 = 16 images a prompt
        problem = only(*GROUPS, "training.batch_size=40")
        assert "group_size x weights_per_prompt = 8 x 2 = 16; got 40 (nearest: 32 or 48)" in problem
        assert "nearest: 16)" in only(*GROUPS, "training.batch_size=4")

    def test_more_differentiated_steps_than_steps(self):
        problem = only("algorithm.last_steps=20", "algorithm.renoise_copies=0")
        assert "must be at most base.steps = 10; got 20" in problem

    def test_renoised_copies_of_several_steps(self):
        found = only(
            "algorithm.last_steps=2", "algorithm.drawn_steps=0", "algorithm.renoise_copies=1"
        )
        assert "renoise_copies: 0" in found

    def test_more_drawn_steps_than_last_steps(self):
        found = only("algorithm.last_steps=2", "algorithm.drawn_steps=3")
        assert "must be at most algorithm.last_steps = 2; got 3" in found

    def test_a_share_of_less_than_one_step(self):
        assert "the least is 0.1" in only(*GROUPS, "algorithm.timestep_fraction=0.05")


def test_what_the_adapter_refuses_is_named_with_its_section():
    refused = only("adapter.core=experts", "adapter.rank=8")
    assert "adapter.rank: must be a multiple of the 3" in refused


class TestRegion:
    def test_part_of_the_simplex(self):
        assert found("weights.low={aesthetic: 0.2}", "weights.high={alignment: 0.5}") == []

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["weights.vertex=0.7", "weights.edge=0.7"], "more than 1 together"),
            (["weights.low.asthetic=0.1"], "no such objective; nearest: 'aesthetic'"),
            (["weights.low={aesthetic: 0.6, alignment: 0.6}"], "the sum of low is 1.2"),
            (
                ["weights.high={aesthetic: 0.3, alignment: 0.3, preference: 0.3}"],
                "the sum of high 0.9",
            ),
            (
                ["weights.low={aesthetic: 0.4}", "weights.high={aesthetic: 0.2}"],
                "low of aesthetic (0.4) lies above its high (0.2)",
            ),
            (["weights.low={aesthetic: -1}"], "must lie in [0, 1]; got -1"),
        ],
    )
    def test_an_impossible_region(self, overrides, message):
        assert message in only(*overrides)


class TestEvaluation:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("evaluation.held_out.asthetic=gold_aesthetic", "nearest: 'aesthetic'"),
            ("evaluation.held_out.aesthetic=gold_asthetic", "nearest: 'gold_aesthetic'"),
            ("evaluation.held_out.aesthetic='gold_aesthetic +'", "evaluation.held_out.aesthetic: "),
            ("evaluation.held_out={aesthetic: sharpness}", "no measure for alignment, preference"),
            ("evaluation.axes.asthetic=[0, 1]", "nearest: 'aesthetic'"),
            ("evaluation.axes.aesthetic=[1, 0]", "must be [nadir, ideal], the lower first"),
            ("evaluation.axes.aesthetic=[1]", "must be [nadir, ideal], the lower first"),
        ],
    )
    def test_held_out_measures_and_axes(self, override, message):
        assert message in only(override)

    def test_none_at_all_is_fine(self):
        assert found("evaluation.held_out={}") == []


class TestFiles:
    def test_a_prompt_file(self, prompts):
        assert found(f"prompts.train={prompts}") == []

    def test_a_missing_one_is_a_data_error(self):
        config = load_config("shapes", ["prompts.train=none.txt"])
        assert "no such file" in check(config)[0]
        with pytest.raises(DataError, match=r"prompts\.train"):
            require(config)

    def test_bytes_that_are_not_text(self, prompts):
        prompts.write_bytes(b"fine\ncaf\xe9\n")
        assert "line 2: byte 0xe9" in only(f"prompts.held_out={prompts}")

    def test_evaluating_on_the_training_prompts(self, prompts):
        problem = only(f"prompts.train={prompts}", f"prompts.held_out={prompts}")
        assert "evaluation needs unseen prompts" in problem

    def test_a_missing_adapter(self):
        assert "adapter.init_from: no such file" in only("adapter.init_from=none.safetensors")

    def test_a_model_that_is_nowhere(self):
        assert "base.model: got 'shaeps'" in only("base.model=shaeps")

    def test_a_folder_that_is_no_pipeline(self, tmp_path):
        assert "no model_index.json" in only(f"base.model={tmp_path}")

    def test_a_single_file_and_what_describes_it(self, tmp_path):
        file = tmp_path / "model.safetensors"
        file.touch()
        chosen = f"base.model={file}"
        assert found(chosen) == []
        assert found(chosen, "base.config=org/name") == []
        assert "base.config: got 'nowhere'" in only(chosen, "base.config=nowhere")
        assert "base.config: " in only(chosen, f"base.config={tmp_path}")
        assert "describes a single file" in only("base.config=org/name")

    def test_a_hub_id_is_not_looked_up(self):
        assert found("base.model=stable-diffusion-v1-5/stable-diffusion-v1-5") == []


def test_all_problems_in_one_go():
    overrides = (
        "objective.maximize={a: jpeg_compressibility, b: nonsense}",
        "objective.subject_to=[]",
        "weights.vertex=1",
        "weights.low.c=0.5",
        "algorithm.last_steps=20",
        "prompts.train=none.txt",
        "base.model=nowhere",
    )
    problems = found(*overrides)
    for word in ("nonsense", "jpeg", "vertex", "low.c", "last_steps", "none.txt", "nowhere"):
        assert any(word in problem for problem in problems), word
    with pytest.raises(ConfigError) as error:
        require(load_config("shapes", overrides))
    assert error.value.problems == problems


def test_a_check_takes_no_second_and_loads_no_torch():
    code = (
        "import sys, time; from morl.config import check, load_config; start = time.monotonic();"
        "problems = check(load_config('shapes'));"
        "print(problems, 'torch' in sys.modules, time.monotonic() - start < 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["[]", "False", "True"]
