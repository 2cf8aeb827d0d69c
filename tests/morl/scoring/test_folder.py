"""Which images, in which order, with which prompts; and every mismatch said."""

from __future__ import annotations

import pytest

from morl.errors import DataError
from morl.prompts import records
from morl.scoring.folder import items_of, list_images


@pytest.fixture
def folder(tmp_path):
    """Three images (their bytes play no part here) among other files."""
    home = tmp_path / "images"
    (home / "more").mkdir(parents=True)
    (home / ".hidden").mkdir()
    for name in ("b.PNG", "a.jpg", "more/c.webp", ".hidden/x.png", "notes.md", ".x.png"):
        (home / name).write_bytes(b"")
    return home


def asked(folder, name, text):
    file = folder.parent / name
    file.write_text(text, encoding="utf-8")
    items, notes = items_of(folder, file)
    return [(item.name, item.prompt) for item in items], notes


def test_images_are_found_by_suffix_in_the_order_of_names(folder):
    assert list_images(folder) == ["a.jpg", "b.PNG", "more/c.webp"]


PAIRS = [("a.jpg", "one"), ("b.PNG", "two, too"), ("more/c.webp", "three")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "one\ntwo, too\nthree\n"),
        ("p.jsonl", '{"prompt": "one"}\n{"prompt": "two, too"}\n{"prompt": "three"}'),
        ("p.csv", 'file,prompt\nmore/c.webp,three\na.jpg,one\n./b.PNG,"two, too"\n'),
        (
            "p.jsonl",
            '{"file": "more/c.webp", "prompt": "three"}\n{"file": "b.PNG", "prompt": "two, too"}\n'
            '{"file": "a.jpg", "prompt": "one"}',
        ),
    ],
)
def test_prompts_by_line_or_by_name(folder, name, text):
    assert asked(folder, name, text) == (PAIRS, [])


def test_prompts_beside_the_images(folder):
    for name, text in (("a.txt", "one"), ("b.txt", "two,\n too\n"), ("more/c.txt", "three")):
        (folder / name).write_text(text)
    items, _ = items_of(folder, None)
    assert [(item.name, item.prompt) for item in items] == PAIRS
    (folder / "more/c.txt").unlink()
    with pytest.raises(DataError, match=r"1 images lack a prompt.*more/c\.webp"):
        items_of(folder, None)


def test_without_any_prompt(folder):
    assert [item.prompt for item in items_of(folder, None)[0]] == [None] * 3


def test_other_fields_are_the_record(folder):
    file = folder.parent / "p.jsonl"
    file.write_text(
        "\n".join(
            f'{{"file": "{name}", "prompt": "x", "n": {n}}}' for n, (name, _) in enumerate(PAIRS)
        )
    )
    items, _ = items_of(folder, file)
    assert records([item.prompt for item in items]) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_an_entry_without_an_image_is_passed_over_and_said(folder):
    lines = "\n".join(f'{name},"{prompt}"' for name, prompt in PAIRS)
    pairs, notes = asked(folder, "p.csv", f"file,prompt\nlost.png,x\n{lines}\n")
    assert pairs == PAIRS
    assert "1 images that are not there: lost.png" in notes[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "one\ntwo\n", "got 2 prompts for 3 images"),
        (
            "p.csv",
            "file,text\na.jpg,one\n",
            "must name the columns file and prompt; got file, text",
        ),
        ("p.csv", "", "must name the columns file and prompt; got nothing"),
        ("p.csv", "file,prompt\na.jpg,one, two\n", "line 2: more values than columns"),
        ("p.csv", "file,prompt\na.jpg,one\n", "2 images lack a prompt.*b.PNG, more/c.webp"),
        ("p.csv", "file,prompt\na.jpg,one\na.jpg,two\n", "line 3: a.jpg has a prompt already"),
        ("p.csv", "file,prompt\nimages/a.jpg,one\n", "names no image.*nearest: 'a.jpg'"),
        ("p.jsonl", '{"file": 3, "prompt": "x"}', "line 1: needs a text `file`; got 3"),
        ("p.jsonl", '{"file": "a.jpg"}', "line 1: needs a text `prompt`"),
    ],
)
def test_a_mismatch_is_said(folder, name, text, message):
    with pytest.raises(DataError, match=message):
        asked(folder, name, text)


def test_what_is_no_folder_of_images(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "x")
    with pytest.raises(DataError, match=r"no image in it; known are \.png"):
        list_images(tmp_path)
