"""The rules that hold the parts apart, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from morl.algorithms.facts import ALGORITHMS

ROOT = Path(__file__).parents[1]

# A layer may import itself and what stands before it.
LAYERS = (
    ("rewards",),
    (
        "morl",
        "morl.budgets",
        "morl.errors",
        "morl.option",
        "morl.prompt_sets",
        "morl.prompts",
        "morl.randomness",
        "morl.weights",
        "morl.diffusion",
        "morl.lora",
        "morl.fronts",
        "morl.guard",
    ),
    ("morl.algorithms",),
    ("morl.config",),
    ("morl.training",),
    (
        "morl.drawing",
        "morl.weight_inputs",
        "morl.inference",
        "morl.report",
        "morl.scoring",
        "morl.world",
    ),
    ("morl.cli", "morl.__main__"),
    ("experiments",),
)
# Where each heavy library may be imported; anywhere else it may serve as a type only.
HOMES = {
    "diffusers": ("morl/diffusion/",),
    "transformers": ("rewards/encoders", "rewards/scorers/", "rewards/shapes/", "morl/diffusion/"),
    "open_clip": ("rewards/encoders", "rewards/scorers/", "rewards/shapes/"),
    "httpx2": ("rewards/scorers/",),
    "lightning": ("morl/training/",),
    "peft": ("morl/lora/",),
    "pymoo": ("morl/weights.py", "morl/fronts/"),
    "torchjd": ("morl/algorithms/",),
    "moocore": ("morl/fronts/",),
    "plotly": ("morl/report",),
    "jinja2": ("morl/report",),
    "matplotlib": (),  # the studies' figures alone
    "argparse": ("morl/cli/", "morl/diffusion/shapes.py", "rewards/shapes/"),
}
# The type that is handed from part to part; what can be done with it stays at home.
PASSED_AROUND = {"diffusers.DiffusionPipeline"}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Published pickles become safetensors here, and nowhere else is one opened.
CONVERTER = "rewards/convert.py"
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save", "yaml.load", "os.system"}
JUNK = {"utils", "util", "helpers", "common", "misc", "base", "core"}
MOST_LINES = 300


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    for_types: bool


@dataclass(frozen=True)
class Source:
    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def module(self) -> str:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def calls(self) -> list[ast.Call]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]

    @cached_property
    def imports(self) -> list[Import]:
        """Every module that the source names, wherever it names it."""
        return list(_imports(self.tree, False))


def _imports(node: ast.AST, for_types: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, for_types)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: write the whole module's name"
        for alias in node.names:
            yield Import(f"{node.module}.{alias.name}", node.lineno, for_types)
    guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, for_types or guarded)


def _loads_tensors_only(call: ast.Call) -> bool:
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return ast.unparse(call.func) == "torch.load" and given.get("weights_only") == "True"


def sources(*packages: str) -> list[Source]:
    found = [p for package in packages for p in sorted((ROOT / package).rglob("*.py"))]
    return [Source(path) for path in found]


LIBRARY = sources("rewards", "morl")
EVERYTHING = [*LIBRARY, *sources("experiments")]


def layer(module: str) -> int | None:
    """The layer whose longest name the module begins with; None for other people's modules."""
    matches = [
        (len(name), index)
        for index, names in enumerate(LAYERS)
        for name in names
        if module == name or (module.startswith(name + ".") and name != "morl")
    ]
    return max(matches)[1] if matches else None


def test_the_sources_are_found():
    assert len(LIBRARY) > 40
    assert sum(len(source.imports) for source in LIBRARY) > 200


