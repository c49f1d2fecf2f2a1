"""One number over seeds: its value, its interval, what is not one number."""

import math

import numpy as np
import pytest

from kdscope.errors import KDScopeError
from kdscope.measures.agreement import Agreement
from kdscope.measures.result import Result
from kdscope.measures.seeds import over_seeds, two_level_interval


def results(shares, n=300):
    rng = np.random.default_rng(0)
    samples = [(rng.random(n) < share).astype(float) for share in shares]
    return [Result("agreement", s.mean(), s, n, s.mean() - 0.05, s.mean() + 0.05) for s in samples], np.stack(samples)


def test_the_interval_is_that_of_seeds_and_images():
    found, samples = results([0.9, 0.8, 0.6])
    one = over_seeds(found)
    assert one.value == pytest.approx(samples.mean())
    assert (one.ci_low, one.ci_high) == pytest.approx(two_level_interval(samples))
    assert one.per_sample is None


def test_seeds_that_differ_widen_it():
    alike, _ = results([0.8, 0.8, 0.8])
    apart, _ = results([1.0, 0.8, 0.6])
    widths = [one.ci_high - one.ci_low for one in (over_seeds(alike), over_seeds(apart))]
    assert widths[1] > 2 * widths[0]


def test_without_per_image_values_the_variances_add():
    found = [Result("kappa", value, None, 100, value - 0.03, value + 0.04) for value in (0.5, 0.6, 0.7)]
    one = over_seeds(found)
    between = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom at 0.975
    assert one.value == pytest.approx(0.6)
    assert one.ci_low == pytest.approx(0.6 - math.hypot(between, 0.03), abs=1e-6)
    assert one.ci_high == pytest.approx(0.6 + math.hypot(between, 0.04), abs=1e-6)


def test_draws_of_the_same_images_give_the_interval_of_the_mean():
    shared = np.random.default_rng(0).normal(0, 0.02, 4000)
    found = [
        Result("ap", v, None, 100, v - 9, v + 9, draws=v + sign * shared) for v, sign in ((0.5, 1), (0.7, 1), (0.6, -1))
    ]
    one = over_seeds(found)
    between = 4.302653 * 0.1 / math.sqrt(3)
    half = math.hypot(between, 1.96 * 0.02 / 3)  # of the three one goes the other way: a third is left
    assert (one.value, one.draws) == (pytest.approx(0.6), None)
    assert (one.ci_high - one.ci_low) / 2 == pytest.approx(half, rel=0.01)


def test_images_that_do_not_count_for_a_seed():
    a = Result("agreement-teacher-wrong", 1.0, np.array([1.0, np.nan, 1.0]), 2, 0, 1, excluded=1)
    b = Result("agreement-teacher-wrong", 0.0, np.array([np.nan, 0.0, 0.0]), 2, 0, 1, excluded=1)
    assert over_seeds([a, b]).value == 0.5
    none = Result("agreement-teacher-wrong", math.nan, np.full(3, np.nan), 0, math.nan, math.nan, excluded=3)
    assert over_seeds([a, none, b]).value == 0.5
    for order in ([a, none, b], [none, a, b]):
        one = over_seeds(order)
        assert (one.value, one.n, one.excluded) == (0.5, 2, 1)
        assert (one.ci_low, one.ci_high) == (over_seeds([a, b]).ci_low, over_seeds([a, b]).ci_high)
    lone = over_seeds([none, a])
    assert (lone.value, lone.n, math.isnan(lone.ci_low), math.isnan(lone.ci_high)) == (1.0, 2, True, True)
    assert math.isnan(over_seeds([none, none]).value)


def test_without_per_image_values_a_training_with_no_image_is_left_out():
    found = [Result("kappa", value, None, 100, value - 0.03, value + 0.04) for value in (0.5, 0.6)]
    none = Result("kappa", math.nan, None, 0, math.nan, math.nan)
    one = over_seeds([none, *found])
    assert (one.value, one.n) == (pytest.approx(0.55), 100)
    assert one.ci_low < one.value < one.ci_high


def test_a_weighted_definition_keeps_its_own_centre():
    z = np.eye(2)
    found = []
    for k in range(2):
        top = (np.arange(130) >= 128 - k).astype(int)
        found.append(Agreement("guo2024-code").update(z[np.zeros(130, int)], z[top]).compute())
    one = over_seeds(found)
    assert one.value == pytest.approx(np.mean([f.value for f in found]))
    assert one.ci_low <= one.value <= one.ci_high


def test_what_is_not_one_measure_is_refused():
    found, _ = results([0.9, 0.8])
    with pytest.raises(KDScopeError, match="at least 2"):
        over_seeds(found[:1])
    with pytest.raises(KDScopeError, match="different measures"):
        over_seeds([found[0], Result("kappa", 0.5, None, 10, 0, 1)])
