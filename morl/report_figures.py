"""Figures of the report, one function each: from plain numbers to a plotly figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from morl.fronts.front import Front

# One hue an objective; weight vectors mix them, so colour reads as the trade-off itself.
HUES = ((214, 84, 60), (44, 127, 184), (65, 150, 90), (140, 96, 180))
GREY = "#808890"
SMOOTHING = 5  # steps of the running mean drawn over the noisy curves
LAYOUT: dict[str, Any] = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
    "margin": {"l": 65, "r": 25, "t": 40, "b": 95},
    "legend": {"orientation": "h", "y": -0.3},
}
AXIS = {"gridcolor": "rgba(128,136,144,.25)", "zeroline": False}


def front_figure(front: Front) -> go.Figure:
    """Mean rewards at every weight vector, one panel for each pair of objectives."""
    pairs = list(combinations(range(len(front.names)), 2))
    figure = make_subplots(cols=len(pairs), rows=1, horizontal_spacing=0.1)
    mean, error, base = front.mean, front.standard_error, front.base.mean(axis=0)
    colours = [mixed(weights) for weights in front.weights]
    labels = [_describe(front.names, weights) for weights in front.weights]
    for column, (x, y) in enumerate(pairs, start=1):
        figure.add_scatter(
            x=mean[:, x],
            y=mean[:, y],
            error_x={"array": 1.96 * error[:, x], "thickness": 1, "width": 0, "color": GREY},
            error_y={"array": 1.96 * error[:, y], "thickness": 1, "width": 0, "color": GREY},
            mode="markers",
            marker={"size": 12, "color": colours, "line": {"width": 1, "color": "white"}},
            text=labels,
            hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
            name="weight vectors",
            showlegend=column == 1,
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=[base[x]],
            y=[base[y]],
            mode="markers",
            marker={"size": 12, "symbol": "x", "color": GREY},
            name="base model",
            showlegend=column == 1,
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=front.names[x], row=1, col=column)
        figure.update_yaxes(title_text=front.names[y], row=1, col=column)
    return _styled(figure, 340)


def path_figure(paths: Mapping[str, Any], names: Sequence[str]) -> go.Figure:
    """Mean rewards along each edge of the simplex, from its first to its second objective."""
    edges = paths["edges"]
    titles = [f"{edge['from']} → {edge['to']}" for edge in edges]
    figure = make_subplots(cols=len(edges), rows=1, subplot_titles=titles, horizontal_spacing=0.07)
    for column, edge in enumerate(edges, start=1):
        rewards = np.asarray(edge["rewards"])
        along = np.linspace(0, 1, len(rewards))
        for k, name in enumerate(names):
            drawn = name in (edge["from"], edge["to"])
            figure.add_scatter(
                x=along,
                y=rewards[:, k],
                mode="lines+markers",
                line={"color": _rgb(HUES[k % len(HUES)]), "dash": "solid" if drawn else "dot"},
                name=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text=f"weight of {edge['to']}", row=1, col=column)
    return _styled(figure, 340)


def curves_figure(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> go.Figure:
    """Calibrated reward of each objective during training, with its running mean."""
    figure = go.Figure()
    steps = [record["step"] for record in metrics]
    for k, name in enumerate(names):
        values = _column(metrics, f"reward/{name}")
        colour = HUES[k % len(HUES)]
        figure.add_scatter(
            x=steps,
            y=values,
            mode="lines",
            line={"color": _rgb(colour, 0.25), "width": 1},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=steps, y=_smooth(values), mode="lines", line={"color": _rgb(colour)}, name=name
        )
    figure.update_xaxes(title_text="update")
    figure.update_yaxes(title_text="reward, base SDs")
    return _styled(figure, 340)


def disagreement_figure(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> go.Figure:
    """Disagreement of each ensemble relative to its first updates."""
    figure = go.Figure()
    steps = [record["step"] for record in metrics]
    for k, name in enumerate(names):
        values = _smooth(_column(metrics, f"uncertainty/{name}"))
        start = float(np.mean(values[:SMOOTHING])) if len(values) else 0.0
        if start > 0:
            figure.add_scatter(
                x=steps,
                y=values / start,
                mode="lines",
                line={"color": _rgb(HUES[k % len(HUES)])},
                name=name,
            )
    figure.update_xaxes(title_text="update")
    figure.update_yaxes(title_text="disagreement / its start")
    return _styled(figure, 300)


def constraint_figure(
    metrics: Sequence[Mapping[str, Any]], name: str, threshold: float
) -> go.Figure:
    """A constrained mean against its threshold, and the multiplier that answers it."""
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    steps = [record["step"] for record in metrics]
    figure.add_scatter(
        x=steps,
        y=_column(metrics, f"cost/{name}"),
        mode="lines",
        line={"color": _rgb(HUES[0])},
        name=f"mean {name}",
    )
    figure.add_scatter(
        x=steps,
        y=[threshold] * len(steps),
        mode="lines",
        line={"color": GREY, "dash": "dash"},
        name="threshold",
    )
    figure.add_scatter(
        x=steps,
        y=_column(metrics, f"multiplier/{name}"),
        mode="lines",
        line={"color": _rgb(HUES[1])},
        name="multiplier",
        secondary_y=True,
    )
    figure.update_xaxes(title_text="update")
    figure.update_yaxes(title_text=name, secondary_y=False)
    figure.update_yaxes(title_text="multiplier", secondary_y=True, showgrid=False)
    return _styled(figure, 300)


def event_figure(
    events: Mapping[str, Any], weights: NDArray[np.float64], names: Sequence[str]
) -> go.Figure:
    """Held-out event rate at each weight vector with its exact 95 % interval."""
    rows = [events["base"], *events["weights"]]
    labels = ["base", *(_describe(names, w) for w in weights)]
    rates = np.asarray([100 * row.get("rate", 0.0) for row in rows])
    figure = go.Figure(
        go.Bar(
            x=labels,
            y=rates,
            marker={"color": [GREY, *(mixed(w) for w in weights)]},
            error_y={
                "array": [100 * row.get("high", 0.0) for row in rows] - rates,
                "arrayminus": rates - [100 * row.get("low", 0.0) for row in rows],
                "thickness": 1,
                "color": GREY,
            },
        )
    )
    figure.add_hline(y=100 * events["threshold"], line_dash="dash", line_color=GREY)
    figure.update_yaxes(title_text="rate, %")
    return _styled(figure, 340)


def mixed(weights: Sequence[float] | NDArray[np.float64]) -> str:
    """The objectives' hues in the proportions of a weight vector."""
    hues = np.asarray([HUES[k % len(HUES)] for k in range(len(weights))], dtype=float)
    return _rgb(tuple((np.asarray(weights) @ hues).round().astype(int)))


def _describe(names: Sequence[str], weights: Sequence[float] | NDArray[np.float64]) -> str:
    parts = [f"{name} {w:.2g}" for name, w in zip(names, weights, strict=True) if w > 0]
    return ", ".join(parts)


def _column(metrics: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    values = [record.get(key) for record in metrics]
    return np.asarray([np.nan if value is None else value for value in values], dtype=float)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last few steps: no value looks ahead."""
    return np.asarray(
        [values[max(0, i - SMOOTHING + 1) : i + 1].mean() for i in range(len(values))]
    )


def _rgb(colour: Sequence[int], alpha: float = 1.0) -> str:
    red, green, blue = colour
    return f"rgba({red},{green},{blue},{alpha})"


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(**LAYOUT, height=height)
    figure.update_xaxes(**AXIS)
    figure.update_yaxes(**AXIS)
    return figure
