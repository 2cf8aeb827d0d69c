"""Published prompt lists by name: whole, licensed, and read like a user's own file."""

from __future__ import annotations

import pytest

from morl.config import check, load_config
from morl.errors import DataError
from morl.prompt_sets import FOLDER, PROMPT_SETS
from morl.prompts import read_prompts, records

SHIPPED = [name for name, row in PROMPT_SETS.items() if row.file]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_list_is_whole_and_has_no_prompt_twice(name):
    prompts = read_prompts(name)
    assert len(prompts) == len(set(prompts)) == PROMPT_SETS[name].count


def test_first_and_last_are_those_of_the_sources():
    ends = {name: (read_prompts(name)[0], read_prompts(name)[-1]) for name in SHIPPED}
    assert ends["ddpo_animals"] == ("cat", "kangaroo")
    assert ends["parti"] == ("bond", "a series of musical notes on a computer screen")
    assert ends["geneval"][0] == "a photo of a bench"


def test_geneval_brings_the_records_that_its_scorer_reads():
    found = records(read_prompts("geneval"))
    assert found is not None
    assert found[0] == {"tag": "single_object", "include": [{"class": "bench", "count": 1}]}
    assert all({"tag", "include"} <= record.keys() for record in found)


def test_every_shipped_file_has_its_licence_beside_it():
    text = (FOLDER / "LICENCES.md").read_text(encoding="utf-8")
    files = {path.name for path in FOLDER.iterdir()} - {"LICENCES.md"}
    assert files == {PROMPT_SETS[name].file for name in SHIPPED}
    for name in SHIPPED:
        (line,) = [row for row in text.splitlines() if f"| `{PROMPT_SETS[name].file}` |" in row]
        assert PROMPT_SETS[name].licence in line


def test_a_list_without_a_licence_is_the_users_own_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("MORL_PROMPTS_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"'drawbench': .* save your copy, .*/drawbench\.txt"):
        read_prompts("drawbench")
    (tmp_path / "drawbench.txt").write_text("A red colored car.\n", encoding="utf-8")
    assert read_prompts("drawbench") == ["A red colored car."]


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parti").write_text("mine\n", encoding="utf-8")
    assert read_prompts("parti") == ["mine"]


def test_a_recipe_names_them():
    chosen = ["prompts.train=parti", "prompts.held_out=pickapic_test"]
    assert check(load_config("shapes", chosen)) == []
    (problem,) = check(load_config("shapes", ["prompts.train=party"]))
    assert "published lists by name: ddpo_animals, drawbench, geneval, parti" in problem
