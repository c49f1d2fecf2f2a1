import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdscope import KDScopeError
from kdscope.measures import statistics
from kdscope.measures.seeds import two_level_interval
from kdscope.measures.statistics import (
    bootstrap_mean,
    exact_mean,
    jackknife_interval,
    paired_bootstrap,
    subsample_interval,
    wilson,
)


def covered(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1), seed=st.integers(0, 2**31))
def test_exact_mean_has_no_order(values, seed):
    values = np.array(values)
    shuffled = np.random.default_rng(seed).permutation(values)
    assert exact_mean(values) == exact_mean(shuffled)
    assert exact_mean(values) == pytest.approx(values.mean(), rel=1e-9, abs=1e-9)
    assert exact_mean(values, np.full(len(values), 2.0)) == pytest.approx(exact_mean(values), rel=1e-12, abs=1e-300)


def test_exact_mean_of_nothing_is_nan():
    assert math.isnan(exact_mean(np.array([])))


@given(hits=st.integers(0, 50), more=st.integers(0, 50), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_against_scipy(hits, more, confidence):
    n = hits + more
    if not n:
        assert wilson(0.0, 0, confidence) == (0, 1)
        return
    expected = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    low, high = wilson(hits / n, n, confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= hits / n <= high <= 1


def test_wilson_half_widths_as_published():
    """At a share of .85 the half-width is .007 with 10,000 images and .003 with 50,000."""
    for n, half in ((10_000, 0.007), (50_000, 0.003)):
        low, high = wilson(0.85, n)
        assert (high - low) / 2 == pytest.approx(half, abs=5e-4)


@pytest.mark.parametrize(("share", "n"), [(0.5, 100), (0.85, 400), (0.97, 300)])
def test_wilson_covers(share, n):
    hits = np.arange(n + 1)
    covers = np.array([low <= share <= high for low, high in (wilson(h / n, n) for h in hits)])
    assert stats.binom.pmf(hits, n, share)[covers].sum() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(KDScopeError, match="between 0 and 1"):
        wilson(0.5, 10, confidence)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_bootstrap_against_scipy(method):
    values = np.random.default_rng(0).exponential(size=60)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, vectorized=True, rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = bootstrap_mean(values, method=method, resamples=20_000)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_bootstrap_covers_a_skewed_mean():
    rng = np.random.default_rng(3)
    intervals = [bootstrap_mean(rng.exponential(size=100), resamples=500, seed=seed) for seed in range(400)]
    assert covered(intervals, 1.0) == pytest.approx(0.94, abs=0.03)


def test_bootstrap_of_a_weighted_mean():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=400), np.where(np.arange(400) < 390, 1.0, 20.0)
    low, high = bootstrap_mean(values, weights, resamples=4000, method="percentile")
    centre = exact_mean(values, weights)
    error = np.sqrt(np.square(weights * (values - centre)).sum()) / weights.sum()
    assert low < centre < high
    assert (high - low) / 2 / 1.96 == pytest.approx(error, rel=0.2)
    assert bootstrap_mean(values, np.ones(400)) == pytest.approx(bootstrap_mean(values), abs=1e-12)


def test_bootstrap_at_its_edges():
    assert bootstrap_mean(np.full(7, 0.1)) == (pytest.approx(0.1), pytest.approx(0.1))
    assert all(math.isnan(bound) for bound in bootstrap_mean(np.array([1.0])))
    assert bootstrap_mean(np.arange(9.0), seed=1) == bootstrap_mean(np.arange(9.0), seed=1)
    assert bootstrap_mean(np.arange(9.0), seed=1) != bootstrap_mean(np.arange(9.0), seed=2)
    with pytest.raises(KDScopeError, match="bca or percentile"):
        bootstrap_mean(np.arange(9.0), method="basic")


def test_resamples_in_blocks_are_the_same_number_of_draws(monkeypatch):
    monkeypatch.setattr("kdscope.measures.statistics.BUDGET", 700)
    low, high = bootstrap_mean(np.arange(100.0), resamples=1000)
    assert (high - low) / 2 / 1.96 == pytest.approx(2.887, rel=0.1)


def test_paired_bootstrap_sees_what_unpaired_cannot():
    rng = np.random.default_rng(0)
    b = rng.normal(size=500) * 10
    a = b + 0.1 + 0.2 * rng.normal(size=500)
    difference, low, high = paired_bootstrap(a, b)
    assert low < difference < high
    assert low > 0.05
    assert high < 0.15
    a[3] = np.nan
    assert paired_bootstrap(a, b)[0] == pytest.approx(np.nanmean(a - b), abs=1e-12)
    with pytest.raises(KDScopeError, match="same images"):
        paired_bootstrap(a, b[1:])


def test_seeds_and_images_add_in_squares():
    values = np.random.default_rng(0).normal(size=(3, 50)) + np.array([[0.0], [0.5], [1.0]])
    low, high = two_level_interval(values)
    below, above = bootstrap_mean(values.mean(axis=0))
    mean, between = values.mean(), 4.302653 * values.mean(axis=1).std(ddof=1) / math.sqrt(3)  # t of 2 at 0.975
    assert low == pytest.approx(mean - math.hypot(between, mean - below))
    assert high == pytest.approx(mean + math.hypot(between, above - mean))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("of_seeds", "of_images", "rest"), [(0.1, 0.1, 0.1), (0.1, 0.4, 0.3), (0.0, 0.3, 0.3)])
