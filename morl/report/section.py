"""One section of the page: a title, a sentence, and a figure where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import plotly.io
from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """title, text and list items as plain text; figures: HTML of plotly divs, side by side."""

    title: str
    text: str
    figures: tuple[Markup, ...] = ()
    items: tuple[str, ...] = ()


def section(title: str, text: str, *figures: go.Figure, items: Sequence[str] = ()) -> Section:
    """A section with its figures as HTML; the page holds the plotly library once for all."""
    return Section(title, text, tuple(Markup(_html(figure)) for figure in figures), tuple(items))


def _html(figure: go.Figure) -> str:
    html: str = plotly.io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        config={"displayModeBar": False, "responsive": True},
    )
    return html
