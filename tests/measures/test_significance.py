import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdscope import KDScopeError
from kdscope.measures.significance import cohen_dz, holm, minimal_detectable_effect, sign_flip_test


@pytest.mark.parametrize("n", [3, 8, 14])
def test_exact_sign_flips_against_scipy(n):
    a, b = np.random.default_rng(n).normal(size=(2, n)) + np.array([[0.6], [0.0]])
    expected = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip_test(a - b) == pytest.approx(expected.pvalue, abs=1e-12)


def test_random_sign_flips_are_near_the_t_test():
    differences = np.random.default_rng(0).normal(size=400) + 0.1
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert sign_flip_test(differences) == pytest.approx(expected, abs=0.01)
    assert sign_flip_test(differences, seed=1) == sign_flip_test(differences, seed=1)


def test_sign_flips_keep_their_level():
    rng = np.random.default_rng(0)
    rejected = [sign_flip_test(rng.normal(size=10)) <= 0.05 for _ in range(600)]
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.025)


def test_sign_flips_at_their_edges():
    assert sign_flip_test(np.zeros(5)) == 1
    assert sign_flip_test(np.zeros(50)) == 1
    assert sign_flip_test(np.ones(200)) == 1 / 10_000
    assert sign_flip_test(np.array([1.0, np.nan, 2.0])) == sign_flip_test(np.array([1.0, 2.0]))
    assert sign_flip_test(np.full(14, 0.1)) == 2 / 2**14
    with pytest.raises(KDScopeError, match="no paired differences"):
        sign_flip_test(np.array([np.nan]))
    with pytest.raises(KDScopeError, match="one for each pair"):
        sign_flip_test(np.ones((2, 2)))


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([]).tolist() == []
    with pytest.raises(KDScopeError, match="p-values"):
        holm([0.5, 1.5])
    with pytest.raises(KDScopeError, match="p-values"):
        holm([np.nan])


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8), alpha=st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_is_the_step_down_rule(p, alpha):
    rejected = np.zeros(len(p), dtype=bool)
    for step, at in enumerate(np.argsort(p, kind="stable")):
        if p[at] * (len(p) - step) > alpha:
            break
        rejected[at] = True
    assert np.array_equal(holm(p) <= alpha, rejected)


def test_cohen_dz():
    differences = np.random.default_rng(0).normal(size=40) + 0.5
    assert cohen_dz(differences) == pytest.approx(
        stats.ttest_1samp(differences, 0).statistic / math.sqrt(40), rel=1e-12
    )
    assert cohen_dz(np.zeros(4)) == 0
    assert cohen_dz(np.full(4, -0.1)) == -math.inf
    assert math.isnan(cohen_dz(np.array([1.0])))


@pytest.mark.parametrize("n", [2, 5, 30, 10_000])
def test_the_smallest_effect_is_found_with_that_power(n):
    effect = minimal_detectable_effect(n, 2.0)
    rng = np.random.default_rng(0)
    repeats = 20_000 if n < 100 else 1000
    samples = effect + 2.0 * rng.normal(size=(repeats, n))
    statistic = samples.mean(1) / samples.std(1, ddof=1) * math.sqrt(n)
    found = np.mean(statistic > stats.t.ppf(0.975, n - 1))
    assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / repeats))


def test_the_smallest_effect_is_normal_for_large_n():
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 3 / 1000
    assert minimal_detectable_effect(10**6, 3.0) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(KDScopeError, match="at least 2"):
        minimal_detectable_effect(1, 1.0)
    with pytest.raises(KDScopeError, match="alpha"):
        minimal_detectable_effect(5, 1.0, alpha=0.9)
