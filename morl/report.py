"""One self-contained HTML page about a run, from the files in its directory alone."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.io
from markupsafe import Markup

from morl import report_figures as figures
from morl.fronts.front import Front
from morl.training.run import RunDirectory

REPORT = "report.html"


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Whatever the run does not have yet (no front, no strips) is left out and said so. Raises
    DataError where there is no run.
    """
    run = RunDirectory(run_dir)
    run.require()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("morl", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(_content(run))
    return run.write_text(REPORT, page)


def _content(run: RunDirectory) -> dict[str, Any]:
    config, metrics, info = run.config(), run.metrics.read(), run.info()
    measured = _json(run.path / "front.json")
    sections: list[dict[str, Any]] = []
    if measured is not None:
        sections += _front_sections(measured, config.names)
    else:
        sections.append(_note("Front", "No front was measured yet: `morl evaluate` does it."))
    sections += _training_sections(run, metrics, config.names)
    return {
        "title": run.path.name,
        "names": config.names,
        "hues": [
            figures.mixed([float(i == k) for i in range(k + 1)]) for k in range(len(config.names))
        ],
        "objective": dict(config.objective.maximize),
        "constraints": list(config.objective.subject_to),
        "headline": [] if measured is None else _headline(measured),
        "sections": sections,
        "strips": _strips(run.path),
        "ledger": _ledger(run.path),
        "command": info["command"],
        "versions": info["versions"],
        "seed": info["seed"],
        "config": (run.path / "config.yaml").read_text(encoding="utf-8"),
        # The library once for the page; every figure refers to it.
        "plotly": Markup("<script>" + plotly.offline.get_plotlyjs() + "</script>"),
    }


def _front_sections(measured: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    sections = []
    titles = {
        "gold": ("Front in held-out reward", "Measures that never trained, on held-out prompts."),
        "proxy": ("Front in proxy reward", "What training maximised, without pessimism."),
    }
    for space, (title, text) in titles.items():
        if space in measured["fronts"]:
            figure = figures.front_figure(Front.from_dict(measured["fronts"][space]))
            text += (
                f" Each point is the mean of {measured['images_per_weight']} images at one weight "
                "vector, with its 95 % interval; colours mix the objectives' hues."
            )
            sections.append(_figure(title, text, figure))
    for space, paths in measured.get("paths", {}).items():
        figure = figures.path_figure(paths, names)
        scores = ", ".join(
            f"{name} {value:.2f}" for name, value in paths["controllability"].items()
        )
        text = (
            "Rewards along the edges of the simplex. Rank correlation of weight and reward: "
            f"{scores}."
        )
        sections.append(_figure(f"Slider, {space}", text, figure))
    weights = next(iter(measured["fronts"].values()))["weights"]
    for name, events in measured["events"].items():
        text = (
            "Images with the constrained event, on prompts and noise drawn anew for each weight "
            "vector; bars are exact 95 % intervals, the line is the budget that training was given."
        )
        figure = figures.event_figure(events, weights, names)
        sections.append(_figure(f"Constraint, held out: {name}", text, figure))
    return sections


def _training_sections(
    run: RunDirectory, metrics: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    if not metrics:
        return [_note("Training", "No update was logged yet.")]
    sections = [
        _figure(
            "Learning curves",
            "Mean proxy reward of a batch over random weight vectors: thin as measured, thick its "
            f"mean over {figures.SMOOTHING} updates.",
            figures.curves_figure(metrics, names),
        ),
        _figure(
            "Ensemble disagreement",
            "How much the members of each reward disagree, against the start of training: a rise "
            "says that images leave what the rewards were trained on.",
            figures.disagreement_figure(metrics, names),
        ),
    ]
    from rewards.objective import Objective

    objective = Objective.from_dict(run.config().objective.to_objective())
    return [
        *sections,
        *(
            _figure(
                f"Constraint in training: {constraint}",
                "The batch mean of the learned cost, plus pessimism, and the multiplier.",
                figures.constraint_figure(metrics, name, constraint.threshold),
            )
            for name, constraint in zip(
                objective.constraint_names, objective.constraints, strict=True
            )
        ),
    ]


def _headline(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers that a reader wants first, in words."""
    space = "gold" if "gold" in measured["fronts"] else "proxy"
    front = measured["fronts"][space]
    rows = [
        {
            "label": f"hypervolume ({space})",
            "value": _interval(front["hypervolume"]),
            "note": f"base model {front['base_hypervolume']:.3f}; 1 is the ideal point",
        },
        {
            "label": f"delivered utility ({space})",
            "value": _interval(front["delivered_utility"]),
            "note": f"mean over weight vectors; steering gap {front['steering_gap']:.3f}",
        },
    ]
    for paths in [measured.get("paths", {}).get(space)]:
        if paths:
            worst = min(paths["controllability"].values())
            rows.append(
                {
                    "label": "controllability",
                    "value": f"{worst:.2f}",
                    "note": "rank correlation of weight and reward, its lowest",
                }
            )
    for name, events in measured["events"].items():
        pooled = events["pooled"]
        if pooled["count"]:
            rows.append(
                {
                    "label": f"{name} rate",
                    "value": f"{100 * pooled['rate']:.1f} %",
                    "note": f"at most {100 * pooled['upper_bound']:.1f} % at 95 % confidence; base "
                    f"{100 * events['base'].get('rate', math.nan):.1f} %, budget "
                    f"{100 * events['threshold']:.1f} %",
                }
            )
    return rows


def _strips(path: Path) -> list[dict[str, Any]]:
    """The newest strip of every edge, as data URIs."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for caption in sorted(path.glob("samples/*.json")):
        strip = _json(caption)
        image = caption.with_suffix(".png")
        if strip is not None and image.is_file():
            data = base64.b64encode(image.read_bytes()).decode()
            newest[strip["from"], strip["to"]] = {**strip, "uri": f"data:image/png;base64,{data}"}
    return list(newest.values())


def _ledger(path: Path) -> list[dict[str, Any]]:
    rows = []
    for title, name in (("training", "ledger.json"), ("evaluation", "evaluation_ledger.json")):
        ledger = _json(path / name)
        if ledger is not None:
            counts = {key: f"{value:,}" for key, value in ledger.items() if key != "seconds"}
            seconds = {key: f"{value:.0f} s" for key, value in ledger["seconds"].items()}
            rows.append({"title": title, "counts": counts, "seconds": seconds})
    return rows


def _figure(title: str, text: str, figure: go.Figure) -> dict[str, Any]:
    html = plotly.io.to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        config={"displayModeBar": False, "responsive": True},
    )
    return {"title": title, "text": text, "figure": Markup(html)}


def _note(title: str, text: str) -> dict[str, Any]:
    return {"title": title, "text": text, "figure": None}


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content
