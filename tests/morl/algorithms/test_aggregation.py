"""Aggregated gradients: projections by hand, what they promise, and when they change nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from morl.algorithms.aggregation import add_gradient, aggregate, jacobian_rows
from morl.algorithms.aggregation_facts import AGGREGATIONS, NOT_OFFERED, aggregation_problems

CONFLICT = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])


def found(name: str, rows: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    if weights is None:
        weights = torch.full((len(rows),), 1 / len(rows))
    return aggregate(name, rows, weights, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_one_objective_keeps_its_gradient(name: str) -> None:
    rows = torch.tensor([[0.3, -2.0, 1.0]])
    torch.testing.assert_close(found(name, rows), rows[0])


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_rows_that_do_not_touch_are_added_up(name: str) -> None:
    torch.testing.assert_close(found(name, 2 * torch.eye(3)[:2]), torch.tensor([2.0, 2.0, 0.0]))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.25, 0.75)])
def test_upgrad_by_hand_and_weights_in_the_rows_are_preferences(weights) -> None:
    # G = [[18, -22], [-22, 38]]. Row 1 gains 22/38 of row 2 to be orthogonal to it; row 2 gains
    # 22/18 of row 1. Rows times weights: the same projections, times weights.
    projected = torch.tensor([[1.0, 22 / 38], [22 / 18, 1.0]]) @ CONFLICT
    asked = torch.tensor(weights)
    torch.testing.assert_close(found("upgrad", asked[:, None] * CONFLICT), asked @ projected)


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
def test_no_objective_is_harmed_where_the_sum_harms_one(name: str) -> None:
    draw = torch.Generator().manual_seed(1)
    harmed = 0
    for _ in range(20):
        rows = torch.randn(3, 4, generator=draw) * torch.tensor([[10.0], [1.0], [0.1]])
        effect = (rows @ found(name, rows)) / rows.norm(dim=1)
        assert (effect >= -1e-4 * rows.norm()).all()
        harmed += int((rows @ rows.sum(dim=0) < 0).any())
    assert harmed > 5


def test_pcgrad_takes_the_conflict_out_of_two_rows() -> None:
    # g1 - (g1.g2 / |g2|^2) g2 + g2 - (g1.g2 / |g1|^2) g1, with g1.g2 = -22.
    expected = (1 + 22 / 18) * CONFLICT[0] + (1 + 22 / 38) * CONFLICT[1]
    torch.testing.assert_close(found("pcgrad", CONFLICT), expected)


def test_mgda_is_twice_the_shortest_vector_between_two_rows() -> None:
    # |t (1, 0) + (1 - t) (0, 2)| is least at t = 4/5.
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(found("mgda", rows), 2 * torch.tensor([0.8, 0.4]))


def test_config_follows_the_preference() -> None:
    along = (CONFLICT / CONFLICT.norm(dim=1, keepdim=True)) @ found(
        "config", CONFLICT, torch.tensor([0.8, 0.2])
    )
    assert float(along[0] / along[1]) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_objectives_that_nobody_asks_for_take_no_part(name: str) -> None:
    rows = torch.cat([CONFLICT, torch.zeros(1, 3)])
    weights = torch.tensor([0.6, 0.2, 0.2])
    torch.testing.assert_close(
        found(name, rows, weights), found(name, CONFLICT, torch.tensor([0.75, 0.25]))
    )


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_what_is_not_finite_is_passed_on_to_be_skipped(name: str) -> None:
    rows = torch.tensor([[1.0, math.nan], [1.0, 2.0]])
    assert found(name, rows).isnan().any()
    assert torch.equal(found(name, torch.zeros(2, 3)), torch.zeros(3))


def test_random_order_is_a_function_of_the_generator_alone() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first, second = found("pcgrad", rows), found("pcgrad", rows)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_the_gradients_and_add_up_in_the_parameters() -> None:
    used, unused = nn.Parameter(torch.tensor([[1.0, 2.0]])), nn.Parameter(torch.zeros(3))
    losses = torch.stack([used.square().sum(), 3 * used[0, 1]])
    rows = jacobian_rows(losses, [used, unused])
    assert rows.tolist() == [[2.0, 4.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0, 0.0]]
    used.grad = torch.ones(1, 2)
    add_gradient([used, unused], rows.sum(dim=0))
    assert used.grad.tolist() == [[3.0, 8.0]]
    assert unused.grad is not None
    assert unused.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("upgrd", "reward_gradient", 1), "nearest: 'upgrad'"),
        (("cagrad", "reward_gradient", 1), "cvxpy and clarabel"),
        (("upgrad", "denoising", 1), "algorithm.name: draft"),
        (("upgrad", "reward_gradient", 2), "needs training.devices = 1; got 2"),
    ],
)
def test_what_cannot_be_aggregated_is_one_clear_problem(asked, message) -> None:
    (problem,) = aggregation_problems(*asked)
    assert message in problem


def test_none_is_always_possible() -> None:
    assert list(aggregation_problems("none", "denoising", 8)) == []
    assert not NOT_OFFERED.keys() & AGGREGATIONS.keys()
