"""The measured front: its summary on known rewards, its JSON form, and what it refuses."""

import json

import numpy as np
import pytest

from morl.fronts.front import Front
from morl.fronts.indicators import FrontConstants
from morl.weights import das_dennis

NAMES = ("aesthetic", "alignment", "preference")
WEIGHTS = das_dennis(3, 3).double().numpy()


def measured(gain: float = 1.0, noise: float = 0.3, prompts: int = 48, **changes) -> Front:
    """Rewards gain * w + what a prompt is worth + noise, on axes from -1 to 2."""
    rng = np.random.default_rng(0)
    prompt = rng.normal(size=(prompts, 3))
    own = noise * rng.normal(size=(10, prompts, 3))
    values = {
        "space": "gold",
        "names": NAMES,
        "weights": WEIGHTS,
        "samples": gain * WEIGHTS[:, None] + prompt[None] + own,
        "base": prompt,
        "groups": tuple(range(prompts)),
        "constants": FrontConstants((-1.0,) * 3, (2.0,) * 3),
    }
    return Front(**(values | changes))


def test_summary_without_noise_by_hand():
    # Rewards are w itself: u = (w + 1) / 3 and base u = 1/3. Delivered on the grid in thirds:
    # (E |w|^2 + 1) / 3 with |w|^2 = 1 (3 vertices), 5/9 (6), 1/3 (1): mean 2/3. Uniform:
    # E |w|^2 = 1/2. The best point for v is its nearest vertex: E max v_k.
    front = measured(
        samples=np.repeat(WEIGHTS[:, None], 4, axis=1),
        base=np.zeros((4, 3)),
        groups=tuple(range(4)),
    )
    found = front.summary()
    assert found["delivered_utility"]["value"] == pytest.approx(5 / 9)
    assert found["delivered_utility_uniform"]["value"] == pytest.approx(1 / 2)
    assert found["base_utility"] == pytest.approx(1 / 3)
    assert found["base_hypervolume"] == pytest.approx(1 / 27)
    best = (3 * 1 + 6 * 2 / 3 + 1 / 3) / 10
    assert found["expected_utility"] == pytest.approx((best + 1) / 3)
    assert found["steering_gap"] == pytest.approx((best - 2 / 3) / 3)
    assert found["spans"] == pytest.approx(dict.fromkeys(NAMES, 1 / 3))
    assert found["non_dominated_share"] == 1.0
    for name in NAMES:
        assert found["steering"][name] == {
            "controllability": pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0}),
            "monotonicity_violation": 0.0,
        }
    # Without noise nothing moves between replicates.
    for key in ("hypervolume", "delivered_utility"):
        assert found[key]["low"] == pytest.approx(found[key]["high"])


def test_intervals_hold_the_value_and_shrink_with_prompts():
    few, many = (measured(prompts=prompts).summary() for prompts in (24, 384))
    for key in ("hypervolume", "delivered_utility", "delivered_utility_uniform"):
        assert few[key]["low"] < few[key]["value"] < few[key]["high"]
        ratio = (few[key]["high"] - few[key]["low"]) / (many[key]["high"] - many[key]["low"])
        assert 2.5 < ratio < 6.5  # sqrt(16) = 4


def test_a_slider_that_does_nothing_shows_no_control():
    found = measured(gain=0.0, noise=0.05).summary()
    values = [found["steering"][name]["controllability"] for name in NAMES]
    assert max(value["value"] for value in values) < 0.9
    assert all(value["high"] - value["low"] > 0.5 for value in values)


def test_a_reversed_slider_is_seen():
    found = measured(gain=-1.0).summary()["steering"]["alignment"]
    assert found["controllability"]["value"] == pytest.approx(-1.0)
    assert found["monotonicity_violation"] == 1.0


def test_the_paired_error_is_free_of_what_prompts_share():
    front = measured(noise=0.05)
    between = front.paired_error[~np.eye(10, dtype=bool)]
    assert (between < 0.2 * front.standard_error.min()).all()
    assert (front.paired_error[np.eye(10, dtype=bool)] == 0).all()


def test_a_grid_without_edges_has_no_steering():
    corners = measured(weights=np.eye(3), samples=np.random.default_rng(0).normal(size=(3, 48, 3)))
    assert corners.steering() == {}


def test_what_does_not_apply_is_left_out_of_means():
    samples = measured().samples.copy()
    samples[:, ::3, 1] = np.nan
    front = measured(samples=samples)
    kept = [p for p in range(samples.shape[1]) if p % 3]
    np.testing.assert_allclose(front.mean[:, 1], samples[:, kept, 1].mean(axis=1))
    assert np.isfinite(front.standard_error).all()
    assert np.isfinite(front.summary()["hypervolume"]["high"])


def test_json_round_trip():
    samples = measured().samples.copy()
    samples[3, 5, 1] = np.nan
    front = measured(samples=samples)
    text = json.dumps(front.to_dict() | front.summary(), allow_nan=False)
    again = Front.from_dict(json.loads(text))
    assert (again.space, again.names, again.groups) == ("gold", NAMES, front.groups)
    assert again.constants == front.constants
    np.testing.assert_array_equal(again.weights, front.weights)
    np.testing.assert_allclose(again.samples, front.samples, atol=5e-7)
    np.testing.assert_allclose(again.base, front.base, atol=5e-7)
    assert again.to_dict() == front.to_dict()


def test_the_same_samples_give_the_same_summary():
    assert measured().summary() == measured().summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("a", "b")}, "2 names"),
        ({"groups": (0, 1)}, "2 groups"),
        ({"constants": FrontConstants((0.0,), (1.0,))}, "1 axes"),
        ({"samples": np.full((10, 48, 3), np.nan)}, r"aesthetic applies to no image.*\[1\.0, 0\.0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        measured(**changes)


def test_win_rates_by_hand():
    # Of four images one reward wins 2, ties 1 and loses 1: 2.5 / 4. Another applies to two images
    # and wins both. Whatever the unit, the rates are the same.
    base = np.zeros((4, 2))
    own = np.array([[1.0, np.nan], [2.0, 3.0], [0.0, np.nan], [-1.0, 1.0]])
    samples = np.stack([own, -own])
    constants = FrontConstants((-1.0, -1.0), (1.0, 1.0))
    few = Front("gold", ("a", "b"), np.eye(2), samples, base, (0, 0, 0, 0), constants)
    found = few.win_rates()
    assert [row["value"] for row in found["a"]] == [0.625, 0.375]
    assert [row["value"] for row in found["b"]] == [1.0, 0.0]
    assert found["a"][0]["low"] == found["a"][0]["high"] == 0.625  # one prompt alone was drawn
    front = measured(gain=0.3)
    cubed = measured(samples=front.samples**3, base=front.base**3)
    assert cubed.win_rates() == front.win_rates()
    interval = front.win_rates()["alignment"][0]
    assert interval["low"] < interval["value"] < interval["high"]
