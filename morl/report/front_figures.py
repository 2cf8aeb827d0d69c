"""Figures of a measured front, one function each: from plain numbers to a plotly figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from morl.fronts.front import Front
from morl.report.stored import StoredFront, StoredMethod
from morl.report.style import GREY, described, hue, mixed, styled

Z95 = 1.96
STORED_SYMBOLS = ("diamond-open", "square-open", "triangle-up-open", "cross-open", "star-open")


def front_figures(front: Front, stored: StoredFront | None = None) -> Iterator[go.Figure]:
    """Mean rewards at every weight vector, one figure for each pair of objectives."""
    labels = [described(front.names, weights) for weights in front.weights]
    base = front.base_mean[0]
    for x, y in combinations(range(len(front.names)), 2):
        figure = go.Figure()
        for number, method in enumerate(stored.methods if stored else ()):
            figure.add_scatter(**_stored_points(front.names, method, number, x, y))
        figure.add_scatter(
            x=front.mean[:, x],
            y=front.mean[:, y],
            error_x=_bars(Z95 * front.standard_error[:, x]),
            error_y=_bars(Z95 * front.standard_error[:, y]),
            mode="markers",
            marker={
                "size": 13,
                "color": [mixed(weights) for weights in front.weights],
                "line": {"width": 1, "color": "white"},
            },
            text=labels,
            hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
            name="this run" if stored else "weight vectors",
        )
        figure.add_scatter(
            x=[base[x]],
            y=[base[y]],
            mode="markers",
            marker={"size": 12, "symbol": "x", "color": GREY},
            name="base model",
        )
        figure.update_xaxes(title_text=front.names[x])
        figure.update_yaxes(title_text=front.names[y])
        yield styled(figure, 340 + 20 * len(stored.methods if stored else ()))


@dataclass(frozen=True)
class EdgePath:
    """Mean rewards [point][objective] from the first objective alone to the second alone.

    In standard deviations above the base model's mean: rewards of any scale share one axis.
    """

    start: str
    end: str
    rewards: NDArray[np.float64]
    error: NDArray[np.float64] | None = None


def edges_of(front: Front) -> list[EdgePath]:
    """The front's own points along each edge of the simplex."""
    gain, error = above_base(front, front.mean), front.standard_error / _base_std(front)
    return [
        EdgePath(front.names[i], front.names[j], gain[rows], error[rows])
        for (i, j), rows in front.edges.items()
    ]


def above_base(front: Front, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards [..., K] in standard deviations above the base model's mean."""
    gain: NDArray[np.float64] = (rewards - front.base_mean[0]) / _base_std(front)
    return gain


def path_figure(path: EdgePath, names: Sequence[str]) -> go.Figure:
    """Mean rewards along one edge; those that the edge does not trade are dotted."""
    figure = go.Figure()
    along = np.linspace(0, 1, len(path.rewards))
    for k, name in enumerate(names):
        traded = name in (path.start, path.end)
        figure.add_scatter(
            x=along,
            y=path.rewards[:, k],
            error_y=None if path.error is None else _bars(Z95 * path.error[:, k]),
            mode="lines+markers",
            line={"color": hue(k), "dash": "solid" if traded else "dot"},
            name=name,
        )
    figure.update_xaxes(title_text=f"{path.start} → {path.end}")
    figure.update_yaxes(title_text="mean reward, base SD")
    return styled(figure, 320)


def event_figure(
    events: Mapping[str, Any], weights: NDArray[np.float64], names: Sequence[str]
) -> go.Figure:
    """Held-out event rate at each weight vector with its exact 95 % interval."""
    rows = [events["base"], *events["weights"]]
    labels = ["base", *(described(names, w).replace(", ", "<br>") for w in weights)]
    rates = np.asarray([100 * row.get("rate", 0.0) for row in rows])
    high, low = (np.asarray([100 * row.get(k, 0.0) for row in rows]) for k in ("high", "low"))
    figure = go.Figure(
        go.Bar(
            # Bars lie down, one part of a weight vector a line: they are long to say.
            y=labels,
            x=rates,
            orientation="h",
            marker={"color": [GREY, *(mixed(w) for w in weights)]},
            error_x={
                "array": high - rates,
                "arrayminus": rates - low,
                "thickness": 1,
                "color": GREY,
            },
        )
    )
    budget = 100 * events["threshold"]
    figure.add_vline(x=budget, line_dash="dash", line_color=GREY, annotation_text="budget")
    figure.update_xaxes(title_text="rate, %", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", tickfont_size=10)
    return styled(figure, 110 + 36 * len(rows))


def win_figure(
    wins: Mapping[str, Any], weights: NDArray[np.float64], names: Sequence[str]
) -> go.Figure:
    """Share of images that beat the base model's, at each weight vector, with 95 % intervals."""
    labels = [described(names, w).replace(", ", "<br>") for w in weights]
    figure = go.Figure()
    for k, name in enumerate(names):
        value, low, high = (
            np.asarray([100 * row[end] for row in wins[name]]) for end in ("value", "low", "high")
        )
        figure.add_scatter(
            x=value,
            y=labels,
            error_x=_bars(high - value, value - low),
            mode="markers",
            marker={"color": hue(k), "size": 9},
            name=name,
        )
    figure.add_vline(x=50, line_dash="dash", line_color=GREY, annotation_text="as the base")
    figure.update_xaxes(title_text="wins against the base model, %", range=[0, 100])
    figure.update_yaxes(autorange="reversed", tickfont_size=10)
    return styled(figure, 110 + 36 * len(labels))


def _stored_points(
    names: Sequence[str], method: StoredMethod, number: int, x: int, y: int
) -> dict[str, Any]:
    mean, low, high = (np.asarray(v) for v in (method.mean, method.low, method.high))
    seeds = f"{len(method.seeds)} seed{'s' if len(method.seeds) > 1 else ''}"
    return {
        "x": mean[:, x],
        "y": mean[:, y],
        "error_x": _bars(high[:, x] - mean[:, x], mean[:, x] - low[:, x]),
        "error_y": _bars(high[:, y] - mean[:, y], mean[:, y] - low[:, y]),
        "mode": "markers",
        "opacity": 0.55,
        "marker": {
            "size": 9,
            "symbol": STORED_SYMBOLS[number % len(STORED_SYMBOLS)],
            "color": [mixed(weights) for weights in method.weights],
        },
        "text": [described(names, weights) for weights in method.weights],
        "hovertemplate": f"stored study, {method.name}<br>%{{text}}<extra></extra>",
        "name": f"stored study: {method.name}, {seeds}",
    }


def _base_std(front: Front) -> NDArray[np.float64]:
    std: NDArray[np.float64] = np.nanstd(front.base, axis=0)
    return np.where(std > 0, std, 1.0)  # a reward that never varies keeps its own unit


def _bars(above: NDArray[np.float64], below: NDArray[np.float64] | None = None) -> dict[str, Any]:
    bars = {"array": above, "thickness": 1, "width": 0, "color": "rgba(128,136,144,.5)"}
    return bars if below is None else {**bars, "arrayminus": below}
