"""From scores to readings, at each weight vector and objective."""

from dataclasses import replace

import pytest
import torch

from morl.guard.readings import Look, View, held_out_utility, image_statistics, readings, worst

NAMES = ("a", "b")


def view(rewards: list[list[float]], held: list[list[float]] | None = None) -> View:
    proxies = torch.tensor(rewards, dtype=torch.float32)
    every = torch.ones_like(proxies).bool()
    return View(
        proxies,
        every,
        torch.full_like(proxies, 0.5),
        None if held is None else torch.tensor(held, dtype=torch.float32),
        None if held is None else every,
        torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]]),
        2.0,
        0.1,
    )


# Mean 1 and 10, standard deviation (of the population) 1 and 10.
BASE = view([[0.0, 0.0], [2.0, 20.0]], [[0.0, 0.0], [2.0, 20.0]])
WEIGHTS = torch.tensor([[1.0, 0.0], [0.5, 0.5]])


def look(*views: View) -> Look:
    return Look(WEIGHTS, ("a=1", "a=0.5 b=0.5"), views)


def test_held_out_utility_is_in_base_standard_deviations() -> None:
    seen = look(view([[0, 0], [0, 0]], [[2, 0], [1, 0]]), view([[0, 0]] * 2, [[3, 30], [1, 10]]))
    utility = held_out_utility(seen, BASE)
    # (2 - 1) / 1 and 0; half of (3 - 1) / 1 + (30 - 10) / 10, and 0
    assert utility is not None
    torch.testing.assert_close(utility, torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double())


def test_nothing_held_out() -> None:
    bare = replace(BASE, held_out=None, held_out_valid=None)
    seen = look(bare, bare)
    assert held_out_utility(seen, bare) is None
    assert "gap" not in readings(seen, bare, NAMES, None)


def test_the_base_model_reads_as_unchanged() -> None:
    found = readings(look(BASE, BASE), BASE, NAMES, held_out_utility(look(BASE, BASE), BASE))
    assert worst(found) == {
        "disagreement": 1.0,
        "gap": 0.0,
        "held_out_drop": 0.0,
        "diversity": 1.0,
        "artefacts": 1.0,
        "statistics": 0.0,
    }


def test_each_signal_moves() -> None:
    hacked = replace(
        view([[3.0, 0.0], [5.0, 20.0]], [[0.0, 0.0], [0.0, 20.0]]),
        std=torch.tensor([[1.0, 0.5], [2.0, 0.5]]),
        statistics=BASE.statistics + torch.tensor([0.0, 0.0, 0.2]),
        distance=0.5,
        detail=0.3,
    )
    best = held_out_utility(look(BASE, BASE), BASE)
    found = readings(look(hacked, BASE), BASE, NAMES, best)
    at = {
        (signal, reading.weights, reading.of): reading.value
        for signal, many in found.items()
        for reading in many
    }
    assert at["disagreement", "a=1", "a"] == pytest.approx(3.0)  # 1.5 over 0.5
    assert at["disagreement", "a=1", "b"] == pytest.approx(1.0)
    # the proxy gained 3 sd (from 1 to 4), its check lost 1
    assert at["gap", "a=1", "a"] == pytest.approx(4.0)
    # falls 0 and 2: mean 1, std sqrt 2, error 1
    assert at["held_out_drop", "a=1", ""] == pytest.approx(1.0)
    assert at["held_out_drop", "a=0.5 b=0.5", ""] == 0.0
    assert at["diversity", "a=1", ""] == pytest.approx(0.25)
    assert at["artefacts", "a=1", ""] == pytest.approx(3.0)
    # 0.2 over a standard deviation of sqrt 0.02
    assert at["statistics", "a=1", "sharpness"] == pytest.approx(2**0.5, rel=1e-5)
    assert worst(found)["diversity"] == pytest.approx(0.25)


def test_what_does_not_apply_does_not_count() -> None:
    nowhere = torch.tensor([[True, True], [False, True]])
    masked = replace(BASE, proxy_valid=nowhere, std=torch.tensor([[0.5, 0.5], [99.0, 0.5]]))
    found = readings(look(masked, masked), BASE, NAMES, None)
    assert worst(found)["disagreement"] == pytest.approx(1.0)


def test_members_that_never_disagree_give_no_reading() -> None:
    calm = replace(BASE, std=torch.zeros(2, 2))
    assert "disagreement" not in readings(look(calm, calm), calm, NAMES, None)


def test_statistics_of_images() -> None:
    # pure red: full saturation, no contrast, nothing sharp
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(1, 3, 8, 8)
    torch.testing.assert_close(image_statistics(red), torch.tensor([[1.0, 0.0, 0.0]]))
