"""Weight vectors: reading, grids, paths and stratified sampling."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morl.errors import WeightError
from morl.weights import (
    WeightNote,
    das_dennis,
    edge_path,
    parse_weights,
    region_vertices,
    sample_weights,
)

NAMES = ("aesthetic", "alignment", "safety")


def on_simplex(weights) -> bool:
    return bool((weights >= 0).all()) and bool((weights.sum(-1) - 1).abs().max() < 1e-6)


class TestParse:
    @pytest.mark.parametrize(
        "given_weights",
        [
            "aesthetic=0.5, alignment=0.25,safety=0.25",
            "0.5,0.25,0.25",
            {"safety": 0.25, "aesthetic": 0.5, "alignment": 0.25},
            [0.5, 0.25, 0.25],
            torch.tensor([0.5, 0.25, 0.25]),
        ],
    )
    def test_every_form_reads_the_same(self, given_weights):
        assert parse_weights(given_weights, NAMES).tolist() == [0.5, 0.25, 0.25]

    def test_omitted_objectives_are_zero_and_that_is_said(self):
        with pytest.warns(WeightNote, match="leave out safety"):
            weights = parse_weights({"aesthetic": 0.75, "alignment": 0.25}, NAMES)
        assert weights.tolist() == [0.75, 0.25, 0.0]

    def test_other_sums_are_normalised_and_that_is_said(self):
        # (2, 1, 1) / 4
        with pytest.warns(WeightNote, match="sum to 4; normalised to aesthetic=0.5"):
            assert parse_weights([2, 1, 1], NAMES).tolist() == [0.5, 0.25, 0.25]

    def test_a_note_is_shown_once(self):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("default")
            for _ in range(3):
                parse_weights([2, 1, 1], NAMES)
        assert len(shown) == 1

    @pytest.mark.parametrize(
        ("given_weights", "message"),
        [
            ("asthetic=1", "no objective is called 'asthetic'; nearest: 'aesthetic'"),
            ("aesthetic=-0.5,alignment=1", "'aesthetic' must be at least 0; got -0.5"),
            ([math.nan, 0.5, 0.5], "'aesthetic' must be finite; got nan"),
            ([math.inf, 0.5, 0.5], "'aesthetic' must be finite; got inf"),
            ([0.0, 0.0, 0.0], "one weight at least must be positive"),
            ({}, "one weight at least must be positive"),
            ("", "must give all 3"),
            ([0.5, 0.5], "must give all 3 .aesthetic, alignment, safety.; got 2"),
            ("aesthetic=0.5,aesthetic=0.5", "'aesthetic' is given twice"),
            ("aesthetic=0.5,0.5", "name every weight or none"),
            ("aesthetic=half", "name=number,name=number; got 'aesthetic=half'"),
        ],
    )
    def test_what_is_not_a_weight_vector_is_refused(self, given_weights, message):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightNote)
            with pytest.raises(WeightError, match=message):
                parse_weights(given_weights, NAMES)

    def test_all_problems_are_listed_in_one_go(self):
        with pytest.raises(WeightError) as error:
            parse_weights("asthetic=1,alignment=-1,safety=nan", NAMES)
        assert len(error.value.problems) == 3

    @given(st.lists(st.floats(1e-10, 1e10), min_size=3, max_size=3))
    def test_any_positive_numbers_land_on_the_simplex(self, numbers):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightNote)
            assert on_simplex(parse_weights(numbers, NAMES))


class TestGrid:
    def test_three_objectives_in_three_parts(self):
        # C(3 + 2, 2) = 10 multiples of 1/3, first objective first.
        grid = das_dennis(3, 3)
        assert grid.shape == (10, 3)
        assert grid[0].tolist() == [1, 0, 0]
        assert grid[-1].tolist() == [0, 0, 1]
        assert torch.allclose(grid * 3, (grid * 3).round(), atol=1e-6)
        assert len({tuple(row) for row in (grid * 3).round().int().tolist()}) == 10

    def test_limits(self):
        assert das_dennis(1, 3).tolist() == [[1.0]]
        assert das_dennis(3, 1).tolist() == torch.eye(3).tolist()

    @pytest.mark.parametrize(("k", "partitions"), [(1, 1), (2, 6), (4, 3), (5, 2)])
    def test_sizes(self, k, partitions):
        grid = das_dennis(k, partitions)
        assert len(grid) == math.comb(partitions + k - 1, k - 1)
        assert on_simplex(grid)

    @pytest.mark.parametrize(("k", "partitions"), [(0, 3), (3, 0)])
    def test_nothing_to_lay_out(self, k, partitions):
        with pytest.raises(WeightError, match="k >= 1 and partitions >= 1"):
            das_dennis(k, partitions)


class TestEdgePath:
    def test_three_points(self):
        expected = [[0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
        assert edge_path(3, 1, 2, 3).tolist() == expected

    def test_reversed_ends_give_the_reversed_path(self):
        assert torch.allclose(edge_path(3, 0, 2, 7).flip(0), edge_path(3, 2, 0, 7))

    @pytest.mark.parametrize(("i", "j", "points"), [(0, 0, 7), (0, 3, 7), (-1, 0, 7), (0, 1, 1)])
    def test_no_edge(self, i, j, points):
        with pytest.raises(WeightError):
            edge_path(3, i, j, points)


class TestRegion:
    def test_the_whole_simplex_has_the_unit_vectors(self):
        assert torch.equal(region_vertices(3), torch.eye(3, dtype=torch.float64))
        bounded = region_vertices(3, [0, 0, 0], [1, 1, 1])
        assert sorted(bounded.tolist()) == sorted(torch.eye(3).tolist())

    def test_a_cut_corner(self):
        # w_0 <= 0.6 cuts the corner (1, 0, 0) into (0.6, 0.4, 0) and (0.6, 0, 0.4).
        corners = {tuple(row) for row in region_vertices(3, high=[0.6, 1, 1]).tolist()}
        assert corners == {(0.6, 0.4, 0.0), (0.6, 0.0, 0.4), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)}

    def test_lower_bounds_shrink_the_simplex(self):
        # low = 0.2 each leaves 1 - 0.6 = 0.4 to give to one objective.
        corners = region_vertices(3, low=[0.2, 0.2, 0.2])
        assert sorted(corners.max(dim=1).values.tolist()) == pytest.approx([0.6] * 3)

    def test_one_point_is_a_region(self):
        corners = region_vertices(2, low=[0.3, 0.7])
        assert corners.tolist() == [pytest.approx([0.3, 0.7])]

    @pytest.mark.parametrize(
        ("low", "high", "message"),
        [
            ([0.6, 0.6], None, "no weight vector lies between"),
            (None, [0.3, 0.3], "no weight vector lies between"),
            ([0.5, 0.0], [0.4, 1.0], "0 <= low <= high <= 1"),
            ([-0.1, 0.0], None, "0 <= low <= high <= 1"),
            ([0.1], None, "must have 2 entries"),
        ],
    )
    def test_an_empty_region_is_refused(self, low, high, message):
        with pytest.raises(WeightError, match=message):
            region_vertices(2, low, high)


def sample(n, k, seed=0, **options):
    return sample_weights(torch.Generator().manual_seed(seed), n, k, **options)


class TestSample:
    def test_counts_of_the_strata_are_exact_where_the_shares_divide(self):
        # 64 x (1/4, 1/4, 1/2): 16 rows with two zeros, 16 with one, 32 with none, for every seed.
        for seed in range(5):
            zeros = (sample(64, 3, seed) == 0).sum(dim=1)
            assert [int((zeros == n).sum()) for n in (2, 1, 0)] == [16, 16, 32]

    def test_counts_are_right_in_the_mean_where_they_do_not(self):
        # One row a draw: a vertex in a quarter of the draws. 500 draws have a standard error of
        # sqrt(0.25 x 0.75 / 500) = 0.019; four of them bound the difference.
        vertices = sum(int(sample(1, 3, seed).max()) for seed in range(500))
        assert abs(vertices / 500 - 0.25) < 4 * 0.019

    def test_vertices_are_visited_equally_often(self):
        rows = sample(48, 3, vertex=1, edge=0)
        assert rows.sum(dim=0).tolist() == [16, 16, 16]

    def test_edges_are_visited_equally_often_and_along_their_whole_length(self):
        rows = sample(300, 3, vertex=0, edge=1)
        for unused in range(3):
            edge = rows[rows[:, unused] == 0]
            assert len(edge) == 100
            along = edge[:, (unused + 1) % 3]
            assert along.min() < 0.1
            assert along.max() > 0.9

    def test_the_interior_is_uniform(self):
        # Dirichlet(1, 1, 1): mean 1/3, variance 2/36 = 1/18 for each entry.
        rows = sample(20_000, 3, vertex=0, edge=0)
        assert rows.mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
        assert rows.var(dim=0).tolist() == pytest.approx([1 / 18] * 3, abs=0.003)

    def test_one_objective(self):
        assert sample(5, 1).tolist() == [[1.0]] * 5

    def test_no_rows(self):
        assert sample(0, 3).shape == (0, 3)

    def test_the_same_generator_state_gives_the_same_rows(self):
        assert torch.equal(sample(16, 3, seed=7), sample(16, 3, seed=7))
        assert not torch.equal(sample(16, 3, seed=7), sample(16, 3, seed=8))

    @given(
        n=st.integers(1, 40),
        k=st.integers(1, 5),
        seed=st.integers(0, 1000),
        shares=st.sampled_from([(0, 0), (1, 0), (0, 1), (0.25, 0.25), (0.3, 0.6), (0.1, 0.2)]),
        bound=st.floats(0, 0.2),
    )
    def test_rows_stay_in_their_region(self, n, k, seed, shares, bound):
        low, high = [bound / 2] * k, [1 - bound] + [1.0] * (k - 1)
        if k == 1:
            high = [1.0]
        rows = sample(n, k, seed, vertex=shares[0], edge=shares[1], low=low, high=high)
        assert rows.shape == (n, k)
        assert on_simplex(rows)
        assert bool((rows >= torch.tensor(low) - 1e-6).all())
        assert bool((rows <= torch.tensor(high) + 1e-6).all())

    @pytest.mark.parametrize(("vertex", "edge"), [(-0.1, 0), (0, -0.1), (0.7, 0.4)])
    def test_impossible_shares_are_refused(self, vertex, edge):
        with pytest.raises(WeightError, match="sum to at most 1"):
            sample(4, 3, vertex=vertex, edge=edge)
