import numpy as np
import pytest
from scipy.special import log_softmax as reference

from kdscope import KDScopeError
from kdscope.measures.pair import Pair, log_softmax, pairs


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_log_softmax(temperature):
    z = np.random.default_rng(0).normal(size=(50, 9)) * 30
    assert log_softmax(z, temperature) == pytest.approx(reference(z / temperature, axis=1), abs=1e-12)
    assert np.exp(log_softmax(z.astype(np.float32), temperature)).sum(axis=1) == pytest.approx(1, abs=1e-13)


def test_entropy_oracle():
    log_p = log_softmax(np.array([2.0, 0, 0]))
    assert -(np.exp(log_p) * log_p).sum() == pytest.approx(0.6655728, abs=1e-6)


def test_log_softmax_of_huge_logits_is_finite():
    assert log_softmax(np.array([[1e300, 0.0, -1e300]])).tolist() == [[0.0, -1e300, -2e300]]


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(KDScopeError, match="must be above 0"):
        log_softmax(np.zeros((1, 2)), temperature)


def test_of_equal_logits_the_first_class_is_on_top():
    pair = Pair(np.array([[1.0, 2.0, 2.0]]), np.zeros((1, 3)))
    assert (pair.teacher_top.tolist(), pair.student_top.tolist()) == ([1], [0])


def test_chunks_are_bounded_and_hold_each_image_once(monkeypatch):
    monkeypatch.setattr("kdscope.measures.pair.CHUNK", 40)
    z = np.arange(170, dtype=np.float32).reshape(17, 10)
    chunks = list(pairs(z, z + 1, np.arange(17) % 10))
    assert [len(chunk) for chunk in chunks] == [4, 4, 4, 4, 1]
    assert np.array_equal(np.concatenate([chunk.teacher for chunk in chunks]), z)
    assert np.array_equal(np.concatenate([chunk.labels for chunk in chunks]), np.arange(17) % 10)
    assert all(chunk.teacher.dtype == np.float64 for chunk in chunks)


def test_all_is_checked_before_the_first_chunk():
    z = np.zeros((5, 2))
    z[4, 1] = np.nan
    with pytest.raises(KDScopeError, match="teacher logits are NaN or infinite in 1 of 5 rows; the first is row 104"):
        next(pairs(z, np.zeros((5, 2)), first=100))


@pytest.mark.parametrize("dtype", [complex, "U1", bool])
def test_logits_must_be_numbers(dtype):
    with pytest.raises(KDScopeError, match="must be real numbers"):
        next(pairs(np.zeros((2, 2)).astype(dtype), np.zeros((2, 2))))
