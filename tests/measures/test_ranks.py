import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from kdscope.measures import MEASURES
from kdscope.measures.pair import log_softmax
from kdscope.measures.ranks import average_ranks, nontarget_rank_correlation


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), levels=st.integers(1, 12), classes=st.integers(1, 15))
def test_ranks_against_scipy(seed, levels, classes):
    values = np.random.default_rng(seed).integers(0, levels, (20, classes)).astype(float)
    assert np.array_equal(average_ranks(values), rankdata(values, axis=1) - 1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), ties=st.booleans())
def test_correlation_against_scipy(seed, ties):
    rng = np.random.default_rng(seed)
    z_t, z_s = rng.normal(size=(2, 12, 8))
    if ties:
        z_t, z_s = np.round(z_t), np.round(z_s)
    labels = rng.integers(0, 8, 12)
    for got, t, s, y in zip(nontarget_rank_correlation(z_t, z_s, labels), z_t, z_s, labels, strict=True):
        t, s = np.delete(t, y), np.delete(s, y)
        expected = np.nan if np.ptp(t) == 0 or np.ptp(s) == 0 else spearmanr(t, s).statistic
        assert got == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_it_is_that_of_the_probabilities(case):
    p_t, p_s = np.exp(log_softmax(case.teacher)), np.exp(log_softmax(case.student))
    by_logits = nontarget_rank_correlation(case.teacher, case.student, case.labels)
    assert np.array_equal(by_logits, nontarget_rank_correlation(p_t, p_s, case.labels))


def test_the_true_class_does_not_count(case):
    sure = case.student.copy()
    sure[np.arange(case.n), case.labels] += 100
    expected = nontarget_rank_correlation(case.teacher, case.student, case.labels)
    assert np.array_equal(nontarget_rank_correlation(case.teacher, sure, case.labels), expected)


def test_images_that_rank_nothing_are_left_out_and_counted():
    teacher = np.array([[0.0, 1, 2, 3], [9.0, 0, 0, 0], [0.0, 1, 2, 3]])
    result = MEASURES["nontarget-rank-correlation"]().update(teacher, teacher[[0, 0, 0]], [0, 0, 0]).compute()
    assert (result.value, result.n, result.excluded) == (1, 2, 1)
    assert np.isnan(result.per_sample).tolist() == [False, True, False]


@pytest.mark.parametrize("classes", [1, 2])
def test_fewer_than_three_classes_rank_nothing(classes):
    z = np.random.default_rng(0).normal(size=(2, 5, classes))
    result = MEASURES["nontarget-rank-correlation"]().update(*z, [0] * 5).compute()
    assert (result.n, result.excluded) == (0, 5)
    assert np.isnan(result.value)
