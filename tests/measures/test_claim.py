"""Correlations within groups: their p-values hold their level, whatever lies between the groups."""

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, ttest_1samp

from kdscope.measures.claim import average_centred, average_over_seeds, centred_p, verdict
from kdscope.measures.correlation import correlate

GROUPS = np.repeat(["a", "b"], 4)


def drawn(seed, sets=600, slope=0.0):
    """Sets of 8 points in two groups that lie far apart in x and y."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(sets, 8))
    y = slope * x + generator.normal(size=(sets, 8))
    apart = 20.0 * (GROUPS == "b")
    return x + apart, y - apart


def test_one_group_is_pearsons_own_p_value():
    x, y = drawn(0, sets=5)
    for a, b in zip(x, y, strict=True):
        found = pearsonr(a, b)
        assert centred_p(found.statistic, 8, groups=1) == pytest.approx(found.pvalue, rel=1e-9)


def test_under_the_null_one_in_twenty_is_below_five_percent_however_far_apart_the_groups():
    found = [correlate(a, b, GROUPS) for a, b in zip(*drawn(1), strict=True)]
    assert np.mean([one.p < 0.05 for one in found]) > 0.99  # pooled, all is "significant"
    p = np.array([centred_p(one.centred, one.n, one.groups) for one in found])
    assert abs(np.mean(p < 0.05) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / len(p))
    assert abs(np.mean(p < 0.5) - 0.5) < 4 * math.sqrt(0.25 / len(p))


def test_the_smallest_correlation_that_eight_trials_in_two_groups_can_show():
    assert centred_p(0.7545, 8, 2) == pytest.approx(0.05, abs=1e-4)
    assert centred_p(-0.7545, 8, 2) == pytest.approx(0.05, abs=1e-4)


def test_the_average_holds_its_level_and_finds_what_one_set_cannot():
    for slope, low, high in ((0.0, 0.01, 0.12), (1.0, 0.9, 1.0)):
        found = [correlate(a, b, GROUPS) for a, b in zip(*drawn(2, 600, slope), strict=True)]
        centred = np.array([one.centred for one in found]).reshape(-1, 3)
        p = np.array([average_centred(row, [5, 5, 5])[1] for row in centred])
        assert low <= np.mean(p < 0.05) <= high


def test_the_average_is_fishers():
    r, degrees = [0.3, -0.2], [11, 5]
    z = (10 * math.atanh(0.3) + 4 * math.atanh(-0.2)) / 14
    mean, p, low, high = average_centred(r, degrees)
    assert mean == pytest.approx(math.tanh(z))
    half = 1.9599639845 / math.sqrt(14)
    assert (low, high) == pytest.approx((math.tanh(z - half), math.tanh(z + half)))
    assert average_centred(r, degrees, 0.5)[2] > low
    assert p == pytest.approx(math.erfc(abs(z) * math.sqrt(14) / math.sqrt(2)))
    assert average_centred([0.3, -0.2, math.nan, 0.9], [11, 5, 5, 1]) == pytest.approx((mean, p, low, high))


def test_trainings_that_share_teachers_are_no_independent_observations():
    """Two teachers of two kinds each, whose effects on x and on y have nothing to do with each other: by trainings the
    two "correlate" far more often than once in twenty, by seeds they do not.
    """
    generator, shape = np.random.default_rng(3), (300, 5, 2, 2, 2)  # sets, seeds, teacher 1, teacher 2, student
    x, y = (
        sum(generator.normal(size=(*shape[:2], *own)) for own in ((2, 1, 1), (1, 2, 1), end))
        for end in ((2, 2, 1), (2, 2, 2))
    )
    groups, by_trial, by_seed = np.tile([0, 1], 20), [], []
    for a, b in zip(np.broadcast_to(x, shape), y, strict=True):
        r = correlate(a.ravel(), b.ravel(), groups).centred
        by_trial.append(average_centred([r], [37])[1])
        seeds = [correlate(c.ravel(), d.ravel(), groups[:8]).centred for c, d in zip(a, b, strict=True)]
        by_seed.append(average_over_seeds(seeds)[1])
    assert np.mean(np.array(by_trial) < 0.05) > 0.1
    assert np.mean(np.array(by_seed) < 0.05) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_the_average_over_seeds_is_students_on_fishers_scale():
    r = [0.3, -0.2, 0.6, math.nan, 0.1]
    z = np.arctanh([0.3, -0.2, 0.6, 0.1])
    test = ttest_1samp(z, 0.0)
    mean, p, low, high = average_over_seeds(r)
    assert (mean, p) == pytest.approx((math.tanh(z.mean()), test.pvalue))
    assert (low, high) == pytest.approx(np.tanh(test.confidence_interval(0.95)))
    assert all(map(math.isnan, average_over_seeds([0.5, 0.4, math.nan])))


def test_what_cannot_be_known():
    assert math.isnan(centred_p(0.5, 3, 2))
    assert math.isnan(centred_p(math.nan, 8, 2))
    assert centred_p(-1.0, 8, 2) == 0
    assert all(map(math.isnan, average_centred([0.5], [1])))
    assert verdict(1, math.nan, math.nan, 0.5) == "cannot be told"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.9, "survives"),
        (-0.1, 0.4, "does not survive"),  # one of 0.5 is excluded
        (-0.9, -0.1, "does not survive"),  # the other way round
        (-0.1, 0.6, "cannot be told"),
        (0.01, 0.2, "survives"),  # small, but there
    ],
)
def test_verdicts_of_either_sign(low, high, expected):
    assert verdict(1, low, high, 0.5) == expected
    assert verdict(-1, -high, -low, 0.5) == expected
