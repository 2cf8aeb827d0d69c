"""Intervals: exact binomial bounds and the crossed bootstrap, against known coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from morl.fronts.indicators import hypervolume
from morl.fronts.intervals import (
    Bootstrapped,
    bootstrap,
    clopper_pearson,
    resampling,
    standard_error,
    upper_bound,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class TestClopperPearson:
    def test_no_events_by_hand(self):
        # high solves (1 - p)^n = a / 2.
        low, high = clopper_pearson(0, 50)
        assert low == 0.0
        assert high == pytest.approx(1 - 0.025 ** (1 / 50))
        assert upper_bound(0, 50) == pytest.approx(1 - 0.05 ** (1 / 50))

    def test_all_events_by_hand(self):
        low, high = clopper_pearson(50, 50)
        assert high == 1.0
        assert low == pytest.approx(0.025 ** (1 / 50))
        assert upper_bound(50, 50) == 1.0

    @given(st.integers(1, 199), st.floats(0.5, 0.99))
    def test_each_end_leaves_its_tail(self, events, confidence):
        # By definition P(X >= x | low) = P(X <= x | high) = a / 2.
        low, high = clopper_pearson(events, 200, confidence)
        tail = (1 - confidence) / 2
        assert binom.sf(events - 1, 200, low) == pytest.approx(tail)
        assert binom.cdf(events, 200, high) == pytest.approx(tail)
        assert binom.cdf(events, 200, upper_bound(events, 200, confidence)) == pytest.approx(
            1 - confidence
        )

    @given(st.integers(0, 30), st.floats(0, 1))
    def test_it_covers_at_least_as_often_as_it_says(self, count, rate):
        count += 1
        ends = [clopper_pearson(x, count, 0.9) for x in range(count + 1)]
        covered = sum(
            float(binom.pmf(x, count, rate))
            for x, (low, high) in enumerate(ends)
            if low <= rate <= high
        )
        assert covered >= 0.9 - 1e-9

    @pytest.mark.parametrize(("events", "count"), [(0, 0), (-1, 5), (6, 5)])
    def test_impossible_counts_are_refused(self, events, count):
        with pytest.raises(ValueError, match=f"got {events} of {count}"):
            clopper_pearson(events, count)
        with pytest.raises(ValueError, match="events"):
            upper_bound(events, count)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
    def test_a_confidence_lies_between_0_and_1(self, confidence):
        with pytest.raises(ValueError, match=f"got {confidence}"):
            clopper_pearson(1, 2, confidence)


class TestStandardError:
    def test_of_single_prompts_it_is_the_usual_one(self):
        samples = rng().normal(size=(4, 20, 3))
        usual = samples.std(axis=1, ddof=1) / np.sqrt(20)
        np.testing.assert_allclose(standard_error(samples, range(20)), usual)

    def test_copies_of_a_prompt_add_nothing(self):
        samples = rng().normal(size=(4, 10, 3))
        twice = np.repeat(samples, 2, axis=1)
        found = standard_error(twice, [i // 2 for i in range(20)])
        np.testing.assert_allclose(found, standard_error(samples, range(10)))

    def test_prompts_of_unequal_size_by_hand(self):
        # Values 1 1 | 4, mean 2: sums of residuals -2 and 2; SE^2 = 2 / 1 * (4 + 4) / 9.
        samples = np.array([[1.0], [1.0], [4.0]])
        assert standard_error(samples, [0, 0, 1])[0] == pytest.approx(4 / 3)

    def test_what_does_not_apply_is_left_out(self):
        samples = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 7.0]])
        # Both objectives have two values, 1 from their mean: SE^2 = 3 / 2 * (1 + 1) / 4.
        np.testing.assert_allclose(standard_error(samples, range(3)), np.sqrt([0.75, 0.75]))

    def test_one_prompt_has_none(self):
        with pytest.raises(ValueError, match="two different prompts"):
            standard_error(np.ones((3, 2)), [7, 7, 7])


class TestBootstrap:
    def test_the_value_is_the_mean_over_seeds_of_the_statistic(self):
        # Seeds have mean rewards (1, 1) and (0.5, 0.5): hypervolumes 1 and 0.25; their mean is not
        # the hypervolume of the mean, 0.5625.
        samples = np.ones((2, 1, 3, 2)) * np.array([1.0, 0.5])[:, None, None, None]
        drawn = resampling(rng(), 2, range(3), 200)
        found = bootstrap(samples, hypervolume, drawn)
        assert found.value == pytest.approx(0.625)
        assert set(np.round(found.replicates, 6)) == {1.0, 0.625, 0.25}

    def test_replicates_are_means_over_the_prompts_drawn(self):
        samples = rng().normal(size=(1, 2, 5, 1))
        drawn = resampling(rng(1), 1, range(5), 50)
        found = bootstrap(samples, lambda mean: float(mean[1, 0]), drawn)
        expected = drawn.counts @ samples[0, 1, :, 0] / 5
        np.testing.assert_allclose(found.replicates, expected)

    def test_noises_of_one_prompt_come_and_go_together(self):
        drawn = resampling(rng(), 1, [0, 1, 0, 1, 2, 2], 30)
        np.testing.assert_array_equal(drawn.counts[:, 0], drawn.counts[:, 2])
        np.testing.assert_array_equal(drawn.counts[:, 4], drawn.counts[:, 5])
        np.testing.assert_array_equal(drawn.counts.sum(axis=1), 6)

    def test_the_same_generator_gives_the_same_draw(self):
        one, other = (resampling(rng(3), 3, range(8), 20) for _ in range(2))
        np.testing.assert_array_equal(one.seeds, other.seeds)
        np.testing.assert_array_equal(one.counts, other.counts)

    def test_what_does_not_apply_is_left_out(self):
        samples = np.array([1.0, np.nan, 3.0, 3.0, 3.0, 3.0])[None, None, :, None]
        drawn = resampling(rng(), 1, range(6), 50)
        found = bootstrap(samples, lambda mean: float(mean[0, 0]), drawn)
        assert found.value == pytest.approx(2.6)
        counts = drawn.counts[:, [0, 2, 3, 4, 5]]
        expected = counts @ [1.0, 3, 3, 3, 3] / counts.sum(axis=1)
        np.testing.assert_allclose(found.replicates, expected)

    def test_paired_differences_are_much_tighter_than_unpaired_ones(self):
        # Two methods differ by exactly 0.1 on every prompt; the prompts differ by 1.
        first = rng().normal(size=(1, 1, 40, 1))
        drawn = resampling(rng(1), 1, range(40))

        def at(samples, shared):
            return bootstrap(samples, lambda mean: float(mean[0, 0]), shared)

        paired = (at(first + 0.1, drawn) - at(first, drawn)).interval()
        assert paired.value == pytest.approx(0.1)
        assert paired.high - paired.low < 1e-9
        apart = (at(first + 0.1, drawn) - at(first, resampling(rng(2), 1, range(40)))).interval()
        assert apart.high - apart.low > 0.5

    def test_the_interval_holds_the_middle_of_the_replicates(self):
        found = Bootstrapped(0.0, np.arange(101.0)).interval(0.9)
        assert (found.value, found.low, found.high) == pytest.approx((0.0, 5.0, 95.0))

    def test_it_covers_a_mean_as_often_as_it_says(self):
        # 300 studies of 60 prompts: a 90 % interval misses in 10 % +- 1.7 %.
        hits = 0
        for study in range(300):
            samples = rng(study).normal(size=(1, 1, 60, 1))
            drawn = resampling(rng(study + 1), 1, range(60), 300)
            found = bootstrap(samples, lambda mean: float(mean[0, 0]), drawn).interval(0.9)
            hits += found.low <= 0.0 <= found.high
        assert 0.84 < hits / 300 < 0.95

    def test_seeds_that_differ_widen_the_interval(self):
        noise = rng().normal(size=(1, 1, 50, 1))
        seeds = np.array([-1.0, 0, 1, 2, -2])[:, None, None, None]
        drawn = resampling(rng(1), 5, range(50))

        def width(samples):
            found = bootstrap(samples, lambda mean: float(mean[0, 0]), drawn).interval()
            return found.high - found.low

        assert width(noise + seeds) > 2 * width(np.repeat(noise, 5, axis=0))

    def test_another_shape_than_drawn_is_refused(self):
        with pytest.raises(ValueError, match=r"3 seeds and 4 prompts.*\[2, 1, 4, 1\]"):
            bootstrap(np.ones((2, 1, 4, 1)), hypervolume, resampling(rng(), 3, range(4), 5))

    def test_a_reward_that_hardly_ever_applies_is_refused(self):
        samples = np.full((1, 1, 6, 1), np.nan)
        samples[0, 0, 0] = 1.0
        with pytest.raises(ValueError, match="measure more images"):
            bootstrap(samples, hypervolume, resampling(rng(), 1, range(6), 100))

    @pytest.mark.parametrize(
        ("seeds", "groups", "replicates"), [(0, [0], 1), (1, [], 1), (1, [0], 0)]
    )
    def test_nothing_to_draw_is_refused(self, seeds, groups, replicates):
        with pytest.raises(ValueError, match="at least one seed"):
            resampling(rng(), seeds, groups, replicates)
