"""Which prompts a reward applies to, by what their records say. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def matches(rule: str, record: Mapping[str, Any]) -> bool:
    """Whether a prompt's record is what a rule asks for.

    "field": the record has the field, and it is not empty, false or null; "field=value": it has
    that value, compared as text.
    """
    field, equals, value = (part.strip() for part in rule.partition("="))
    found = record.get(field)
    if equals:
        return found is not None and str(found) == value
    return found is not None and found is not False and found not in ("", [], {})


def rule_problem(rule: object) -> str | None:
    """What is wrong with the text of a rule, or None."""
    if isinstance(rule, str) and rule.partition("=")[0].strip():
        return None
    return f'must be a field of the prompts\' records, or "field=value"; got {rule!r}'
