"""The golden table: one row a function, a fixed input and the value it has always had.

Rows say that nothing moved, not that it is right: derivations stand in each function's own tests.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rewards.calibration import Calibration
from rewards.constraints import exceedances, lagrangian_penalty, violation
from rewards.controllers import PID, Controller, DualAscent, NuPI
from rewards.facts_table import FACTS
from rewards.judge_settings import JudgeSettings
from rewards.members import aggregate
from rewards.registry import build
from rewards.reward import ImageBatch
from rewards.scalarization import utility, utility_gradient
from rewards.scalarization_facts import SCALARIZATIONS
from rewards.scorers.diversity import mean_distance, vendi_score
from rewards.scorers.geneval import GenEvalShare
from rewards.scorers.heads import ASSETS, affine, load_head
from rewards.scorers.judge import read_score
from rewards.scorers.ocr import text_accuracy
from rewards.scorers.safety import nsfw_logit

# Rewards [2,3] and weights [2,3]; members [2,3]; costs [2,2]; images: see `golden_images`.
REWARDS = torch.tensor([[0.3, -1.2, 2.0], [1.1, 0.4, -0.7]])
WEIGHTS = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
MEMBERS = torch.tensor([[1.0, 20.0, 0.3], [2.0, 26.0, 0.1]])
BASE_MEAN, BASE_STD = torch.tensor([1.5, 22.0, 0.2]), torch.tensor([0.5, 4.0, 0.1])
COSTS = torch.tensor([[0.10, 0.7], [0.04, 0.2]])
VALID = torch.tensor([[True, False], [True, True]])
LIMITS, MULTIPLIERS = [0.03, 0.5], torch.tensor([2.0, 0.5])


def golden_images() -> Tensor:
    """Two images [2,3,8,8] in [0,1]: a colour ramp, and its product with a chessboard."""
    ramp = torch.linspace(0, 1, 8)
    red, green = ramp[:, None].expand(8, 8), ramp[None].expand(8, 8)
    image = torch.stack([red, green, (red * green + 0.25) / 1.25])
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    return torch.stack([image, image * (0.5 + 0.5 * board)])


def member_values(how: str, direction: int) -> list[float]:
    value, std = aggregate(MEMBERS, BASE_MEAN, BASE_STD, how, direction)
    return [*value.tolist(), *std.tolist()]


def multipliers_after_two_steps(duals: Controller) -> list[float]:
    duals.update(torch.tensor([0.4, -0.1]))
    duals.update(torch.tensor([0.2, 0.3]))
    return duals.multipliers.tolist()


def score(name: str) -> list[float]:
    images = golden_images()
    return build(name).score(ImageBatch(images, ["a red circle"] * 2)).values.tolist()


def axes(width: int) -> Tensor:
    """Two feature vectors of length 1: equal entries, and the first axis."""
    return torch.stack([torch.ones(width) / width**0.5, torch.eye(width)[0]])


def head_values(name: str, width: int) -> list[float]:
    head = load_head(name, {"weight", "bias"})
    return affine(axes(width), head["weight"], head["bias"]).tolist()


def nsfw_values(name: str, width: int) -> list[float]:
    return nsfw_logit(axes(width), load_file(ASSETS / name / "head.safetensors")).tolist()


def row_values(measure: Callable[[Tensor], Tensor]) -> list[float]:
    """Three unit vectors in a plane: 0, 90 and 60 degrees."""
    return measure(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.75**0.5]])).tolist()


def fitted() -> list[float]:
    calibration = Calibration.fit(("a", "b", "c"), REWARDS, torch.ones_like(REWARDS).bool())
    return [*calibration.mean, *calibration.std]


def violations() -> list[float]:
    senses = zip(LIMITS, ("<=", ">="), strict=True)
    return [violation(COSTS[:, j], VALID[:, j], *limit)[0] for j, limit in enumerate(senses)]


ROWS: dict[str, tuple[Callable[[], list[float]], list[float]]] = {
    "linear": (lambda: utility("linear")(REWARDS, WEIGHTS).tolist(), [0.06, 0.49]),
    "chebyshev": (
        lambda: utility("chebyshev", {"rho": 0.1})(REWARDS, WEIGHTS).tolist(),
        [-2.394, -1.391],
    ),
    "smooth_chebyshev": (
        lambda: utility("smooth_chebyshev", {"mu": 0.1})(REWARDS, WEIGHTS).tolist(),
        [-2.1, -1.195444],
    ),
    "augmented_chebyshev": (
        lambda: utility("augmented_chebyshev")(REWARDS, WEIGHTS).tolist(),
        [-2.247, -1.2655],
    ),
    "p_norm": (
        lambda: utility("p_norm")(REWARDS, WEIGHTS).tolist(),
        [-2.10251, -1.338691],
    ),
    "nash": (
        lambda: utility("nash")(REWARDS, WEIGHTS).tolist(),
        [1.015509, 1.218842],
    ),
    "pbi": (
        lambda: utility("pbi")(REWARDS, WEIGHTS).tolist(),
        [-19.839861, -18.836808],
    ),
    "cosmos": (
        lambda: utility("cosmos")(REWARDS, WEIGHTS).tolist(),
        [3.853551, 4.37693],
    ),
    "utility_gradient": (
        lambda: utility_gradient("smooth_chebyshev", REWARDS, WEIGHTS, mu=1.0)[0].tolist(),
        [0.030556, 0.363521, 0.036054],
    ),
    "aggregate mean": (
        lambda: member_values("mean", 1),
        [7.644444, 8.411111, 1.595944, 1.770541],
    ),
    "aggregate min": (lambda: member_values("min", 1), [6.366667, 6.366667, 1.595944, 1.770541]),
    "aggregate min of a cost": (
        lambda: member_values("min", -1),
        [9.433333, 9.433333, 1.595944, 1.770541],
    ),
    "aggregate mean-std": (
        lambda: member_values("mean-std", 1),
        [6.048501, 6.640571, 1.595944, 1.770541],
    ),
    "aggregate uwo": (
        lambda: member_values("uwo", 1),
        [6.813889, 7.388889, 1.595944, 1.770541],
    ),
    "aggregate soft-min": (
        lambda: member_values("soft-min", 1),
        [7.200272, 7.683904, 1.595944, 1.770541],
    ),
    "violation": (violations, [0.04, 0.3]),
    "lagrangian_penalty": (
        lambda: lagrangian_penalty(COSTS, VALID, LIMITS, MULTIPLIERS, ["<=", ">="]).tolist(),
        [0.14, 0.32],
    ),
    "exceedances": (lambda: exceedances(COSTS[:, 0], 0.05, "<=", 0.1).tolist(), [1.0, 0.0]),
    "DualAscent": (
        lambda: multipliers_after_two_steps(DualAscent(2, learning_rate=0.5, ema=0.25)),
        [0.2625, 0.103125],
    ),
    # K_I 0.5, K_P 2, average 0.25: xi = (0.4, -0.1), (0.25, 0.2); 0.2 + 0.1 - 0.3, 0 + 0.15 + 0.6
    "NuPI": (lambda: multipliers_after_two_steps(NuPI(2, 0.5, 2.0, ema=0.25)), [0.0, 0.75]),
    # I = (0.3, 0.15), P = (0.25, 0.2), D = (0, 0.3): 0.3 + 0.5, 0.15 + 0.4 + 0.3
    "PID": (lambda: multipliers_after_two_steps(PID(2, 0.5, 2.0, 1.0, 0.25)), [0.8, 0.85]),
    "Calibration.fit": (fitted, [0.7, -0.4, 0.65, 0.565685, 1.131371, 1.909188]),
    "brightness": (lambda: score("brightness"), [0.4886, 0.366334]),
    "colorfulness": (lambda: score("colorfulness"), [0.503049, 0.402839]),
    "contrast": (lambda: score("contrast"), [0.235999, 0.220932]),
    "saturation": (lambda: score("saturation"), [0.583141, 0.583141]),
    "laion_aesthetic_v2": (lambda: head_values("laion_aesthetic_v2", 768), [4.883285, 4.545052]),
    "laion_aesthetic_v1_l14": (
        lambda: head_values("laion_aesthetic_v1_l14", 768),
        [1.51313, 5.402092],
    ),
    "laion_aesthetic_v1_b32": (
        lambda: head_values("laion_aesthetic_v1_b32", 512),
        [3.908163, 4.62955],
    ),
    "laion_aesthetic_v1_b16": (
        lambda: head_values("laion_aesthetic_v1_b16", 512),
        [1.257849, 3.84089],
    ),
    "laion_nsfw_l14": (lambda: nsfw_values("laion_nsfw_l14", 768), [-11.042404, -4.699338]),
    "laion_nsfw_b32": (lambda: nsfw_values("laion_nsfw_b32", 512), [-15.382058, -20.898148]),
    "clip_diversity": (lambda: row_values(mean_distance), [0.75, 0.566987, 0.316987]),
    "vendi_score": (lambda: row_values(vendi_score), [1.889882] * 3),
    "ocr_accuracy": (lambda: [text_accuracy("opem late", "Open Late")], [0.875]),
    "geneval_share": (lambda: [GenEvalShare.verdict([True, False, True])], [0.666667]),
    "vlm_judge": (lambda: [read_score("Score: 7.5/10", JudgeSettings()) or 0.0], [0.75]),
    "sharpness": (lambda: score("sharpness"), [0.0, 0.9772]),
}


@pytest.mark.parametrize("name", ROWS)
def test_value(name):
    function, expected = ROWS[name]
    assert function() == pytest.approx(expected, abs=1e-4)


def test_every_scalarisation_and_every_closed_form_on_pixels_has_a_row():
    # The size of a JPEG file depends on the libjpeg that Pillow was built with.
    closed_forms = {
        name
        for name, facts in FACTS.items()
        if facts.source.startswith("rewards.scorers.quality:") and facts.differentiable
    }
    assert closed_forms | set(SCALARIZATIONS) <= set(ROWS)