class TestEverySource:
    """Each rule lists all its offenders at once."""

    def test_it_has_a_layer_and_imports_downwards(self):
        offenders = []
        for source in EVERYTHING:
            own = layer(source.module)
            if own is None:
                offenders.append(f"{source.name} belongs to no layer: add it to LAYERS")
            # The package's front door names what it opens when asked; nothing may go through it.
            elif source.name != "morl/__init__.py":
                offenders += [
                    f"{source.name}:{found.line} imports {found.module} from above"
                    for found in source.imports
                    if (layer(found.module) or 0) > own
                ]
        assert offenders == []

    def test_heavy_libraries_stay_at_home(self):
        offenders = [
            f"{source.name}:{found.line} imports {found.module}, whose home is {homes}"
            for source in LIBRARY
            for found in source.imports
            if (homes := HOMES.get(found.module.split(".")[0]))
            and not (found.for_types or found.module in PASSED_AROUND)
            and not source.name.startswith(homes)
        ]
        assert offenders == []

    def test_nothing_can_run_code_from_a_file(self):
        offenders = [
            f"{source.name}:{found.line} imports {found.module}"
            for source in EVERYTHING
            for found in source.imports
            if found.module.split(".")[0] in UNSAFE_MODULES
        ]
        offenders += [
            f"{source.name}:{call.lineno}: {text}"
            for source in EVERYTHING
            for call in source.calls
            if (
                (text := ast.unparse(call.func)) in UNSAFE_CALLS
                or text.endswith(".load_from_checkpoint")
            )
            and not (source.name == CONVERTER and _loads_tensors_only(call))
        ]
        assert offenders == []

    def test_no_guessing_at_attributes(self):
        offenders = [
            f"{source.name}:{call.lineno}: {ast.unparse(call)}"
            for source in EVERYTHING
            for call in source.calls
            if (text := ast.unparse(call.func)) == "hasattr"
            or (text == "getattr" and len(call.args) == 3)
        ]
        assert offenders == []

    def test_no_error_is_swallowed_whole(self):
        offenders = [
            f"{source.name}:{node.lineno}"
            for source in EVERYTHING
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ExceptHandler) and node.type is None
        ]
        assert offenders == []

    def test_names_say_something_and_files_are_short(self):
        offenders = [source.name for source in EVERYTHING if source.path.stem in JUNK]
        offenders += [
            f"{source.name}: {lines} lines"
            for source in EVERYTHING
            if (lines := source.text.count("\n")) > MOST_LINES
        ]
        assert offenders == []

    def test_every_file_says_what_it_is(self):
        assert [s.name for s in EVERYTHING if s.text and not ast.get_docstring(s.tree)] == []


def test_training_names_no_algorithm():
    """A new algorithm must not need a change in the loop; regimes are named, algorithms are not."""
    names = set(ALGORITHMS) - {facts.regime for facts in ALGORITHMS.values()}
    files, classes = zip(*(f.source.split(":") for f in ALGORITHMS.values()), strict=True)
    offenders = []
    for source in sources("morl/training"):
        for node in ast.walk(source.tree):
            text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if text and node.value in names:
                offenders.append(f"{source.name}:{node.lineno}: {node.value}")
            if isinstance(node, ast.Name) and node.id in classes:
                offenders.append(f"{source.name}:{node.lineno}: {node.id}")
        offenders += [
            f"{source.name}:{found.line}: {found.module}"
            for found in source.imports
            if found.module.startswith(files)
        ]
    assert offenders == []


@pytest.mark.parametrize(
    "module",
    [
        "morl",
        "morl.algorithms.facts",
        "morl.cli.main",
        "morl.config",
        "morl.config.plan",
        "morl.prompts",
        "rewards",
        "rewards.facts_table",
        "rewards.objective",
        "rewards.registry",
    ],
)
def test_listing_and_checking_import_no_torch(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_both_packages_are_typed():
    assert (ROOT / "morl" / "py.typed").is_file()
    assert (ROOT / "rewards" / "py.typed").is_file()


def test_shapes_are_checked_while_tests_run():
    import torch
    from jaxtyping import TypeCheckError

    from rewards.reward import Scores

    with pytest.raises(TypeCheckError):
        Scores(torch.zeros(3), torch.zeros(2, dtype=torch.bool))
