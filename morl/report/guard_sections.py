"""What the page says of the guard: what it saw over the simplex, and what it did about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from morl.guard.settings import ACTIONS, SIGNALS, Action, Signal
from morl.report.section import Section, section
from morl.report.style import styled

Records = Sequence[Mapping[str, Any]]
MAPPED: dict[Signal, str] = {
    "gap": "proxy less held-out gain, SD",
    "disagreement": "over the base's",
}


def guard_sections(records: Records) -> Iterator[Section]:
    """The sections of guard.jsonl; none where no guard looked."""
    if not records:
        return
    drawn = [map_figure(records, signal, unit) for signal, unit in MAPPED.items()]
    yield section(
        "Guard",
        "What a fixed set of training prompts showed at each look, by weight vector and objective. "
        + " ".join(f"{signal}: {SIGNALS[signal]}." for signal in MAPPED),
        *(figure for figure in drawn if figure is not None),
        items=[line for record in records for line in _said(record)] or ["It never acted."],
    )


def map_figure(records: Records, signal: Signal, unit: str) -> go.Figure | None:
    """One signal as a map: a row an objective and weight vector, a column a look."""
    rows: dict[str, list[float]] = {}
    for number, record in enumerate(records):
        for reading in record["signals"].get(signal, ()):
            name = " at ".join(part for part in (reading["of"], reading["weights"]) if part)
            row = rows.setdefault(name, [np.nan] * len(records))
            row[number] = np.nan if reading["value"] is None else reading["value"]
    if not rows:
        return None
    figure = go.Figure(
        go.Heatmap(
            x=[str(record["step"]) for record in records],
            y=list(rows),
            z=list(rows.values()),
            colorscale="RdBu_r",
            zmid=0 if signal == "gap" else 1,
            colorbar={"title": unit, "orientation": "h", "y": 1.02, "yanchor": "bottom"},
        )
    )
    figure.update_xaxes(title_text="update", type="category")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, 160 + 26 * len(rows))


def _said(record: Mapping[str, Any]) -> Iterator[str]:
    for decision in record["decisions"]:
        actions: list[Action] = decision["do"]
        of = f" of {decision['of']}" if decision["of"] else ""
        yield (
            f"Update {record['step']}: {decision['signal']}{of} was {decision['value']:.3g} at "
            f"{decision['weights']}, so rule {decision['rule']}: "
            + "; ".join(ACTIONS[action] for action in actions)
            + f". Now pessimism {record['pessimism']:g}, kl_coef {record['kl_coef']:g}."
        )
