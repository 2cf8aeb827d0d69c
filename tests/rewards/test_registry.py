"""Rewards by name, by dotted path, by file, by entry point; facts without imports."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

from rewards import R, maximize, register
from rewards.errors import UnknownRewardError
from rewards.facts_table import FACTS
from rewards.function_reward import FunctionReward
from rewards.objective import Objective
from rewards.registry import BrokenEntryPointWarning, available, build, facts_of
from rewards.reward import ImageBatch, Scores
from rewards.scorers.quality import Brightness

# A user's own reward, in ten lines.
OWN = """
from rewards import register


@register(category="aesthetic", low=-1, high=1, differentiable=True)
def warmth(images, prompts):
    "Mean red minus mean blue."
    return (images[:, 0] - images[:, 2]).mean(dim=(1, 2))
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory of the user's; what it brings to the import system goes with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


class TestOwnReward:
    def test_from_python(self, batch):
        @register(category="aesthetic", low=-1, high=1, differentiable=True)
        def warmth(images, prompts):
            """Mean red minus mean blue."""
            return (images[:, 0] - images[:, 2]).mean(dim=(1, 2))

        table = maximize(warm=R(warmth)).bind()(batch)
        # black, white: 0; red: 1 - 0
        assert table.rewards[:3, 0].tolist() == [0.0, 0.0, 1.0]
        assert warmth(batch.images, batch.prompts)[2] == 1  # still the function it was
        assert warmth.__name__ == "warmth"
        assert warmth.facts.summary == "Mean red minus mean blue."

    @pytest.mark.parametrize(
        "name", ["own_rewards_a.warmth", "R('own_rewards_a:warmth')", "own_rewards_a.py:warmth"]
    )
    def test_from_yaml(self, here, batch, name):
        write(here / "own_rewards_a.py", OWN)
        config = yaml.safe_load(f"maximize:\n  warm: 0.5 * {name} + 0.5")
        objective = Objective.from_dict(config)
        assert objective.problems() == []
        assert objective.undifferentiable() == []
        assert Objective.from_dict(objective.to_dict()) == objective
        # 0.5 x (0, 0, 1) + 0.5
        assert objective.bind()(batch).rewards[:3, 0].tolist() == [0.5, 0.5, 1.0]

    def test_by_a_file_elsewhere(self, here, batch):
        path = write(here / "elsewhere" / "my-rewards.py", OWN)
        reward = build(f"{path}:warmth")
        assert reward.name == f"{path}:warmth"
        assert reward.score(batch).values[2] == 1
        relative = maximize(warm=R("elsewhere/my-rewards.py:warmth")).bind()
        assert relative(batch).rewards[2, 0] == 1

    def test_in_a_package_and_below_a_class(self, here):
        write(here / "own_package_a" / "__init__.py", "")
        write(here / "own_package_a" / "warm.py", OWN)
        assert facts_of("own_package_a.warm.warmth").category == "aesthetic"

    def test_a_module_that_needs_a_neighbour_and_dataclasses(self, here):
        write(here / "own_neighbour.py", "SCALE = 3.0")
        source = """
            from __future__ import annotations
            from dataclasses import dataclass
            from typing import ClassVar
            from rewards import register
            import own_neighbour

            @dataclass
            class Settings:
                kind: ClassVar[str] = "x"
                scale: float = own_neighbour.SCALE

            @register
            def scaled(images, prompts):
                return Settings().scale * images.mean((1, 2, 3))
            """
        write(here / "own_rewards_b.py", source)
        batch = ImageBatch(torch.ones(1, 3, 4, 4), ["x"])
        assert build("own_rewards_b.scaled").score(batch).values.item() == 3.0
        assert build("./own_rewards_b.py:scaled").score(batch).values.item() == 3.0

    def test_a_file_never_shadows_a_library(self, here, monkeypatch):
        monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
        write(here / "tabnanny.py", "raise RuntimeError('the wrong module')")
        write(here / "own_rewards_c.py", "import tabnanny\n" + OWN)
        assert facts_of("own_rewards_c.warmth").category == "aesthetic"

    def test_a_reward_class_by_path(self):
        reward = build("rewards.scorers.quality.Brightness")
        assert isinstance(reward, Brightness)
        assert facts_of("rewards.scorers.quality:Brightness").differentiable

    def test_scores_where_it_applies(self, batch):
        @register
        def only_red(images, prompts):
            return Scores(images[:, 0].mean((1, 2)), torch.tensor([p == "red" for p in prompts]))

        table = maximize(red=R(only_red)).bind()(batch)
        assert table.reward_valid[:, 0].tolist() == [False, False, True, False]
        assert table.rewards[:, 0].tolist() == [0.0, 0.0, 1.0, 0.0]

    def test_only_a_differentiable_one_sees_the_graph(self):
        seen = []

        def probe(images, prompts):
            seen.append(images.requires_grad)
            return images.mean((1, 2, 3))

        images = torch.rand(1, 3, 4, 4, requires_grad=True)
        for differentiable in (True, False):
            declared = register(differentiable=differentiable)(probe)
            scores = FunctionReward(declared).score(ImageBatch(images, ["x"]))
            assert scores.values.requires_grad == differentiable
        assert seen == [True, False]


