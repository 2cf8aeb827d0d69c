"""The page: sections in order, strips, ledger and the way to reproduce the run."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from morl.report.front_sections import front_sections, headline
from morl.report.guard_sections import guard_sections
from morl.report.section import section
from morl.report.style import hue
from morl.report.training_sections import training_sections
from morl.training.metrics import MetricsLog
from morl.training.run import GUARD_FILE, RunDirectory

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
    config, info = run.config(), run.info()
    measured = _json(run.path / "front.json")
    if measured is None:
        fronts = [section("Front", "No front was measured yet: `morl evaluate` does it.")]
    else:
        fronts = list(front_sections(measured, config))
    return {
        "title": run.path.absolute().name,
        "names": config.names,
        "hues": [hue(k) for k in range(len(config.names))],
        "constraints": list(config.objective.subject_to),
        "headline": [] if measured is None else list(headline(measured)),
        "sections": [
            *fronts,
            *training_sections(run.metrics.read(), config),
            *guard_sections(MetricsLog(run.path / GUARD_FILE).read()),
        ],
        "strips": _strips(run.path),
        "ledger": _ledger(run.path),
        "command": info["command"],
        "resumed": [entry["command"] for entry in info["resumed"]],
        "versions": info["versions"],
        "code": info["code_sha256"],
        "seed": info["seed"],
        "config": (run.path / "config.yaml").read_text(encoding="utf-8"),
        # The library once for the page; every figure refers to it.
        "plotly": Markup("<script>" + plotly.offline.get_plotlyjs() + "</script>"),
    }


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
            seconds = {key: f"{value:,.1f} s" for key, value in ledger["seconds"].items()}
            rows.append({"title": title, "counts": counts, "seconds": seconds})
    return rows


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content
