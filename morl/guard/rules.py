"""From readings to decisions: which rules act at a look, and on what evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from morl.guard.settings import Rule, Signal


@dataclass(frozen=True)
class Reading:
    """One signal at one place: a weight vector, and an objective or statistic where it has one."""

    value: float
    weights: str
    of: str = ""


@dataclass(frozen=True)
class Decision:
    """A rule that acts, and the reading that made it."""

    rule: int
    signal: Signal
    reading: Reading

    def to_dict(self) -> dict[str, Any]:
        return {"rule": self.rule, "signal": self.signal, **asdict(self.reading)}


@dataclass(frozen=True)
class Tally:
    """How many looks in a row each rule has held, and how often it acted."""

    held: tuple[int, ...]
    acted: tuple[int, ...]

    @classmethod
    def none(cls, rules: Sequence[Rule]) -> Tally:
        return cls((0,) * len(rules), (0,) * len(rules))


def decide(
    rules: Sequence[Rule], readings: Mapping[Signal, Sequence[Reading]], tally: Tally
) -> tuple[list[Decision], Tally]:
    """The rules that act at this look, in order, and the tally after it.

    A rule judges its signal's worst reading, holds only while it was out of bounds at every look,
    acts when it has held for `looks` of them, then counts anew, `times` times at most. A signal
    without readings keeps what was counted.
    """
    held, acted = list(tally.held), list(tally.acted)
    decisions = []
    for number, rule in enumerate(rules):
        seen = readings.get(rule.signal)
        if not seen:
            continue
        worst = _worst(rule, seen)
        held[number] = held[number] + 1 if rule.holds(worst.value) else 0
        if held[number] >= rule.looks and acted[number] < rule.times:
            decisions.append(Decision(number, rule.signal, worst))
            held[number] = 0
            acted[number] += 1
    return decisions, Tally(tuple(held), tuple(acted))


def _worst(rule: Rule, readings: Sequence[Reading]) -> Reading:
    pick = min if rule.above is None else max
    return pick(readings, key=lambda reading: reading.value)
