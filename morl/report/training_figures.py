"""Figures of the training log, one function each: from records to a plotly figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from morl.report.style import GREY, column, hue, styled

SMOOTHING = 5  # steps of the running mean drawn over the noisy curves
Metrics = Sequence[Mapping[str, Any]]


def curves_figure(metrics: Metrics, names: Sequence[str]) -> go.Figure:
    """Calibrated reward of each objective during training, with its running mean."""
    figure = go.Figure()
    for k, name in enumerate(names):
        values = column(metrics, f"reward/{name}")
        thin = {"color": hue(k, 0.25), "width": 1}
        _line(figure, metrics, values, line=thin, hoverinfo="skip", showlegend=False)
        _line(figure, metrics, smoothed(values), line={"color": hue(k)}, name=name)
    figure.update_yaxes(title_text="reward, base SDs")
    return styled(figure, 340)


def disagreement_figure(metrics: Metrics, names: Sequence[str]) -> go.Figure | None:
    """Disagreement of each ensemble relative to its first updates; None where there is none."""
    figure = go.Figure()
    for k, name in enumerate(names):
        values = smoothed(column(metrics, f"uncertainty/{name}"))
        start = float(np.mean(values[:SMOOTHING]))
        if start > 0:
            _line(figure, metrics, values / start, line={"color": hue(k)}, name=name)
    if not figure.data:
        return None
    figure.update_yaxes(title_text="disagreement / its start")
    return styled(figure, 320)


def effective_figure(metrics: Metrics, names: Sequence[str]) -> go.Figure:
    """What each objective counted, once rewards had been divided by what they were."""
    figure = go.Figure()
    for k, name in enumerate(names):
        values = smoothed(column(metrics, f"effective_weight/{name}"))
        _line(figure, metrics, values, line={"color": hue(k)}, name=name)
    figure.update_yaxes(title_text="effective weight", range=[0, 1])
    return styled(figure, 320)


def constraint_figure(metrics: Metrics, name: str, threshold: float) -> go.Figure:
    """A constrained mean against its threshold, and the multiplier that answers it."""
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    steps = _steps(metrics)
    _line(
        figure, metrics, column(metrics, f"cost/{name}"), line={"color": hue(0)}, name="batch mean"
    )
    _line(
        figure,
        metrics,
        np.full(len(steps), threshold),
        line={"color": GREY, "dash": "dash"},
        name="threshold",
    )
    figure.add_scatter(
        x=steps,
        y=column(metrics, f"multiplier/{name}"),
        mode="lines",
        line={"color": hue(1)},
        name="multiplier",
        secondary_y=True,
    )
    figure.update_xaxes(title_text="update")
    figure.update_yaxes(title_text=name, rangemode="tozero", secondary_y=False)
    styled(figure, 320)
    figure.update_yaxes(
        title_text="multiplier",
        rangemode="tozero",
        secondary_y=True,
        showgrid=False,
        tickmode="auto",
    )
    return figure


def shares_figure(metrics: Metrics, name: str, leaves: Sequence[str]) -> go.Figure | None:
    """Shares of the rewards of one objective, stacked to 1; None where none were logged."""
    figure = go.Figure()
    for k, leaf in enumerate(leaves):
        values = column(metrics, f"share/{name}/{leaf}")
        if np.isnan(values).all():
            return None
        line = {"color": hue(k), "width": 1}
        _line(figure, metrics, smoothed(values), line=line, stackgroup="shares", name=leaf)
    figure.update_yaxes(title_text=f"share of {name}", range=[0, 1])
    return styled(figure, 320)


def kl_figure(metrics: Metrics) -> go.Figure | None:
    """Distance from the base model; None where the algorithm does not measure it."""
    return _one(metrics, "kl", "KL to the base model", hue(3))


def speed_figure(metrics: Metrics) -> go.Figure | None:
    """Images a second of the training step."""
    return _one(metrics, "images_per_second", "images per second", GREY)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last few steps: no value looks ahead."""
    return np.asarray(
        [values[max(0, i - SMOOTHING + 1) : i + 1].mean() for i in range(len(values))]
    )


def _one(metrics: Metrics, key: str, title: str, colour: str) -> go.Figure | None:
    values = column(metrics, key)
    if np.isnan(values).all():
        return None
    figure = go.Figure()
    _line(figure, metrics, values, line={"color": colour}, name=title, showlegend=False)
    figure.update_yaxes(title_text=title, rangemode="tozero")
    return styled(figure, 300)


def _line(figure: go.Figure, metrics: Metrics, values: NDArray[np.float64], **look: Any) -> None:
    figure.add_scatter(x=_steps(metrics), y=values, mode="lines", **look)
    figure.update_xaxes(title_text="update")


def _steps(metrics: Metrics) -> list[int]:
    return [record["step"] for record in metrics]
