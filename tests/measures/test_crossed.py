"""Means over seeds and images against sums written out, the plain t-test, and what chance gives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from kdscope.errors import KDScopeError
from kdscope.measures.crossed import crossed_mean


def by_hand(values):
    """Error and freedom of the mean, from the sums of squares of the two-way layout, each cell by itself."""
    s, n = len(values), len(values[0])
    mean = sum(map(sum, values)) / (s * n)
    rows = [sum(row) / n for row in values]
    columns = [sum(row[k] for row in values) / s for k in range(n)]
    ms_rows = n * sum((r - mean) ** 2 for r in rows) / (s - 1)
    ms_columns = s * sum((c - mean) ** 2 for c in columns) / (n - 1)
    rest = sum((values[i][k] - rows[i] - columns[k] + mean) ** 2 for i in range(s) for k in range(n))
    ms_rest = rest / ((s - 1) * (n - 1))
    total = max(ms_rows, ms_rest) + max(0.0, ms_columns - ms_rest)
    return mean, math.sqrt(total / (s * n)), total**2 / (ms_rows**2 / (s - 1))


@given(st.integers(2, 5), st.integers(3, 12), st.integers(0, 2**31))
def test_against_sums_written_out(seeds, images, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 1.0, (seeds, images)) + rng.normal(size=(seeds, 1))
    mean, error, freedom = by_hand(values.tolist())
    found = crossed_mean(values, confidence=0.9)
    assert (found.value, found.error, found.freedom) == pytest.approx((mean, error, freedom))
    assert found.ci_high - found.ci_low == pytest.approx(2 * student_t.ppf(0.95, freedom) * error)
    assert found.freedom >= seeds - 1
    assert (found.p_value < 0.1) == (not found.ci_low <= 0 <= found.ci_high)


def test_one_seed_is_the_t_test_over_images():
    values = np.random.default_rng(0).normal(0.2, 1, 40)
    found, theirs = crossed_mean(values[None]), ttest_1samp(values, 0)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(theirs.confidence_interval()))


@given(st.integers(0, 2**31))
def test_order_is_nothing_and_sign_is_sign(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 1.0, (3, 20))
    found = crossed_mean(values)
    shuffled = crossed_mean(values[rng.permutation(3)][:, rng.permutation(20)])
    assert (shuffled.value, shuffled.p_value) == pytest.approx((found.value, found.p_value))
    turned = crossed_mean(-values)
    assert (turned.value, turned.ci_low, turned.p_value) == pytest.approx((-found.value, -found.ci_high, found.p_value))


def test_what_never_varies():
    assert crossed_mean(np.zeros((3, 5))).p_value == 1.0
    found = crossed_mean(np.ones((3, 5)))
    assert (found.value, found.ci_low, found.ci_high, found.p_value) == (1.0, 1.0, 1.0, 0.0)
    # All seeds say the same of each image: what is left is the error over images.
    row = np.array([1.0, 0, 0, -1, 0, 1, 1, 0])
    assert crossed_mean(np.stack([row] * 3)).error == pytest.approx(row.std(ddof=1) / math.sqrt(8))


def test_means_that_are_equal_by_chance_are_not_certain():
    values = np.zeros((2, 100))
    values[0, :3] = values[1, 3:6] = 1.0  # each seed gains three images, others than the other's
    found = crossed_mean(values)
    assert found.value == pytest.approx(0.03)
    assert found.error == pytest.approx(math.sqrt(0.03 * 0.97 / 200), rel=0.05)


@pytest.mark.parametrize(("of_seeds", "of_images", "rest"), [(0.03, 0.2, 0.3), (0.0, 0.3, 0.1), (0.0, 0.0, 0.3)])
def test_chance_alone_is_seldom_found(of_seeds, of_images, rest):
    rng, found = np.random.default_rng(0), 0
    for _ in range(600):
        noise = of_seeds * rng.normal(size=(3, 1)) + of_images * rng.normal(size=(1, 200))
        found += crossed_mean(noise + rest * rng.normal(size=(3, 200))).p_value < 0.05
    assert 0.005 <= found / 600 <= 0.08


def test_bad_values():
    for values, message in ((np.zeros(3), "seeds and at least two images"), (np.full((2, 3), np.nan), "NaN")):
        with pytest.raises(KDScopeError, match=message):
            crossed_mean(values)