def test_intervals_over_seeds_hold_as_often_as_they_say(seeds, of_seeds, of_images, rest):
    """The pigeonhole bootstrap over seeds held 67, 77 and 89 % of the first kind for two, three and five."""
    rng, held, trials = np.random.default_rng(seeds), 0, 500
    for _ in range(trials):
        values = of_seeds * rng.normal(size=(seeds, 1)) + of_images * rng.normal(size=(1, 40))
        low, high = two_level_interval(values + rest * rng.normal(size=(seeds, 40)), resamples=100)
        held += low <= 0 <= high
    assert held / trials >= 0.93  # 0.95 less two errors of 500 trials


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_intervals_of_pairs_in_a_ring_hold_as_often_as_they_say(seeds, shared):
    """What pairs have from their seeds is in two of them each; as if pairs were single, 85 % held where that is all."""
    rng, held, trials = np.random.default_rng(seeds), 0, 400
    for _ in range(trials):
        own = 0.1 * rng.normal(size=(seeds, 1))
        pairs = (own + np.roll(own, -1, axis=0)) / 2 if shared else own
        values = pairs + 0.1 * rng.normal(size=(1, 40)) + 0.1 * rng.normal(size=(seeds, 40))
        low, high = two_level_interval(values, resamples=100, ring=True)
        held += low <= 0 <= high
    assert held / trials >= 0.928  # 0.95 less two errors of 400 trials


def test_two_level_is_wider_than_images_alone_where_seeds_differ():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 400))
    low, high = two_level_interval(values)
    image_low, image_high = bootstrap_mean(values.mean(axis=0))
    assert high - low > 10 * (image_high - image_low)


def test_two_level_leaves_out_what_does_not_count():
    values = np.random.default_rng(0).normal(size=(4, 60))
    with_gaps = np.concatenate([values, np.full((4, 60), np.nan)], axis=1)
    low, high = two_level_interval(values, resamples=4000)
    assert two_level_interval(with_gaps, resamples=4000) == pytest.approx((low, high), abs=0.05 * (high - low))
    of_two, with_empty = values[:2], np.concatenate([values[:2], np.full((1, 60), np.nan)])
    assert two_level_interval(with_empty) == two_level_interval(of_two)
    rare = np.full((3, 40), np.nan)
    rare[:, 7] = 1.0
    assert two_level_interval(rare) == (1, 1)
    assert all(math.isnan(bound) for bound in two_level_interval(np.full((3, 5), np.nan)))


@pytest.mark.parametrize("n", [7, 500, 3000])  # the last in several blocks
@pytest.mark.parametrize("weights", [None, "some"])
def test_what_was_drawn_once_serves_again_to_the_last_bit(monkeypatch, n, weights):
    rng = np.random.default_rng(n)
    one, other = rng.normal(size=(2, n))
    weights = None if weights is None else rng.uniform(0.5, 2, n)
    monkeypatch.setattr(statistics, "KEPT", 0)
    fresh = [bootstrap_mean(values, weights, seed=seed) for seed in (3, 4) for values in (one, other)]
    monkeypatch.setattr(statistics, "KEPT", 1000 * n)
    statistics._kept.cache_clear()
    assert [bootstrap_mean(values, weights, seed=seed) for seed in (3, 4) for values in (one, other)] == fresh
    assert (statistics._kept.cache_info().misses, statistics._kept.cache_info().hits) == (2, 2)
    bootstrap_mean(np.append(one, 0.0), seed=3)
    assert statistics._kept.cache_info().currsize == 2  # what is larger is not kept


def test_two_level_at_its_edges():
    assert all(math.isnan(bound) for bound in two_level_interval(np.ones((1, 5))))
    assert two_level_interval(np.ones((3, 5))) == (1, 1)
    with pytest.raises(KDScopeError, match=r"\[seeds, images\]"):
        two_level_interval(np.ones(5))


@pytest.mark.parametrize("size", [None, 20, 150])
def test_subsampling_has_the_error_of_the_mean(size):
    values = np.random.default_rng(0).normal(size=200)
    low, high = subsample_interval(lambda rows: values[rows].mean(), 200, size=size, resamples=2000)
    assert (high - low) / 2 / 1.96 == pytest.approx(values.std(ddof=1) / math.sqrt(200), rel=0.1)
    assert low < values.mean() < high


def test_subsampling_does_not_see_duplicates():
    """A statistic of pairs of images: a bootstrap sample finds each image beside itself, a subsample does not."""
    values = np.random.default_rng(0).normal(size=100)

    def nearest(rows):
        ordered = np.sort(values[rows])
        return float(np.median(np.diff(ordered)) * len(rows))

    low, high = subsample_interval(nearest, 100)
    assert low < nearest(np.arange(100)) < high
    assert nearest(np.random.default_rng(0).integers(0, 100, 100)) < low


@pytest.mark.parametrize("size", [1, 10, 11])
def test_subsamples_must_be_subsamples(size):
    with pytest.raises(KDScopeError, match=f"a subsample of {size} of 10"):
        subsample_interval(lambda rows: 0.0, 10, size=size)


def test_jackknife_of_the_mean_is_the_t_interval():
    values = np.random.default_rng(0).normal(size=30)
    left_out = (values.sum() - values) / 29
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert jackknife_interval(values.mean(), left_out) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(jackknife_interval(0.0, np.array([1.0]))[0])
