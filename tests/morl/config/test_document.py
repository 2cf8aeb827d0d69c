"""YAML from strangers: plain values with their lines, or a clear refusal."""

from __future__ import annotations

import math

import pytest

from morl.config.document import MAX_BYTES, read_document, read_scalar
from morl.errors import ConfigError


def values(text):
    return read_document(text, "c.yaml").values


def test_plain_values():
    text = "a: 1\nb: {c: [x, 2.5, true, null]}\nd: 'quoted'\n"
    assert values(text) == {"a": 1, "b": {"c": ["x", 2.5, True, None]}, "d": "quoted"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.1, which PyYAML reads, would make these: True, False, "1e-3", 8, True
        ("on", "on"),
        ("no", "no"),
        ("1e-3", 0.001),
        ("010", 10),
        ("yes", "yes"),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("+3", 3),
        ("7.", 7.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("", None),
        ("~", None),
        ("'1'", "1"),
        ("1.2.3", "1.2.3"),
        ("a <= 0.03", "a <= 0.03"),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_scalars_are_read_as_people_mean_them(text, value):
    assert read_scalar(text) == value
    assert type(read_scalar(text)) is type(value)


def test_on_is_a_key_like_any_other():
    assert values("on: mean") == {"on": "mean"}


def test_an_empty_file_is_an_empty_mapping():
    assert values("") == {}
    assert values("# a comment\n") == {}


def test_byte_order_mark_and_windows_line_ends():
    assert values("\ufeffa: 1\r\nb: 2\r\n".encode()) == {"a": 1, "b": 2}


def test_the_line_of_every_key_is_known():
    document = read_document("a:\n  b: 1\n\n  c: 2\n", "c.yaml")
    assert document.where(("a", "c")) == "c.yaml:4"
    assert document.where(("a", "missing")) == "c.yaml:1"
    assert document.where(("elsewhere",)) == "c.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: the key 'a' stands twice; it first stood at c.yaml:1"),
        ("a:\n  b: 1\n  b: 2\n", "c.yaml:3: the key 'a.b' stands twice"),
        ("a:\n\tb: 1\n", "c.yaml:2: .*tabs"),
        ("a: [1\n", "c.yaml:2: "),
        ("a: &x 1\nb: *x\n", "c.yaml:2: aliases"),
        ("a: !!python/object/apply:os.system [ls]\n", "c.yaml:1: the tag .*os.system"),
        ("a: !custom 1\n", "c.yaml:1: the tag '!custom' is not read"),
        ("a: !!timestamp 2020-01-01\n", "c.yaml:1: the tag"),
        ("a: !!int x\n", "c.yaml:1: 'x' is not a number"),
        ("[a]: 1\n", "c.yaml:1: a key must be a word"),
        ("- a\n", "must hold keys and values"),
        ("just words\n", "must hold keys and values"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2: "),
        (b"a: \xff\n", "c.yaml: not UTF-8 at byte 3"),
        ("a: \x00\n", "c.yaml: "),
        ("a: " + "[" * 30 + "]" * 30, "nested more than 20 levels"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested more than 20 levels"),
        ("a: " + "x" * MAX_BYTES, "has at most 1,000,000"),
    ],
)
def test_anything_else_is_refused_with_its_line(text, message):
    with pytest.raises(ConfigError, match=message):
        read_document(text, "c.yaml")


def test_an_alias_bomb_costs_nothing():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(ConfigError, match=r"c\.yaml:2: aliases"):
        read_document("\n".join(lines), "c.yaml")
