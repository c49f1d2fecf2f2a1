"""Correlations over runs: pooled, ranked, and within groups, with the published numbers as oracle."""

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from kdscope.measures.correlation import correlate

# Guo et al., arXiv 2405.00739, CIFAR-100: fidelity and accuracy of eight trials (student weakly, strongly augmented).
FIDELITY = [0.9523, 0.7859, 0.9411, 0.8536, 0.9387, 0.8568, 0.9048, 0.8897]
ACCURACY = [0.7952, 0.8129, 0.8103, 0.8195, 0.8015, 0.8161, 0.8107, 0.8137]
STUDENTS = ["weak", "strong"] * 4


def test_a_published_correlation_is_one_between_groups():
    found = correlate(FIDELITY, ACCURACY, STUDENTS)
    assert (round(found.r, 3), round(found.p, 3)) == (-0.688, 0.059)
    assert round(found.within, 2) == -0.18
    assert (found.n, found.groups) == (8, 2)


def test_as_scipy_has_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    found = correlate(x, y)
    assert found.r == pytest.approx(pearsonr(x, y).statistic)
    assert found.p == pytest.approx(pearsonr(x, y).pvalue)
    assert found.rho == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(found.within)


def test_too_few_constant_and_unknown():
    assert math.isnan(correlate([1, 2], [1, 2]).r)
    assert "too few" in str(correlate([1, 2], [1, 2]))
    assert math.isnan(correlate([1, 1, 1, 1], [1, 2, 3, 4]).r)
    assert correlate([1, 2, 3, math.nan], [1, 2, 3, 4]).n == 3
