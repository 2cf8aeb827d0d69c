"""Read YAML from strangers: plain values only, no aliases, no duplicate keys, lines remembered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from morl.errors import ConfigError

MAX_BYTES = (
    1_000_000  # a configuration is a page of text; anything larger is a mistake or an attack
)
MAX_DEPTH = 20

KeyPath = tuple[str, ...]

_TAG = "tag:yaml.org,2002:"
_INFINITIES = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


@dataclass
class Document:
    """Plain nested values, and where each key stood."""

    values: dict[str, Any]
    source: str
    lines: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Name the place of a key, or of the nearest section above it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.source)


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2: `on` is a word and `1e-3` a number, unlike in PyYAML's YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read; write the value out",
                problem_mark=self.peek_event().start_mark,
            )
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} levels deep",
                problem_mark=self.peek_event().start_mark,
            )
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern})$"), list(_first))


def read_document(text: str | bytes, source: str) -> Document:
    """Parse one YAML mapping of plain values.

    Raises ConfigError, with the line, for anything else: syntax, tags, aliases, duplicate keys,
    more than `MAX_BYTES`, nesting beyond `MAX_DEPTH`, bytes that are not UTF-8.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: {len(text):,} bytes; a configuration has at most 1,000,000")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        node = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{place}: {error.problem}{_hint(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {error}") from error
    document = Document({}, source)
    if node is None:
        return document
    values = _plain(node, (), document)
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must hold keys and values; got {values!r}")
    document.values = values
    return document


def read_scalar(text: str) -> Any:
    """Read the value of `key=value` as YAML would: numbers, words, [lists] and {mappings}."""
    return read_document(f"value: {text}", "value").values["value"]


def _plain(node: yaml.Node, path: KeyPath, document: Document) -> Any:
    place = f"{document.source}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_plain(item, (*path, str(i)), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag.startswith(_TAG):
        return _scalar(node, place)
    raise ConfigError(f"{place}: the tag {node.tag!r} is not read; write a plain value")


def _mapping(node: yaml.MappingNode, path: KeyPath, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{document.source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{place}: a key must be a word")
        key = str(key_node.value)
        inner = (*path, key)
        if key in values:
            raise ConfigError(
                f"{place}: the key {'.'.join(inner)!r} stands twice; it first stood at "
                f"{document.lines[inner]}"
            )
        document.lines[inner] = place
        values[key] = _plain(value_node, inner, document)
    return values


def _scalar(node: yaml.ScalarNode, place: str) -> Any:
    kind, text = node.tag.removeprefix(_TAG), str(node.value)
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            word = text.lower().replace(".", "").removeprefix("+")
            return _INFINITIES[word] if word in _INFINITIES else float(text)
    except ValueError as error:
        raise ConfigError(f"{place}: {text!r} is not a number") from error
    raise ConfigError(f"{place}: the tag {node.tag!r} is not read; write a plain value")


def _hint(error: yaml.MarkedYAMLError) -> str:
    if "\\t" in str(error.problem):
        return "; indent with spaces, not tabs"
    return ""
