"""What the page says of a measured front: numbers, front, slider, constraints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from morl.config.tree import Config
from morl.config.write import to_dict
from morl.fronts.front import Front
from morl.report.front_figures import (
    EdgePath,
    above_base,
    edges_of,
    event_figure,
    front_figures,
    path_figure,
    win_figure,
)
from morl.report.section import Section, section
from morl.report.stored import StoredFront, read_stored, recipe_digest

TITLES = {
    "gold": ("Front in held-out reward", "Measures that never trained, on held-out prompts."),
    "proxy": ("Front in proxy reward", "What training maximised, without pessimism."),
}


def front_sections(measured: Mapping[str, Any], config: Config) -> Iterator[Section]:
    """The sections of `front.json`: held-out space first."""
    spaces = [space for space in TITLES if space in measured["fronts"]]
    fronts = {space: Front.from_dict(measured["fronts"][space]) for space in spaces}
    for space, front in fronts.items():
        title, text = TITLES[space]
        text += (
            f" Each point is the mean of {measured['images_per_weight']} images at one weight "
            "vector, with its 95 % interval; colours mix the objectives' hues."
        )
        stored = read_stored(front.names) if space == "gold" else None
        if stored is not None:
            text += _about(stored, config)
        yield section(title, text, *front_figures(front, stored))
        wins = measured["fronts"][space].get("win_rate")  # fronts of before have none
        if wins is not None:
            yield section(
                f"Win rate against the base model, {space} reward",
                "Share of images that score higher than the base model's on the same prompt and "
                "noise, with its 95 % interval over prompts; ties count half. It needs no units, "
                "so rewards compare.",
                win_figure(wins, front.weights, front.names),
            )
    for space, front in fronts.items():
        paths = _paths(measured, space, front)
        if paths:
            yield section(
                f"Slider, {space} reward",
                "Mean rewards along the edges of the simplex, from one objective alone to the "
                "other alone, in standard deviations above the base model's mean; dotted: the "
                "objective that the edge does not trade." + _control(measured, space),
                *(path_figure(path, front.names) for path in paths),
            )
    front = next(iter(fronts.values()))
    for name, events in measured["events"].items():
        yield section(
            f"Constraint, held out: {name}",
            "Images with the constrained event, on prompts and noise drawn anew for each weight "
            "vector; bars are exact 95 % intervals, the line is the budget of training.",
            event_figure(events, front.weights, front.names),
        )


def headline(measured: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The numbers that a reader wants first, in words."""
    space = "gold" if "gold" in measured["fronts"] else "proxy"
    front = measured["fronts"][space]
    yield {
        "label": f"hypervolume ({space})",
        "value": f"{front['hypervolume']['value']:.3f}",
        "note": f"{_interval(front['hypervolume'])}; base model "
        f"{front['base_hypervolume']:.3f}; 1 is the ideal point",
    }
    yield {
        "label": f"delivered utility ({space})",
        "value": f"{front['delivered_utility']['value']:.3f}",
        "note": f"{_interval(front['delivered_utility'])}; mean over weight vectors; base model "
        f"{front['base_utility']:.3f}, steering gap {front['steering_gap']:.3f}",
    }
    control = _controllability(measured, space)
    if control:
        name = min(control, key=lambda key: control[key])
        yield {
            "label": f"controllability ({space})",
            "value": f"{control[name]:.2f}",
            "note": f"rank correlation of weight and reward, at its lowest: {name}",
        }
    for name, events in measured["events"].items():
        pooled = events["pooled"]
        if pooled["count"]:
            yield {
                "label": f"{name} rate",
                "value": f"{100 * pooled['rate']:.1f} %",
                "note": f"at most {100 * pooled['upper_bound']:.1f} % at 95 % confidence; base "
                f"{100 * events['base'].get('rate', math.nan):.1f} %, budget "
                f"{100 * events['threshold']:.1f} %",
            }


def _about(stored: StoredFront, config: Config) -> str:
    same = stored.recipe == recipe_digest(to_dict(config))
    recipe = "this run's recipe" if same else "another recipe than this run's"
    return (
        f" Open symbols are a stored study of {recipe}, not this run: means over its training "
        "seeds, with 95 % intervals over seeds and prompts."
    )


def _paths(measured: Mapping[str, Any], space: str, front: Front) -> list[EdgePath]:
    """The finely measured edges where there are some, else the grid's own."""
    fine = measured.get("paths", {}).get(space)
    if fine is None:
        return edges_of(front)
    return [
        EdgePath(edge["from"], edge["to"], above_base(front, np.asarray(edge["rewards"])))
        for edge in fine["edges"]
    ]


def _controllability(measured: Mapping[str, Any], space: str) -> dict[str, float]:
    fine = measured.get("paths", {}).get(space)
    if fine is not None:
        return dict(fine["controllability"])
    steering = measured["fronts"][space]["steering"]
    return {name: found["controllability"]["value"] for name, found in steering.items()}


def _control(measured: Mapping[str, Any], space: str) -> str:
    control = _controllability(measured, space)
    if not control:
        return ""
    listed = ", ".join(f"{name} {value:.2f}" for name, value in control.items())
    return f" Rank correlation of weight and reward on the worst edge: {listed}."


def _interval(value: Mapping[str, float]) -> str:
    return f"95 % interval {value['low']:.3f} to {value['high']:.3f}"
