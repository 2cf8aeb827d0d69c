"""The READMEs do what they say: code runs, configurations check, commands parse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from morl.cli.main import build_parser, main

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "rewards" / "README.md")
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
SHOWN_ONLY = "notest"  # needs a trained run; it is compiled, and the slider's own tests run it


@dataclass(frozen=True)
class Block:
    """One fenced block; `comment` is the HTML comment on the line before it."""

    language: str
    text: str
    comment: str

    @property
    def file(self) -> str | None:
        """The file that the block says it is: its first line is `# name.py` or `# name.yaml`."""
        found = re.match(r"# ([\w.]+\.(?:py|yaml))\b", self.text)
        return found[1] if found else None


def blocks(*languages: str) -> list[Block]:
    fences = re.finditer(
        r"(?:^<!-- (?P<comment>\S+) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
        TEXT,
        re.MULTILINE | re.DOTALL,
    )
    found = [Block(m["language"], m["text"], m["comment"] or "") for m in fences]
    return [block for block in found if block.language in languages]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder that holds the files which the README shows."""
    for block in blocks("python", "yaml"):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    """Every `morl` command line, without comments and line continuations."""
    text = "".join(block.text for block in blocks("sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "morl"]


def test_there_is_something_to_test():
    assert len(blocks("python")) >= 2
    assert len(blocks("yaml")) >= 1
    assert len(commands()) >= 5


def test_code_runs_in_order_as_one_program(folder):
    program = "\n".join(block.text for block in blocks("python"))
    (folder / "readme.py").write_text(program)
    path = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:__main__", "readme.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks(f"python {SHOWN_ONLY}"), ids=lambda b: b.text[:20])
def test_code_that_needs_a_trained_run_compiles(block):
    compile(block.text, "README.md", "exec")


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.file)
def test_configurations_pass_the_check(folder, block, capsys):
    assert block.file, "a configuration begins with its name: # name.yaml"
    code = main(["train", block.file, "--dry-run"])
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words):
    build_parser(words[0]).parse_args(words)  # ends the process where an option is unknown


@pytest.mark.parametrize("marker", ["ci:run", "ci:test"])
def test_each_line_that_continuous_integration_runs_is_one_line(marker):
    (block,) = [block for block in blocks("sh") if block.comment == marker]
    assert len(block.text.splitlines()) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