class TestRegister:
    def test_a_named_one_is_found_and_listed(self, batch):
        @register(name="registry_test_red", low=0, high=1)
        def red(images, prompts):
            """Mean red.

            More words.
            """
            return images[:, 0].mean((1, 2))

        assert available()["registry_test_red"].summary == "Mean red."
        assert facts_of("registry_test_red").low == 0
        assert build("registry_test_red").score(batch).values[2] == 1
        assert str(R(red)) == "registry_test_red"

    def test_the_same_function_again_replaces_it(self):
        # A notebook cell that runs twice
        def declare(summary):
            @register(name="registry_test_again", summary=summary)
            def score(images, prompts): ...

        declare("first")
        declare("second")
        assert facts_of("registry_test_again").summary == "second"

    def test_another_function_of_that_name_does_not(self):
        @register(name="registry_test_taken")
        def first(images, prompts): ...

        with pytest.raises(ValueError, match="a reward named 'registry_test_taken' exists already"):

            @register(name="registry_test_taken")
            def second(images, prompts): ...

    def test_a_built_in_name_is_taken(self):
        with pytest.raises(ValueError, match="'brightness' exists already; choose another `name`"):
            register(name="brightness")(lambda images, prompts: None)

    @pytest.mark.usefixtures("unchecked")
    def test_category(self):
        message = "unknown `category` 'aesthetics'; nearest: 'aesthetic'"
        with pytest.raises(ValueError, match=message):
            register(category="aesthetics")

    @pytest.mark.parametrize(("low", "high"), [(1, 0), (1, 1), (float("nan"), 1)])
    def test_bounds(self, low, high):
        with pytest.raises(ValueError, match="`low` must be below `high`; got "):
            register(low=low, high=high)


