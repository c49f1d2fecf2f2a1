import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from kdscope.measures import MEASURES
from kdscope.measures.kappa import cohen_kappa


@settings(max_examples=100, deadline=None)
@given(tops=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_against_sklearn(tops):
    teacher, student = np.array(tops).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = cohen_kappa_score(teacher, student)
    # Both name one and the same class only: scikit-learn has 0 / 0, and there is nothing beyond chance.
    assert cohen_kappa(teacher, student) == pytest.approx(0 if np.isnan(expected) else expected, abs=1e-12)


def test_closed_forms():
    z = np.eye(3)[np.arange(60) % 3]
    same = MEASURES["kappa"]().update(z, z).compute()
    assert (same.value, same.ci_low, same.ci_high) == (1, 1, 1)
    assert cohen_kappa(np.array([0, 1]), np.array([1, 0])) == -1
    assert cohen_kappa(np.array([3, 3]), np.array([3, 3])) == 0
    assert cohen_kappa(np.array([3, 3]), np.array([2, 2])) == 0


def test_the_bootstrap_has_the_known_error():
    """Against the asymptotic standard error of Fleiss, Cohen & Everitt, Psychological Bulletin 1969, eq. 13."""
    rng = np.random.default_rng(0)
    teacher = rng.integers(0, 4, 2000)
    student = np.where(rng.random(2000) < 0.6, teacher, rng.integers(0, 4, 2000))
    z = np.eye(4)
    result = MEASURES["kappa"]().update(z[teacher], z[student]).compute()
    table = np.zeros((4, 4))
    np.add.at(table, (teacher, student), 1 / 2000)
    row, column = table.sum(1), table.sum(0)
    kappa, chance = result.value, row @ column
    on = (np.diag(table) * (1 - (row + column) * (1 - kappa)) ** 2).sum()
    off = (1 - kappa) ** 2 * (table * (1 - np.eye(4)) * (column[:, None] + row[None, :]) ** 2).sum()
    error = np.sqrt((on + off - (kappa - chance * (1 - kappa)) ** 2) / 2000) / (1 - chance)
    assert (result.ci_high - result.ci_low) / 2 / 1.96 == pytest.approx(error, rel=0.08)


def test_many_classes_cost_nothing():
    z = np.zeros((3, 21_841), dtype=np.float32)
    z[[0, 1, 2], [21_840, 5, 5]] = 1
    assert MEASURES["kappa"]().update(z, z).estimate() == 1
