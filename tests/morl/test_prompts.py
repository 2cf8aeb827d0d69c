"""Prompt files as people save them, and what is wrong with the others."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from morl.errors import DataError
from morl.prompts import MAX_CHARACTERS, Prompt, load_prompts, read_prompts, records
from rewards.shapes.captions import parse
from rewards.shapes.scenes import held_out_combinations, train_combinations


@pytest.fixture
def read(tmp_path):
    def read_bytes(data: bytes):
        path = tmp_path / "prompts.txt"
        path.write_bytes(data)
        return read_prompts(path)

    return read_bytes


def test_one_prompt_a_line(read):
    assert read(b"a red star\na blue ring\n") == ["a red star", "a blue ring"]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa\nb",  # byte order mark, no line end at the end
        b"a\r\nb\r\n",  # Windows
        b"\n  a  \n\n\t\nb\n\n",  # blanks
        b"# a comment\na\n#\nb\n",
    ],
)
def test_what_editors_add_is_passed_over(read, data):
    assert read(data) == ["a", "b"]


def test_a_hash_may_begin_a_prompt(read):
    assert read(b"#sunset over a lake\n") == ["#sunset over a lake"]


def test_duplicates_and_any_script_are_kept(read):
    text = "你好\n👩‍👩‍👧\ne\u0301\n=1+1\n<b>x</b>\n你好\n"
    assert read(text.encode()) == text.splitlines()


class TestRecords:
    LINES = b'{"prompt": " a star ", "tag": "one", "n": 2}\n\n{"prompt": "a ring\\nin blue"}\r\n'

    @pytest.fixture
    def file(self, tmp_path):
        def write(data: bytes):
            path = tmp_path / "prompts.jsonl"
            path.write_bytes(data)
            return path

        return write

    def test_a_record_travels_with_its_prompt(self, file):
        prompts = read_prompts(file(self.LINES))
        assert prompts == ["a star", "a ring\nin blue"]
        assert records(prompts) == [{"tag": "one", "n": 2}, {}]

    def test_it_survives_what_the_way_to_a_reward_does(self, file):
        star, ring = read_prompts(file(self.LINES))
        batch = [star, ring, star, ring, "plain"]
        assert records(batch[2:]) == [{"tag": "one", "n": 2}, {}, {}]
        assert hash(star) == hash("a star")

    def test_without_any_record_there_is_no_metadata(self):
        assert records(["a", "b"]) is None

    def test_it_is_copied_and_sent_to_other_processes_whole(self):
        again = copy.deepcopy(Prompt("a", {"n": 1}))
        assert (again, again.record) == ("a", {"n": 1})

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"{}\n", "line 1: needs a text `prompt`; got None"),
            (
                b'{"prompt": "a"}\n{"prompt": 3, "tag": 1}',
                "line 2: .*the keys prompt, tag",
            ),
            (b'{"prompt": "  "}', "line 1: needs a text `prompt`"),
            (b"[1]", r"line 1: must be an object, like .*; got \[1\]"),
            (b"a star", "line 1: not JSON"),
            (b"\n", "no record in it"),
        ],
    )
    def test_what_is_no_record_is_named(self, file, data, message):
        with pytest.raises(DataError, match=message):
            read_prompts(file(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"fine\ncaf\xe9\n", "line 2: byte 0xe9 at column 4 is not UTF-8"),
        (b"a\x00b\n", r"line 1: holds the control character U\+0000"),
        (b"a\n\n" + b"x" * (MAX_CHARACTERS + 1), "line 3: 10,001 characters; at most 10,000"),
        (b"", "no prompt in it"),
        (b"\n# only a comment\n", "no prompt in it"),
    ],
)
def test_what_cannot_be_a_prompt_is_named_with_its_line(read, data, message):
    with pytest.raises(DataError, match=message):
        read(data)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no such file \(looked for /"):
        read_prompts(tmp_path / "none.txt")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match="a folder, not a file"):
        read_prompts(tmp_path)


class TestLoad:
    def test_a_file_is_taken_as_it_is(self, tmp_path):
        (tmp_path / "p.txt").write_text("b\na\n")
        assert load_prompts(str(tmp_path / "p.txt"), "train", seed=3) == ["b", "a"]

    def test_the_world_uses_every_combination_of_attributes(self):
        # 70 % of the prompts name all five attributes; with 3 prompts a combination, of 1,344,
        # 1 - 0.3^3 = 97 % are named in full; with 1.8, of 576, about 88 %.
        sizes = {"train": (train_combinations(), 0.95), "held_out": (held_out_combinations(), 0.8)}
        for split, (combinations, share) in sizes.items():
            prompts = map(parse, load_prompts("shapes", split, seed=0))
            full = {replace(p, asks_mark=False) for p in prompts if p.position and p.size}
            assert share * len(combinations) < len(full) <= len(combinations)

    def test_the_worlds_splits_share_no_full_description(self):
        full = [
            {p for p in map(parse, load_prompts("shapes", split, seed=0)) if p.position and p.size}
            for split in ("train", "held_out")
        ]
        ignoring_mark = [{replace(p, asks_mark=False) for p in prompts} for prompts in full]
        assert len(ignoring_mark[0]) > 500
        assert not ignoring_mark[0] & ignoring_mark[1]

    def test_the_seed_orders_them(self):
        assert load_prompts("shapes", "train", 1) == load_prompts("shapes", "train", 1)
        assert load_prompts("shapes", "train", 1) != load_prompts("shapes", "train", 2)