class TestUnknown:
    @pytest.mark.parametrize("ask", [facts_of, build])
    def test_nearest_names(self, ask):
        message = "unknown reward 'brighness'; nearest: 'brightness'.*; known: .*colorfulness"
        with pytest.raises(UnknownRewardError, match=message):
            ask("brighness")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_such_module.f", "no module 'no_such_module', neither in .* nor installed"),
            ("rewards.nothing.f", r"no module 'rewards\.nothing'"),
            ("rewards.registry.regster", "rewards.registry has no 'regster'; nearest: 'register'"),
            ("rewards.registry.register", "is a function, not a reward; put @rewards.register"),
            ("nowhere/file.py:f", "there is no file .*nowhere/file.py"),
            ("own_folder.py:f", "there is no file .*own_folder.py"),
            (".f", r"a path is module.function or path/to/file.py:function"),
            ("f.", r"a path is module.function"),
            (":f", r"a path is module.function"),
            ("f:", r"a path is module.function"),
            (".", r"a path is module.function"),
            ("..f", "reward '..f': "),
            (".py:f", "there is no file"),
            ("a b.c", "no module 'a b'"),
        ],
    )
    def test_paths(self, here, name, message):
        (here / "own_folder.py").mkdir()
        with pytest.raises(UnknownRewardError, match=message):
            facts_of(name)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("def f(:", "failed with SyntaxError: "),
            ("1 / 0", "failed with ZeroDivisionError: division by zero"),
            ("import no_such_thing", "failed with ModuleNotFoundError: .*no_such_thing"),
            ("from rewards import nothing", "failed with ImportError: "),
        ],
    )
    def test_code_that_does_not_run(self, here, source, message):
        write(here / "own_broken.py", source)
        for name in ("own_broken.f", "own_broken.py:f"):
            with pytest.raises(UnknownRewardError, match=f"reward '{name}': importing .*{message}"):
                facts_of(name)

    def test_code_may_be_mended(self, here):
        path = write(here / "own_mended.py", "1 / 0")
        for name in ("own_mended.warmth", "own_mended.py:warmth"):
            with pytest.raises(UnknownRewardError):
                facts_of(name)
        path.write_text(OWN, encoding="utf-8")
        for name in ("own_mended.warmth", "own_mended.py:warmth"):
            assert facts_of(name).high == 1


class TestEntryPoints:
    """An installed package announces rewards in its metadata."""

    @pytest.fixture
    def installed(self, here) -> Path:
        site = here / "site"
        write(site / "own_plugin.py", OWN)
        write(
            site / "own_plugin-1.0.dist-info" / "METADATA",
            "Metadata-Version: 2.1\nName: own-plugin\nVersion: 1.0\n",
        )
        write(
            site / "own_plugin-1.0.dist-info" / "entry_points.txt",
            "[morl.rewards]\nplugin_warmth = own_plugin:warmth\n",
        )
        sys.path.append(str(site))
        return site

    def test_is_listed_and_built(self, installed, batch):
        assert available()["plugin_warmth"].category == "aesthetic"
        assert facts_of("plugin_warmth").name == "plugin_warmth"
        table = maximize(warm=R("plugin_warmth")).bind()(batch)
        assert table.rewards[2, 0] == 1

    def test_a_broken_one_is_warned_about_and_hides_no_other(self, installed):
        path = installed / "own_plugin-1.0.dist-info" / "entry_points.txt"
        path.write_text(
            "[morl.rewards]\nplugin_warmth = own_plugin:warmth\nplugin_gone = own_plugin:gone\n"
        )
        with pytest.warns(BrokenEntryPointWarning, match="own_plugin has no 'gone'"):
            found = available()
        assert "plugin_warmth" in found
        assert "plugin_gone" not in found


class TestTable:
    def test_lists_every_row(self):
        assert available().items() >= FACTS.items()

    def test_listing_composing_and_checking_import_no_torch(self, tmp_path):
        code = """
            import sys
            import rewards
            from rewards import R, available, ensemble, maximize, min_

            available()
            objective = (
                maximize(
                    look=0.5 * R("contrast") + R("colorfulness").clip(0, 1),
                    safe=-R("shapes_unsafe"),
                    both=ensemble(R("brightness"), R("saturation")).calibrated(),
                )
                .subject_to(min_(R("sharpness"), 1) <= 0.3, R("gold_unsafe") <= 0.03)
                .scalarize("smooth_chebyshev", mu=0.05)
                .pessimistic(1.0)
            )
            assert rewards.Objective.from_dict(objective.to_dict()) == objective
            assert objective.problems() == []
            assert objective.undifferentiable() == ["gold_unsafe"]
            try:
                maximize(a=R("brighness"))
            except rewards.errors.ExpressionError as error:
                assert "brightness" in str(error)
            print(sorted({"torch", "numpy", "PIL", "diffusers"} & set(sys.modules)))
            """
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[]"
