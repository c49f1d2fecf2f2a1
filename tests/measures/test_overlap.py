import numpy as np
import pytest

from kdscope import KDScopeError
from kdscope.measures import MEASURES
from kdscope.measures.overlap import top_classes, top_overlap


def test_against_sets():
    z_t, z_s = np.random.default_rng(0).normal(size=(2, 100, 20))
    expected = [
        len({*np.argsort(-t)[:5]} & {*np.argsort(-s)[:5]}) / 5 for t, s in zip(z_t, z_s, strict=True)
    ]  # fmt: skip
    assert top_overlap(z_t, z_s) == pytest.approx(expected)


def test_chance_is_k_of_c():
    z_t, z_s = np.random.default_rng(1).normal(size=(2, 20_000, 20))
    assert top_overlap(z_t, z_s).mean() == pytest.approx(5 / 20, abs=0.005)


def test_ties_go_to_the_first_class():
    assert top_classes(np.zeros((1, 8)), 5).tolist() == [[True] * 5 + [False] * 3]
    assert top_classes(np.array([[0.0, -1e12, -1e12]]), 2).tolist() == [[True, True, False]]


def test_k_is_at_most_the_number_of_classes():
    z = np.random.default_rng(0).normal(size=(2, 10, 3))
    assert top_overlap(*z, k=5).tolist() == [1.0] * 10


def test_one_is_agreement(case):
    one = MEASURES["top5-overlap"](k=1).update(case.teacher, case.student).estimate()
    assert one == MEASURES["agreement"]().update(case.teacher, case.student).estimate()
    assert MEASURES["top5-overlap"](k=2).fresh().k == 2


def test_k_must_be_one_or_more():
    with pytest.raises(KDScopeError, match="at least 1"):
        MEASURES["top5-overlap"](k=0)


def test_the_given_logits_stay_as_they_were():
    z = np.array([[1.0, 2.0, 3.0]])
    top_classes(z, 2)
    assert z.tolist() == [[1.0, 2.0, 3.0]]
